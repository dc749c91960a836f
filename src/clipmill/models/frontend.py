"""How values of each modality are prepared for a network: the settings, without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..media.options import AudioFrontend, Preprocessing


class Tokenizer(Protocol):
    """Turns a text into token ids.

    Attributes:
        context_length: The most ids of one text, special tokens included.
        pad_id: The id that pads shorter rows.
    """

    context_length: int
    pad_id: int

    def __call__(self, text: str) -> tuple[np.ndarray, bool]:
        """Return (n,) int64 ids without padding, n up to the context length, and whether the text was cut."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class TextFrontend:
    """How texts are prepared for a text tower.

    Attributes:
        tokenizer: Turns a text into ids.
        fixed_length: Pad every row to the context length, for towers whose vectors depend on the padding (those that
            are not causal and do not mask it). Otherwise rows are padded to the longest of the micro-batch.
        masked: Whether the tower takes an attention mask besides the ids.
    """

    tokenizer: Tokenizer
    fixed_length: bool = False
    masked: bool = False

    def batch(self, rows: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Pad rows of ids on the right.

        Returns:
            (n, length) int64 ids and, for masked towers, a mask of the same shape, 1 for tokens.
        """
        length = self.tokenizer.context_length if self.fixed_length else max(len(row) for row in rows)
        ids = np.full((len(rows), length), self.tokenizer.pad_id, np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return (ids, mask) if self.masked else (ids,)


@dataclasses.dataclass(frozen=True, slots=True)
class Frontend:
    """How the values of every modality are prepared for one model.

    Attributes:
        dim: Values in a vector.
        image: How images are prepared; None without an image tower.
        text: How texts are prepared; None without a text tower.
        audio: How audio is prepared; None without an audio tower.
    """

    dim: int
    image: Preprocessing | None = None
    text: TextFrontend | None = None
    audio: AudioFrontend | None = None

    @property
    def modalities(self) -> frozenset[str]:
        """The modalities that can be embedded."""
        return frozenset(name for name in ("image", "text", "audio") if getattr(self, name) is not None)
