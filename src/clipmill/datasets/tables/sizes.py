"""Limits of the rows that are in memory at a time, and the memory that values take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...encoders.document import Document
from .carried import FinishedValues

BATCH_ROWS, BATCH_BYTES = 64, 64 * 2**20
"""Maximum number of rows, and of bytes, that are read or written at once."""

_NUMBER_BYTES = 32
"""Memory of a Python number and its pointer in a list."""


def held_bytes(value: Any) -> int:
    """Return the approximate bytes that a value and its nested values take in memory."""
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
    if isinstance(value, FinishedValues):
        return value.carried.nbytes + sum(map(held_bytes, value.values()))
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(map(held_bytes, inner))
