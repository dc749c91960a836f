"""Outcomes: the result of one item, and of a row of items."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from ..failures import Failure


@dataclasses.dataclass(frozen=True, slots=True)
class Vector:
    """The vector of an embedded value.

    Attributes:
        values: (dim,) float32. The owner may change it. It may be a view of its micro-batch's matrix.
        truncated: Whether the text was cut to the context length.
        media_type: The detected media type.
        modality: The modality it was embedded as. None if unknown, for a precomputed vector.
        content_hash: The SHA-256 of its content, if the session computes hashes.
    """

    values: np.ndarray
    truncated: bool = False
    media_type: str | None = None
    modality: str | None = None
    content_hash: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return int(self.values.nbytes)


Outcome = Vector | Failure | None
"""The result of one item: a vector, a failure, or None for null."""


@dataclasses.dataclass(frozen=True, slots=True)
class Labelled:
    """The labels of a classified value.

    Attributes:
        values: `label`, `clip_score` and `cosine` of its best labels, best first.
    """

    values: list[dict[str, Any]]
    truncated: bool = False
    media_type: str | None = None


Classified = Labelled | Failure | None
"""The result of classifying one item: labels, a failure, or None for null."""


class Finished(NamedTuple):
    """A finished row: the caller's token, and one outcome for each of its items."""

    token: Any
    outcomes: list[Outcome]
