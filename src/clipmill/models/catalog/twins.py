"""Repositories of Hugging Face whose weights, or near ones, the catalog has under a name of its own, for open_clip."""

from __future__ import annotations

import functools
import re

from . import tables

_SIGLIP = re.compile(
    r"google/siglip(?P<two>2?)-(?P<size>base|large|so400m|giant-opt)-patch(?P<patch>\d+)-(?P<side>\d+|naflex)"
    r"(?P<languages>-i18n|-multilingual)?"
)
_SIZES = {"base": "B", "large": "L", "so400m": "SO400M", "giant-opt": "gopt"}
_OPENAI = re.compile(r"openai/clip-vit-(?P<size>base|large)-patch(?P<patch>\d+)(?P<side>-336)?")


def twin_of(repository: str) -> str | None:
    """Return the name in the catalog of the weights of a repository; None if it has none.

    Of a model with images of any size (NaFlex), whose weights the catalog lacks, it is the model of the same size that
    was trained with images of one size.

    Args:
        repository: `organisation/name`, in any case.
    """
    name = repository.partition("@")[0].lower()
    if known := _by_repository().get(name):
        return known
    if match := _OPENAI.fullmatch(name):
        return _existing(f"ViT-{_SIZES[match['size']]}-{match['patch']}{match['side'] or ''}", "openai")
    if match := _SIGLIP.fullmatch(name):
        stem = f"ViT-{_SIZES[match['size']]}-{match['patch']}-SigLIP{match['two']}"
        stem += "-i18n" if match["languages"] else ""
        side = {"naflex": "256", "224": ""}.get(match["side"], match["side"])
        if match["two"] and match["patch"] == "14" and side == "384":
            side = "378"  # a multiple of 14, to which open_clip's published weights were trained
        return _existing(f"{stem}-{side}" if side else stem, "webli")
    return None


def twin_message(repository: str) -> str | None:
    """Return a message with the twin of a repository; None if it has none."""
    twin = twin_of(repository)
    if twin is None:
        return None
    is_other = "naflex" in repository.lower()
    return f"its twin with images of one size is {twin}" if is_other else f"the catalog has its weights as {twin}"


def is_of_transformers(repository: str) -> bool:
    """Return whether a repository with a twin is known to have files of transformers that `hf:` loads."""
    return re.match(r"openai/|google/siglip(?!.*naflex)", repository, re.IGNORECASE) is not None


@functools.cache
def _by_repository() -> dict[str, str]:
    """Return a name for each repository of open_clip's weights: its own, or else the first."""
    found: dict[str, str] = {}
    for architecture, tag in tables.pairs():
        repository = tables.weights()[architecture][tag].get("hub", "").rpartition("/")[0].lower()
        if repository and (repository not in found or repository.endswith(f"/{architecture.lower()}")):
            found[repository] = f"{architecture}::{tag}"
    return found


def _existing(architecture: str, tag: str) -> str | None:
    found = tables.find_architecture(architecture)
    return f"{found[0]}::{tag}" if found and tag in tables.weights().get(found[0], {}) else None
