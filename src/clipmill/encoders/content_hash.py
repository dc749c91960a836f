"""What content is told by: the SHA-256 of a text or of a file's bytes, and one for a row that holds several values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..failures import Failure
from ..media.audio import Waveform
from .outcome import Classified, Labelled, Outcome, Vector


def content_hash(content: Any) -> str | None:
    """Return the SHA-256 of a value's content as hex digits.

    Args:
        content: A text, of which the UTF-8 is hashed; encoded bytes as they are; an array or a `Waveform`, of which
            type, shape and values are (and the samples a second).

    Returns:
        64 hex digits, those that `sha256sum` prints of a file; None for what is none of these.
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
    except ValueError:  # samples that are no numbers: embedding them says so
        return None
    if array.dtype.hasobject:
        return None
    digest = hashlib.sha256(f"{prefix}{array.dtype.str} {array.shape} ".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()


def joined_hash(places: Sequence[str], hashes: Sequence[str | None]) -> str | None:
    """Return what tells the contents of a whole row.

    Args:
        places: Where each value stands: columns, elements of arrays, documents of a tree.
        hashes: What tells each; None for null.

    Returns:
        The one value's own, if the row has one; of several the SHA-256 of lines of place, tab and hash, sorted; None if
        all are null.
    """
    if not any(hashes):
        return None
    if len(hashes) == 1:
        return hashes[0]
    lines = sorted(f"{place}\t{told or ''}\n" for place, told in zip(places, hashes, strict=True))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def hash_of_outcomes(places: Sequence[str], outcomes: Sequence[Outcome | Classified]) -> str | None:
    """Return what tells the contents of a row that was embedded; None if any of it failed, or all of it was null.

    Args:
        places: As in `joined_hash`.
        outcomes: Of a session that hashes.
    """
    hashes: list[str | None] = []
    for outcome in outcomes:
        if isinstance(outcome, Failure | Labelled):
            return None
        hashes.append(outcome.content_hash if isinstance(outcome, Vector) else None)
    return joined_hash(places, hashes)
