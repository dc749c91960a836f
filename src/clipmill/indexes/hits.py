"""`Hits`: what a search found."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Hits(NamedTuple):
    """The nearest vectors of each query, best first.

    Attributes:
        scores: (n, k) float32 cosines, falling; NaN where there are fewer.
        positions: (n, k) int64, where the vectors stand; -1 where there are fewer.
    """

    scores: np.ndarray
    positions: np.ndarray
