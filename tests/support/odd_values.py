"""JSON with values in it that nobody expects there, for the tests of manifests and configurations."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

ODD = (None, True, -1, 2.5, 1e400, 2**70, "", "../x", "a\0b", [], [1], {}, {"x": 1}, [None])


def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """Yield the paths of a value and the values inside it: of 40 keys of a dict, and 3 positions of a list, at most."""
    yield at
    if isinstance(value, dict | list):
        for key in list(value)[:40] if isinstance(value, dict) else range(min(3, len(value))):
            yield from places(value[key], (*at, key))


def changed(value: Any, at: tuple, odd: Any) -> Any:
    """Return a copy with another value at a path."""
    if not at:
        return odd
    value = copy.deepcopy(value)
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = odd
    return value


def drawn(value: Any, draw: random.Random) -> Any:
    """Return a copy with one to three odd values, or values of other places, at drawn places."""
    for _ in range(draw.randint(1, 3)):
        there = list(places(value))
        other = draw.choice(there)
        odd = draw.choice(ODD)
        if draw.random() < 0.2:
            odd = value
            for key in other:
                odd = odd[key]
        value = changed(value, draw.choice(there[1:] or there), odd)
    return value
