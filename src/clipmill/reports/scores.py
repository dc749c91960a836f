"""Scores of ranked and of classified rows, counted as they are read."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..encoders.plans.rank_plan import CLIP_SCORE, COSINE
from .columns import ScoreColumn
from .histograms import Counted, Histogram

_LABELS_SHOWN = 20
_MOST_LABELS = 100_000


@dataclasses.dataclass(frozen=True, slots=True)
class ColumnScores:
    """The content of a column of scores.

    Attributes:
        rows: Rows with at least one score.
        values: Scores in all.
        missing: Candidates without scores: those that failed.
        best: Of each row the highest cosine; None for rows of one score each.
        labels: How often each label was the best, most frequent first; none where there are no labels.
        other_labels: Rows whose best label is none of these.
    """

    column: ScoreColumn
    rows: int
    values: int
    missing: int
    cosines: Histogram
    clip_scores: Histogram
    best: Histogram | None
    labels: list[tuple[str, int]]
    other_labels: int


def scores_of(column: ScoreColumn, batches: Iterable[pa.RecordBatch]) -> ColumnScores:
    """Count the scores of a dataset; flat rows have `cosine` and `clip_score`."""
    cosines, clip_scores, best = Counted(-1.0, 1.0), Counted(0.0, 1.0), Counted(-1.0, 1.0)
    labels: collections.Counter[str] = collections.Counter()
    rows = values = missing = 0
    for batch in batches:
        if column.name not in batch.schema.names:
            continue
        parts = _flat(batch, column)
        cosine = parts[COSINE]
        there = ~np.isnan(cosine)
        cosines.add(cosine)
        clip_scores.add(parts[CLIP_SCORE])
        values += int(there.sum())
        missing += int((~there).sum())
        owners, firsts = np.unique(parts["owner"][there], return_index=True)
        rows += len(owners)
        if column.is_list and len(owners):
            best.add(np.maximum.reduceat(cosine[there], firsts))
        if column.labels:
            texts = parts["label"]
            numbers = np.flatnonzero(there)[firsts]
            for number in numbers.tolist():
                if texts[number] in labels or len(labels) < _MOST_LABELS:
                    labels[str(texts[number])] += 1
    shown = labels.most_common(_LABELS_SHOWN)
    return ColumnScores(
        column,
        rows,
        values,
        missing,
        cosines.shown(),
        clip_scores.shown(),
        best.shown() if column.is_list else None,
        shown,
        rows - sum(count for _, count in shown) if column.labels else 0,
    )


def _flat(batch: pa.RecordBatch, column: ScoreColumn) -> dict[str, Any]:
    """Return one batch's scores flat, null ones as NaN, each with the number of its row."""
    if not column.is_list:
        flat = {name: _floats(batch.column(name)) for name in (COSINE, CLIP_SCORE)}
        return {**flat, "owner": np.arange(batch.num_rows)}
    lists = batch.column(column.name)
    inner, owner = lists.flatten(), pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    names = [field.name for field in inner.type]
    scores = inner.field("scores") if "scores" in names else inner
    if "scores" in names:  # of matches, which are null where one failed
        scores = pc.if_else(inner.is_valid(), scores, None)
    found: dict[str, Any] = {name: _floats(pc.struct_field(scores, name)) for name in (COSINE, CLIP_SCORE)}
    if column.labels:
        found["label"] = inner.field("label").to_pylist()
    return {**found, "owner": owner}


def _floats(array: pa.Array) -> np.ndarray:
    return array.cast(pa.float64()).to_numpy(zero_copy_only=False)
