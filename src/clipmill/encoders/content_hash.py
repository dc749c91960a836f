"""Content hashes: the SHA-256 of a text or of a file's bytes, and a combined one for rows with several values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..failures import Failure
from ..media.audio import Waveform
from .outcome import Classified, Labelled, Outcome, Vector


def content_hash(content: Any) -> str | None:
    """Return the SHA-256 of a value's content.

    Args:
        content: A text (its UTF-8 is hashed), encoded bytes (hashed unchanged), or an array or `Waveform` (dtype,
            shape and values are hashed, and the sample rate).

    Returns:
        64 hex digits, for bytes the same as `sha256sum` prints for a file. None for all other types.
    """
    if isinstance(content, str):
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    if isinstance(content, Waveform):
        return _hash_of_array(content.samples, f"sound {content.sample_rate} ")
    return _hash_of_array(content) if isinstance(content, np.ndarray) else None


def _hash_of_array(values: Any, prefix: str = "") -> str | None:
    try:
        array = np.ascontiguousarray(values)
    except ValueError:  # samples that are not numbers: they fail when they are embedded
        return None
    if array.dtype.hasobject:
        return None
    digest = hashlib.sha256(f"{prefix}{array.dtype.str} {array.shape} ".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()


def joined_hash(places: Sequence[str], hashes: Sequence[str | None]) -> str | None:
    """Return the content hash of a whole row.

    Args:
        places: The place of each value: a column, an element of an array, or a document of a tree.
        hashes: The content hash of each value; None for null.

    Returns:
        For a row with one value, its hash. For several, the SHA-256 of the sorted lines of place, tab and hash. None
        if all values are null.
    """
    if not any(hashes):
        return None
    if len(hashes) == 1:
        return hashes[0]
    lines = sorted(f"{place}\t{digest or ''}\n" for place, digest in zip(places, hashes, strict=True))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def hash_of_outcomes(places: Sequence[str], outcomes: Sequence[Outcome | Classified]) -> str | None:
    """Return the content hash of an embedded row; None if any of its values failed, or all are null.

    For `places` see `joined_hash`. The outcomes are from a session with `hashed=True`.
    """
    hashes: list[str | None] = []
    for outcome in outcomes:
        if isinstance(outcome, Failure | Labelled):
            return None
        hashes.append(outcome.content_hash if isinstance(outcome, Vector) else None)
    return joined_hash(places, hashes)
