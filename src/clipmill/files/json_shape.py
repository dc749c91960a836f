"""Checks parsed JSON against a shape, because manifests and locks may be crafted or damaged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_INTEGERS = 2**63
"""Larger integers, which neither Arrow nor a float holds, are never written."""


def fits(value: Any, shape: Any) -> bool:
    """Return whether a JSON value has a shape.

    Args:
        value: What `json.loads` returned.
        shape: A type (`float` is any finite number, `int` one of 64 bits and no bool); a tuple of alternatives, with
            `None` for null; `[shape]` for a list; `{str: shape}` for an object with any names; `{"name": shape,
            "other?": shape}` for an object with these fields, of which those with a question mark may be absent, and
            any others; or a function that returns whether a value is valid.
    """
    if shape is None:
        return value is None
    if isinstance(shape, tuple):
        return any(fits(value, one) for one in shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(one, shape[0]) for one in value)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        if str in shape:
            return all(fits(one, shape[str]) for one in value.values())
        return all(_has(value, name, inner) for name, inner in shape.items())
    if shape is float:
        return fits(value, int) or (isinstance(value, float) and math.isfinite(value))
    if shape is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _INTEGERS
    return isinstance(value, shape) if isinstance(shape, type) else bool(shape(value))


def mismatches(value: Any, shape: Mapping[str, Any]) -> list[str]:
    """Return the names of the fields of an object that do not have their shape; all of them if it is no object."""
    return [name.removesuffix("?") for name, inner in shape.items() if not fits(value, {name: inner})]


def _has(value: dict[str, Any], name: str, shape: Any) -> bool:
    bare = name.removesuffix("?")
    return fits(value[bare], shape) if bare in value else name.endswith("?")


def is_inside(name: Any) -> bool:
    """Return whether a value is the name of a file in a folder, or below it, and cannot lead outside of it."""
    if not isinstance(name, str) or not name or "\0" in name or name.startswith("/"):
        return False
    return {".", ".."}.isdisjoint(name.split("/"))
