"""Cosines and clip_scores of vectors: plain functions whose results don't depend on the block size.

    cosine = q·c / (|q| |c|)
    clip_score = softmax(scale · cosine), over the candidates of one query
    clip_score = sigmoid(scale · cosine + bias) with `score="sigmoid"`, of each candidate for itself

By default the scale is 100 for every model, as in clip-as-service (whose constant is exp(4.60517)). The learnt scales
of OpenAI's weights and most of open_clip's are about the same. The formula applies in both directions, image to texts
and text to images.

Unit vectors are rounded to 26 binary places. Their products then have 52, and float64 sums them without rounding, in
any order. Equal vectors therefore have equal cosines at any position in any block, and ties are exact. The rounding
changes a cosine by about 1e-8. Cosines are rounded to the precision of float32, which is no finer.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from ...errors import SpecError
from ...messages import setting

SCALE = 100.0
"""The default factor for cosines before the softmax."""

Scale = float | Literal["model"]
"""A number, or `model` for the scale that the model has learnt for the pair of modalities."""

Score = Literal["softmax", "sigmoid"]
"""What clip_scores of candidates and labels are: shares of all that are compared, or a probability of each alone."""

PairScore = Literal["cosine", "clip_score", "logit", "sigmoid"]
"""The scores of a pair. `clip_score` is that of the CLIPScore metric, which is not that of rankings."""

ABSOLUTE = frozenset({"logit", "sigmoid"})
"""Scores with the scale and the bias that the model learnt, which no option replaces."""

CLIP_SCORE_WEIGHT = 2.5
"""The w of CLIPScore, w · max(cosine, 0), by Hessel et al. 2021 (arXiv:2104.08718), section 3."""

_RANGES: dict[str, tuple[float, float]] = {
    "cosine": (-1.0, 1.0),
    "clip_score": (0.0, CLIP_SCORE_WEIGHT),
    "logit": (-math.inf, math.inf),
    "sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
}
"""The least and the greatest value of each score."""

_BLOCK = 1024
_STEPS = 2.0**26
"""Rounding steps per 1: the most for which float64 holds sums of products of unit vectors, up to 2**52, exactly."""


class Scores(NamedTuple):
    """The scores of candidates for queries.

    Attributes:
        cosine: (n, m) float64 in [-1, 1]; NaN if a vector is not finite.
        clip_score: (n, m) float64; each row sums to 1, not counting NaN.
    """

    cosine: np.ndarray
    clip_score: np.ndarray


def score(queries: Any, candidates: Any, *, scale: float = SCALE, block_rows: int = _BLOCK) -> Scores:
    """Score every candidate for every query.

    A vector of zeros has cosine 0 to every vector. A vector with NaN or infinity gets NaN as its cosines and
    clip_scores, and is left out of the softmax. A single candidate has clip_score 1. Without candidates, both results
    have the shape (n, 0). Equal candidates have equal scores; see `order` for the order of ties.

    >>> import numpy as np
    >>> from clipmill.encoders import score
    >>> scores = score(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> scores.cosine.tolist()
    [[1.0, 0.0]]

    Args:
        queries: (n, dim) or (dim,) numbers, normalised or not.
        candidates: (m, dim) numbers; (0, dim) or [] if there are none.
        scale: Factor for cosines before the softmax.
        block_rows: Rows per matrix product. It limits the memory needed beside the results, and does not change them.

    Returns:
        Cosines and clip_scores, both (n, m), or (m,) for a single query.

    Raises:
        ValueError: If the shapes don't match, or `block_rows` is below 1.
        SpecError: If the scale is not a finite number above 0.
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
    """Return the (n, m) float64 cosines of unit vectors, (n, dim) and (m, dim) float64 from `unit_rows`."""
    with np.errstate(invalid="ignore"):
        return _rounded(queries @ candidates.T)


def pair_cosines(left: Any, right: Any) -> np.ndarray:
    """Return the (n,) float64 cosine of each pair of (n, dim) rows, equal to the last bit to that of `score`."""
    with np.errstate(invalid="ignore"):
        return _rounded(np.einsum("nd,nd->n", unit_rows(left), unit_rows(right)))


def softmax(logits: Any) -> np.ndarray:
    """Return the float64 softmax along the last axis. Values that are not finite become NaN and are not summed."""
    logits = np.asarray(logits, np.float64)
    if logits.size == 0:
        return logits
    finite = np.isfinite(logits)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        highest = np.max(logits, axis=-1, keepdims=True, where=finite, initial=-np.inf)
        powers = np.where(finite, np.exp(logits - highest), np.nan)
        return powers / np.nansum(powers, axis=-1, keepdims=True)


def sigmoid(logits: Any) -> np.ndarray:
    """Return the float64 sigmoid, 1 / (1 + exp(-logit)), exact to the last digits for any logit; NaN stays NaN."""
    with np.errstate(invalid="ignore", under="ignore"):
        return np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64)))


