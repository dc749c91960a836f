"""`Hits`: the results of a search."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Hits(NamedTuple):
    """The nearest vectors of each query, best first.

    Attributes:
        scores: (n, k) float32 cosines, falling; NaN where there are fewer than k.
        positions: (n, k) int64, positions of the vectors; -1 where there are fewer than k.
    """

    scores: np.ndarray
    positions: np.ndarray
