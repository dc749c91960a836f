"""Scores of pairs, those of rejected rows among them, counted as they are read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..datasets.tables.provenance import read_provenance
from ..encoders.plans.scores import PairScore, range_of
from . import words
from .histograms import Counted, Histogram


@dataclasses.dataclass(frozen=True, slots=True)
class PairColumn:
    """A column of scores of pairs.

    Attributes:
        score: What they are: `cosine`, `clip_score`, `logit` or `sigmoid`.
        min_score: The least score of a row that was kept; None if all were.
        pair: The two columns that were compared.
    """

    name: str
    score: PairScore
    min_score: float | None
    pair: tuple[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class PairScores:
    """The content of a column of scores of pairs.

    Attributes:
        kept: Scores of rows that were kept.
        below: Scores of rows that were rejected, since they are below the least score.
        missing: Rows without a score, which were rejected if there is a least score.
        scores: All of them.
    """

    column: PairColumn
    kept: int
    below: int
    missing: int
    scores: Histogram

    def counted(self) -> str:
        """Return how many rows were kept, and why the others were rejected or have no score."""
        missing = f"{words.count(self.missing)} without a score"
        if self.column.min_score is not None:
            reasons = f"{words.count(self.below)} below the least score, {missing}"
            return f"{words.many(self.kept, 'row')} kept, {words.count(self.below + self.missing)} rejected: {reasons}"
        return words.many(self.kept, "row") + " with a score" + (f", {missing}" if self.missing else "")


def pair_columns(schema: pa.Schema) -> list[PairColumn]:
    """Find the columns of scores of pairs, by their provenance, which may be crafted: what is no score is left out."""
    found = []
    for name, provenance in read_provenance(schema).items():
        scoring = provenance.get("scores")
        if not isinstance(scoring, Mapping) or scoring.get("score") not in get_args(PairScore):
            continue
        pair, least = (scoring.get("a"), scoring.get("b")), scoring.get("min_score")
        is_pair = all(isinstance(one, str) for one in pair)
        if is_pair and name in schema.names and pa.types.is_floating(schema.field(name).type):
            is_number = isinstance(least, int | float) and not isinstance(least, bool) and math.isfinite(least)
            found.append(PairColumn(name, scoring["score"], least if is_number else None, (str(pair[0]), str(pair[1]))))
    return found


def pair_scores_of(
    column: PairColumn,
    kept: Callable[[], Iterable[pa.RecordBatch]],
    rejected: Callable[[], Iterable[pa.RecordBatch]],
) -> PairScores:
    """Count the scores of a dataset; the two functions begin to read its rows, and may be called twice."""
    low, high = range_of(column.score)
    if not math.isfinite(low):
        low, high = _extent(column, [kept, rejected])
    counted, numbers, missing = Counted(low, high), [0, 0], 0
    for place, read in enumerate((kept, rejected)):
        for scores in _scores(column, read()):
            counted.add(scores)
            nulls = int(np.isnan(scores).sum())
            numbers[place] += len(scores) - nulls
            missing += nulls
    return PairScores(column, numbers[0], numbers[1], missing, counted.shown())


def _extent(column: PairColumn, reads: Iterable[Callable[[], Iterable[pa.RecordBatch]]]) -> tuple[float, float]:
    """Return the least and the greatest score, a little apart."""
    low, high = math.inf, -math.inf
    for read in reads:
        for scores in _scores(column, read()):
            finite = scores[np.isfinite(scores)]
            low, high = min(low, finite.min(initial=math.inf)), max(high, finite.max(initial=-math.inf))
    return (low, max(high, low + 1e-6)) if low <= high else (0.0, 1.0)


def _scores(column: PairColumn, batches: Iterable[pa.RecordBatch]) -> Iterator[np.ndarray]:
    """Yield the scores of each batch, (rows,) float64; null ones are NaN."""
    for batch in batches:
        if column.name in batch.schema.names:
            array: Any = pc.cast(batch.column(column.name), pa.float64())
            yield array.to_numpy(zero_copy_only=False)
