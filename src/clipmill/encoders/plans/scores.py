"""Cosines and clip_scores of vectors: plain functions, exact for any block size.

    cosine = q·c / (|q| |c|)
    clip_score = softmax(scale · cosine), over the candidates of one query

The scale is 100, as in clip-as-service (whose constant is exp(4.60517)), whatever the model; OpenAI's and most of
open_clip's weights have learnt about the same. Both directions, image to texts and text to images, are this formula.

Vectors of length 1 are rounded to 26 bits behind the point. Their products then have 52, and float64 adds them up
without rounding, in any order: so equal vectors have equal cosines wherever they stand in whatever block, and ties are
ties. The rounding moves a cosine by some 1e-8; cosines are rounded to float32's precision, which is no finer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from ...errors import SpecError
from ...messages import setting

SCALE = 100.0
"""What cosines are multiplied by before the softmax, unless another scale is asked for."""

Scale = float | Literal["model"]
"""A number, or `model`: what the model learnt for the pair of modalities."""

_BLOCK = 1024
_STEPS = 2.0**26
"""To the 1 of unit vectors: the most whose products' sums, up to 2**52, float64 holds exactly."""


class Scores(NamedTuple):
    """How candidates fit queries.

    Attributes:
        cosine: (n, m) float64 in [-1, 1]; NaN where a vector is not finite.
        clip_score: (n, m) float64; each row sums to 1 over what is not NaN.
    """

    cosine: np.ndarray
    clip_score: np.ndarray


def score(queries: Any, candidates: Any, *, scale: float = SCALE, block_rows: int = _BLOCK) -> Scores:
    """Score every candidate for every query.

    A vector of zeros has the cosine 0 to everything. One with a NaN or an infinity has NaN as its cosines and
    clip_scores, and its place in the softmax is left out. One candidate has the clip_score 1; without candidates both
    results have the shape (n, 0). Equal candidates have equal scores: see `order` for their places.

    >>> import numpy as np
    >>> from clipmill.encoders import score
    >>> scores = score(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> scores.cosine.tolist()
    [[1.0, 0.0]]

    Args:
        queries: (n, dim) or (dim,) numbers, normalised or not.
        candidates: (m, dim) numbers; (0, dim) or [] for none.
        scale: What cosines are multiplied by before the softmax.
        block_rows: Rows of a matrix product, for bounding memory beside the results; it changes no result.

    Returns:
        Cosines and clip_scores, (n, m); (m,) for a single query.

    Raises:
        ValueError: If shapes do not fit, or `block_rows` is below 1.
        SpecError: If the scale is no finite number above 0.
    """
    check_scale(scale)
    if block_rows < 1:
        raise ValueError(f"block_rows={block_rows!r} is not at least 1")
    left, right = np.asarray(queries), np.asarray(candidates)
    if right.shape == (0,) and left.ndim:
        right = np.empty((0, left.shape[-1]))
    if left.ndim not in (1, 2) or right.ndim != 2 or left.shape[-1] != right.shape[1]:
        raise ValueError(
            f"queries {left.shape} and candidates {right.shape} do not fit: (n, dim) or (dim,), and (m, dim)"
        )
    cosine = np.empty((1 if left.ndim == 1 else len(left), len(right)))
    for rows in _blocks(len(cosine), block_rows):
        some = unit_rows(left[None] if left.ndim == 1 else left[rows])
        for columns in _blocks(len(right), block_rows):
            cosine[rows, columns] = unit_cosines(some, unit_rows(right[columns]))
    clip_score = softmax(scale * cosine)
    return Scores(cosine[0], clip_score[0]) if left.ndim == 1 else Scores(cosine, clip_score)


def unit_cosines(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return the cosines of vectors that `unit_rows` made.

    Args:
        queries: (n, dim) float64.
        candidates: (m, dim) float64.

    Returns:
        (n, m) float64.
    """
    with np.errstate(invalid="ignore"):
        return _rounded(queries @ candidates.T)


def pair_cosines(left: Any, right: Any) -> np.ndarray:
    """Return the cosine of each pair of rows, as `score` would.

    Args:
        left: (n, dim) numbers.
        right: (n, dim) numbers.

    Returns:
        (n,) float64.
    """
    with np.errstate(invalid="ignore"):
        return _rounded(np.einsum("nd,nd->n", unit_rows(left), unit_rows(right)))


def softmax(logits: Any) -> np.ndarray:
    """Return exp(logits) along the last axis, scaled to the sum 1; what is not finite gives NaN and takes no part.

    Args:
        logits: (..., m) numbers.

    Returns:
        (..., m) float64.
    """
    logits = np.asarray(logits, np.float64)
    if logits.size == 0:
        return logits
    finite = np.isfinite(logits)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        highest = np.max(logits, axis=-1, keepdims=True, where=finite, initial=-np.inf)
        powers = np.where(finite, np.exp(logits - highest), np.nan)
        return powers / np.nansum(powers, axis=-1, keepdims=True)


def order(values: Any) -> np.ndarray:
    """Return positions from the highest value to the lowest: ties in their order, NaN last.

    Args:
        values: (m,) numbers.

    Returns:
        (m,) int64.
    """
    return np.argsort(-np.asarray(values, np.float64), kind="stable")  # argsort puts NaN last


def unit_rows(vectors: Any) -> np.ndarray:
    """Scale rows to length 1 in float64; zeros stay, and a row of which anything is not finite becomes NaN throughout.

    Args:
        vectors: (n, dim) numbers.

    Returns:
        (n, dim) float64, multiples of 2**-26: see the module.
    """
    rows = np.ascontiguousarray(vectors, np.float64)  # numpy adds up in another order where rows are apart
    largest = np.max(np.abs(rows), axis=1, keepdims=True, initial=0)
    with np.errstate(invalid="ignore"):
        # by the largest first: the square of 1e200 is too large for float64, and that of 1e-200 is 0
        rows = rows / np.where(largest == 0, 1, largest)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        units = np.rint(rows / np.where(lengths == 0, 1, lengths) * _STEPS) / _STEPS
        return np.where(np.isfinite(largest), units, np.nan)


def check_scale(scale: Any) -> None:
    """Refuse a scale that is none.

    Raises:
        SpecError: If it is no finite number above 0.
    """
    if isinstance(scale, bool) or not isinstance(scale, int | float | np.number) or not 0 < scale < math.inf:
        raise SpecError(setting("scale", scale) + " is neither a finite number above 0 nor 'model'")


def _rounded(cosine: np.ndarray) -> np.ndarray:
    return np.clip(cosine.astype(np.float32).astype(np.float64), -1.0, 1.0)


def _blocks(length: int, rows: int) -> Iterator[slice]:
    return (slice(first, first + rows) for first in range(0, length, rows))
