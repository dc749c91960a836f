"""The architectures and weights of open_clip as a table of our own: readable without torch."""

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
"""Licences that the publishers of the weights state, by a part of the tag; other tags: not known here."""


@functools.cache
def _table() -> dict[str, Any]:
    text = (resources.files(__package__) / "open_clip.json").read_text(encoding="utf-8")
    return json.loads(text)


def architectures() -> dict[str, dict[str, Any]]:
    """Return the facts of every open_clip architecture, by its own name."""
    return _table()["architectures"]


def weights() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the facts of every published (architecture, tag)."""
    return _table()["weights"]


def pairs() -> list[tuple[str, str]]:
    """Return every (architecture, tag) in the table's order."""
    return [(name, tag) for name, tags in weights().items() for tag in tags]


def simplify(name: str) -> str:
    """Reduce a name to what counts in a comparison: no case, `/` and `_` as `-`, `@336px` as `-336`."""
    return re.sub(r"@(\d+)px$", r"-\1", name.strip().lower()).replace("/", "-").replace("_", "-")


@functools.cache
def _simple_architectures() -> dict[str, str]:
    return {simplify(name): name for name in architectures()}


def find_architecture(name: str) -> tuple[str, bool] | None:
    """Return (the architecture's own name, whether `-quickgelu` was asked for), or None for a stranger."""
    simple = simplify(name)
    if simple in _simple_architectures():
        return _simple_architectures()[simple], False
    base = _simple_architectures().get(simple.removesuffix(QUICKGELU))
    return (base, True) if base else None


def find_tag(architecture: str, tag: str) -> str | None:
    """Return the tag's own spelling, or None."""
    simple = {simplify(known): known for known in weights().get(architecture, {})}
    return simple.get(simplify(tag))


def licence_of(architecture: str, tag: str) -> str | None:
    """Return the licence of published weights where it is known.

    A tag names the training pictures; what it says of the licence holds for LAION's and timm's repositories alone.
    """
    publisher = weights()[architecture][tag].get("hub", "").partition("/")[0]
    if publisher not in ("laion", "timm", ""):
        return None
    return next((licence for part, licence in _LICENCES if re.search(part, tag)), None)
