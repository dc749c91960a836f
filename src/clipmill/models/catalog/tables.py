"""The architectures and weights of open_clip, from a table in the package, without torch."""

from __future__ import annotations

import functools
import json
import re
from importlib import resources
from typing import Any

QUICKGELU = "-quickgelu"

_LICENCES = (
    (r"openai", "MIT"),
    (r"laion|datacomp|commonpool", "MIT"),
    (r"metaclip", "CC-BY-NC-4.0"),
    (r"webli", "Apache-2.0"),
)
"""Licences stated by the publishers of the weights, by a part of the tag; for other tags they are unknown."""


@functools.cache
def _table() -> dict[str, Any]:
    text = (resources.files(__package__) / "open_clip.json").read_text(encoding="utf-8")
    return json.loads(text)


def architectures() -> dict[str, dict[str, Any]]:
    """Return the facts of every open_clip architecture, by its name."""
    return _table()["architectures"]


def weights() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the facts of every published (architecture, tag)."""
    return _table()["weights"]


def pairs() -> list[tuple[str, str]]:
    """Return every (architecture, tag) in the table's order."""
    return [(name, tag) for name, tags in weights().items() for tag in tags]


def simplify(name: str) -> str:
    """Return the form of a name for comparisons: lower case, `/` and `_` as `-`, `@336px` as `-336`."""
    return re.sub(r"@(\d+)px$", r"-\1", name.strip().lower()).replace("/", "-").replace("_", "-")


@functools.cache
def _simple_architectures() -> dict[str, str]:
    return {simplify(name): name for name in architectures()}


def find_architecture(name: str) -> tuple[str, bool] | None:
    """Return (the architecture's name in open_clip, whether it had the suffix `-quickgelu`), or None if unknown."""
    simple = simplify(name)
    if simple in _simple_architectures():
        return _simple_architectures()[simple], False
    base = _simple_architectures().get(simple.removesuffix(QUICKGELU))
    return (base, True) if base else None


def find_tag(architecture: str, tag: str) -> str | None:
    """Return the tag in open_clip's spelling, or None if unknown."""
    simple = {simplify(known): known for known in weights().get(architecture, {})}
    return simple.get(simplify(tag))


def licence_of(architecture: str, tag: str) -> str | None:
    """Return the licence of published weights; None if unknown.

    A tag names the training images; only for LAION's and timm's repositories does the licence follow from it.
    """
    publisher = weights()[architecture][tag].get("hub", "").partition("/")[0]
    if publisher not in ("laion", "timm", ""):
        return None
    return next((licence for part, licence in _LICENCES if re.search(part, tag)), None)
