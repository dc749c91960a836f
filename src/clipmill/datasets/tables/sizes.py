"""How much of a dataset is held at a time: rows, and the bytes that they hold in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...encoders.document import Document

BATCH_ROWS, BATCH_BYTES = 64, 64 * 2**20
"""Rows that are read or written at once, fewer where they hold more than that."""

_NUMBER_BYTES = 32
"""A Python number with its place in a list."""


def held_bytes(value: Any) -> int:
    """Return the bytes that a value holds in memory: strings, files, arrays, numbers, and what is inside of it."""
    if isinstance(value, bytes | bytearray | str):
        return len(value)
    if isinstance(value, memoryview):
        return value.nbytes
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, int | float):
        return _NUMBER_BYTES
    if isinstance(value, Document):
        own = (value.text, value.uri, value.blob, value.tensor, value.embedding, value.tags)
        return sum(map(held_bytes, (*own, *value.matches, *value.chunks)))
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(map(held_bytes, inner))