def order(values: Any) -> np.ndarray:
    """Return the int64 positions of (m,) values in descending order. Ties keep their order, and NaN comes last."""
    return np.argsort(-np.asarray(values, np.float64), kind="stable")  # argsort puts NaN last


def round_to_steps(values: np.ndarray) -> np.ndarray:
    """Round float64 values of unit vectors to multiples of 2**-26: see the module's docstring."""
    rounded: np.ndarray = np.rint(values * _STEPS) / _STEPS
    return rounded


def unit_rows(vectors: Any) -> np.ndarray:
    """Scale rows to length 1 as `scaled_rows` does, and round them: see the module's docstring.

    Args:
        vectors: (n, dim) numbers.

    Returns:
        (n, dim) float64, multiples of 2**-26.
    """
    return round_to_steps(scaled_rows(vectors))


def scaled_rows(vectors: Any) -> np.ndarray:
    """Scale rows to length 1 in float64, whatever their length.

    Rows of zeros stay zero. A row with any value that is not finite becomes all NaN.

    Args:
        vectors: (n, dim) numbers.

    Returns:
        (n, dim) float64.
    """
    rows = np.ascontiguousarray(vectors, np.float64)  # numpy's order of summation depends on the memory layout
    largest = np.max(np.abs(rows), axis=1, keepdims=True, initial=0)
    with np.errstate(invalid="ignore"):
        # divide by the largest value first: the square of 1e200 overflows float64, and that of 1e-200 is 0
        rows = rows / np.where(largest == 0, 1, largest)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.where(np.isfinite(largest), rows / np.where(lengths == 0, 1, lengths), np.nan)


def check_scale(scale: Any) -> None:
    """Raise `SpecError` if a scale is not a finite number above 0."""
    if isinstance(scale, bool) or not isinstance(scale, int | float | np.number) or not 0 < scale < math.inf:
        raise SpecError(setting("scale", scale) + " is neither a finite number above 0 nor 'model'")


def range_of(score: Score | PairScore) -> tuple[float, float]:
    """Return the least and the greatest value of a score; infinite for logits."""
    return _RANGES[score]


def finite_number(value: Any) -> float | None:
    """Return a number of any type, also of numpy, as a float; None for anything else and for what no float holds."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:  # of an integer or a fraction
        return None
    return number if math.isfinite(number) else None


def checked_min_score(min_score: Any, score: str) -> float | None:
    """Return the least score to keep as a float; raise `SpecError` if it is neither None nor such a score."""
    if min_score is None:
        return None
    low, high = _RANGES[score]
    number = finite_number(min_score)
    if number is None or not low <= number <= high:
        allowed = "a finite number" if math.isinf(high) else f"a number from {low:g} to {high:g}"
        raise SpecError(
            setting("min_score", min_score) + f" is not {allowed}, as the score {score!r} has them",
            hint="leave it out to keep all",
        )
    return number


def _rounded(cosine: np.ndarray) -> np.ndarray:
    return np.clip(cosine.astype(np.float32).astype(np.float64), -1.0, 1.0)


def _blocks(length: int, rows: int) -> Iterator[slice]:
    return (slice(first, first + rows) for first in range(0, length, rows))
