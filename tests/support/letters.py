"""A tokenizer computable in the head."""

from __future__ import annotations

import numpy as np


class Letters:
    """As many tokens as a text has letters."""

    context_length, pad_id = 77, 0

    def __call__(self, text: str) -> tuple[np.ndarray, bool]:
        return np.arange(1, len(text) + 1), False
