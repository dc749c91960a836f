"""What becomes of one item, and of a row of them."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from ..failures import Failure


@dataclasses.dataclass(frozen=True, slots=True)
class Vector:
    """A value that was embedded.

    Attributes:
        values: (dim,) float32, its owner's to change; it may be a view into its micro-batch's matrix.
        truncated: Whether the text was cut to the context length.
        media_type: What the content turned out to be.
        modality: What it was embedded as; None where that is not known, of a vector that was there already.
        content_hash: What its content is told by, where the session was to say so.
    """

    values: np.ndarray
    truncated: bool = False
    media_type: str | None = None
    modality: str | None = None
    content_hash: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return int(self.values.nbytes)


Outcome = Vector | Failure | None
"""What became of one item: a vector, a failure, or None for null."""


@dataclasses.dataclass(frozen=True, slots=True)
class Labelled:
    """A value that was classified.

    Attributes:
        values: Of each of its best labels `label`, `clip_score` and `cosine`, best first.
        truncated: Whether the text was cut to the context length.
        media_type: What the content turned out to be.
    """

    values: list[dict[str, Any]]
    truncated: bool = False
    media_type: str | None = None


Classified = Labelled | Failure | None
"""What became of one item that was to be classified."""


class Finished(NamedTuple):
    """A row that is done: the caller's own token, and one outcome for each of its items."""

    token: Any
    outcomes: list[Outcome]
