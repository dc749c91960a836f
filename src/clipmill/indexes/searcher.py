"""`Searcher`: embeds queries, and finds the nearest rows of each.

It takes many queries at a time: the product of many queries with a block of vectors costs little more than that of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ..datasets.tables.column_types import as_type
from ..datasets.tables.scalars import printable_values
from ..encoders.encoder import Encoder
from ..encoders.item import Item
from ..encoders.outcome import Outcome, Vector
from ..encoders.plans.kinds import item_of_kind
from ..encoders.plans.plan import PlanResult
from ..encoders.plans.ranking import Scorer
from ..encoders.plans.row_values import Getter, MissingColumn, row_name
from ..encoders.plans.scores import score
from ..failures import Code, Failure, RowError, Stage
from ..metrics.stats import Stats
from .hits import Hits
from .search_plan import ID, POSITION, SearchPlan

_RERANKED = 256
"""Queries whose hits are reranked at a time: some 5 MB of vectors for ten hits of 512 values."""


class SearchResults(NamedTuple):
    """The results of some queries.

    Attributes:
        hits: For each query a list of structs of the plan's `hit_type`, best first; null where there is no vector.
        outcomes: For each query a vector, a failure, or None for null.
    """

    hits: pa.ListArray
    outcomes: list[Outcome]


class _Scored(NamedTuple):
    """Hits with their scores by the full vectors: (n, k) each, NaN where there are fewer."""

    hits: Hits
    cosines: np.ndarray
    clip_scores: np.ndarray


class Searcher:
    """Runs a plan, with the target open and the model loaded if there is one."""

    def __init__(self, plan: SearchPlan, encoder: Encoder | None, *, cpus: int | None = None) -> None:
        """Open the target, unless it is open in this process.

        `encoder` is None where queries are vectors. `cpus` are the cores that this worker may use, where its engine
        knows better than the operating system.

        Raises:
            SpecError: If it has fewer than `top_k` vectors, or the model has learnt no scale.
        """
        self.plan = plan
        self._encoder = encoder
        self._searchable = plan.target.open(cpus=cpus)
        self._dim = plan.target.dim
        modality = (plan.target.provenance or {}).get("modality")
        self._modality = None if modality == "auto" else modality
        self._scorer = Scorer(encoder, plan.scale) if encoder is not None and plan.rerank else None

    def item(self, get: Getter) -> Item:
        """Return the query of a row, or an item that fails if the row has no such column."""
        try:
            return item_of_kind(self.plan.query_kind, get(self.plan.query))
        except MissingColumn as err:
            error = RowError(Stage.READ, Code.MISSING_COLUMN, f"the row has no {self.plan.query!r}: {err}")
            return Item("auto", failure=error)

    def find_rows(self, rows: Sequence[tuple[Getter, Item]], stats: Stats) -> list[PlanResult]:
        """Search for the queries of rows.

        Returns:
            For each row a list of dicts in the plan's `output`, None for a null query and for one that failed, and the
            failure.
        """
        found = self.find([item for _, item in rows], stats)
        made = []
        for (get, _), hits, outcome in zip(rows, printable_values(found.hits), found.outcomes, strict=True):
            failures = []
            if isinstance(outcome, Failure):
                failures = [outcome.at(column=self.plan.query, row=row_name(get, self.plan.key))]
            made.append(PlanResult({self.plan.output: hits}, failures))
        return made

    def find(self, items: Iterable[Item], stats: Stats) -> SearchResults:
        """Search for queries."""
        embedded = _precomputed(items, stats) if self._encoder is None else self._encoder.embed_items(items, stats)
        scales: dict[int, float] = {}
        outcomes: list[Outcome] = []
        for number, before in enumerate(embedded):
            outcome = self._checked(before)
            if self._scorer is not None and isinstance(outcome, Vector):
                scale = self._scorer.scale_of(outcome, Vector(outcome.values, modality=self._modality))
                outcome = scale if isinstance(scale, Failure) else outcome
                scales[number] = scale if isinstance(scale, float) else 0.0
            if isinstance(outcome, Failure):
                stats.count_new([outcome], [before])
            outcomes.append(outcome)
        good = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Vector)]
        queries = np.empty((len(good), self._dim), np.float32)
        for place, number in zip(queries, good, strict=True):
            place[:] = outcomes[number].values  # type: ignore[union-attr]
        return SearchResults(
            self._hits(queries, good, [scales.get(number) for number in good], len(outcomes)), outcomes
        )

    def _checked(self, outcome: Outcome) -> Outcome:
        """Return an outcome, or a failure for a vector of another shape, or one that is zero or not finite."""
        if not isinstance(outcome, Vector):
            return outcome
        if outcome.values.shape != (self._dim,):
            given, there = outcome.values.shape, f"({self._dim},)"
            message = f"the vector has the shape {given}; those of the target have {there}"
            return Failure(Stage.SCORE, Code.WRONG_SHAPE, message)
        if not np.isfinite(outcome.values).all():
            return Failure(Stage.SCORE, Code.OUT_OF_RANGE, "the vector is not finite")
        if not outcome.values.any():
            return Failure(Stage.SCORE, Code.OUT_OF_RANGE, "the vector is all zeros: it has no direction")
        return outcome

    def _hits(self, queries: np.ndarray, rows: list[int], scales: list[float | None], length: int) -> pa.ListArray:
        """Search for (n, dim) float32 queries, and put the hits of each into its row of `length` rows.

        `scales` are what the cosines of each query are multiplied by; None takes the plan's.
        """
        plan = self.plan
        columns: dict[str, np.ndarray] = {}
        if not rows:
            hits = Hits(np.empty((0, plan.top_k), np.float32), np.empty((0, plan.top_k), np.int64))
            scored = _Scored(hits, hits.scores, hits.scores)
        else:
            hits = self._searchable.search(queries, plan.top_k, **plan.parameters)
            scored = self._reranked(queries, hits, scales) if plan.rerank else _Scored(hits, hits.scores, hits.scores)
        there = scored.hits.positions >= 0
        columns["score"] = scored.hits.scores[there].astype(np.float64)
        if plan.rerank:
            columns |= {"cosine": scored.cosines[there], "clip_score": scored.clip_scores[there]}
        lengths = np.zeros(length, np.int64)
        lengths[rows] = there.sum(axis=1)
        is_null = np.ones(length, bool)
        is_null[rows] = False
        return self._list_array(scored.hits.positions[there], columns, lengths, is_null)

    def _list_array(
        self, positions: np.ndarray, scores: dict[str, np.ndarray], lengths: np.ndarray, is_null: np.ndarray
    ) -> pa.ListArray:
        plan, kind = self.plan, self.plan.hit_type
        name = plan.target.name
        unique, inverse = np.unique(positions, return_inverse=True)
        wanted = list(dict.fromkeys([*([name] if name else []), *plan.extra_columns]))
        table = self._searchable.rows(unique, wanted) if wanted else None
        arrays = []
        for field in kind:
            if field.name == POSITION:
                arrays.append(pa.array(positions))
            elif field.name in scores:
                arrays.append(pa.array(scores[field.name], pa.float64()))
            elif field.name == ID and name is None:
                arrays.append(pa.nulls(len(positions), field.type))
            else:
                assert table is not None
                column = table[str(name) if field.name == ID else field.name].combine_chunks()
                arrays.append(as_type(column, field.type).take(pa.array(inverse)))
        structs = pa.StructArray.from_arrays(arrays, fields=list(kind))
        offsets = np.zeros(len(lengths) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        return pa.ListArray.from_arrays(pa.array(offsets), structs, mask=pa.array(is_null))

    def _reranked(self, queries: np.ndarray, hits: Hits, scales: list[float | None]) -> _Scored:
        """Score hits by the full vectors as `scores.score` does, and sort them by cosine, ties by position."""
        cosines, clip_scores = np.full((2, *hits.positions.shape), np.nan)
        positions, scores = hits.positions.copy(), hits.scores.copy()
        for start in range(0, len(queries), _RERANKED):
            block = hits.positions[start : start + _RERANKED]
            unique = np.unique(block[block >= 0])
            vectors = self._searchable.vectors(unique)
            for row, there in enumerate(block, start):
                found = there[there >= 0]
                scale = scales[row]
                made = score(
                    queries[row],
                    vectors[np.searchsorted(unique, found)],
                    scale=float(self.plan.scale) if scale is None else scale,
                )
                best = np.lexsort((found, -made.cosine))
                count = len(best)
                positions[row, :count], scores[row, :count] = found[best], hits.scores[row, :count][best]
                cosines[row, :count], clip_scores[row, :count] = made.cosine[best], made.clip_score[best]
        return _Scored(Hits(scores, positions), cosines, clip_scores)


def _precomputed(items: Iterable[Item], stats: Stats) -> list[Outcome]:
    """Return the vectors of items, where there is no model that would return them unchanged."""
    outcomes: list[Outcome] = []
    for item in items:
        stats.rows += 1
        outcome = item.content if item.failure is None else item.failure.failure
        stats.given += isinstance(outcome, Vector)
        stats.nulls += outcome is None
        if isinstance(outcome, Failure):
            stats.count_failure(outcome)
        outcomes.append(outcome)
    return outcomes
