"""Ranking of flat rows: each has a query and one candidate, and is scored within its group."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from ...errors import SpecError
from ...failures import Failure
from ...messages import setting
from ...models.spec import EncoderSpec
from ..item import Item
from ..outcome import Outcome, Vector
from .kinds import Kind, check_names, item_of_kind
from .plan import NewColumn, PlanResult
from .rank_plan import CLIP_SCORE, COSINE, RANK, RowRanking
from .ranking import Scorer
from .row_values import Getter, missing_column, row_name
from .scores import SCALE, Scale

LOGIT = "logit"
"""The scaled cosine. The clip_score is its softmax over the group."""


@dataclasses.dataclass(frozen=True, slots=True)
class PairPlan(RowRanking):
    """Ranks flat rows with a query and one candidate each. The rows of one query are a group.

    Attributes:
        by: Columns that identify the group. Null is a value like any other, as in SQL's GROUP BY.
        top_k: Number of best rows of each group that get a `rank`. If None, there is no `rank`.
        key: Column that identifies a row in its failures.
    """

    query: str
    candidate: str
    by: tuple[str, ...] = ()
    query_kind: Kind = "auto"
    candidate_kind: Kind = "auto"
    top_k: int | None = None
    key: str = "id"
    scale: Scale = SCALE
    rename_hint = "ranking adds a column of that name: rename yours first"

    def checked(self, spec: EncoderSpec) -> Self:
        """Return the plan; raise `SpecError` if an option is invalid, or the model cannot embed a kind."""
        check_names({"query": self.query, "candidate": self.candidate, "key": self.key})
        if isinstance(self.by, str) or not self.by or not all(isinstance(name, str) and name for name in self.by):
            raise SpecError(
                setting("by", self.by) + " names no columns", hint="give the one whose value the rows of a query share"
            )
        self.check_options(spec)
        return self

    @property
    def reads(self) -> Mapping[str, str]:
        """See `RowPlan`."""
        return {self.query: self.query_kind, self.candidate: self.candidate_kind}

    @property
    def added(self) -> list[NewColumn]:
        """See `RowPlan`."""
        scores = [NewColumn(COSINE, "score"), NewColumn(CLIP_SCORE, "score")]
        return [*scores, NewColumn(RANK, "rank")] if self.top_k else scores

    def items(self, source: Getter) -> list[Item]:
        """Return the items of a row: query and candidate. No items if either is null or a column is missing."""
        if missing_column(source, (self.query, self.candidate, *self.by)):
            return []
        query, candidate = source(self.query), source(self.candidate)
        if query is None or candidate is None:
            return []
        return [item_of_kind(self.query_kind, query), item_of_kind(self.candidate_kind, candidate)]

    def result(self, source: Getter, outcomes: Sequence[Outcome], tool: Scorer) -> PlanResult:
        """Return `cosine` and `logit`, the scaled cosine; both are None for a null or a failure."""
        return self.results([(source, outcomes)], tool)[0]

    def results(self, rows: Sequence[tuple[Getter, Sequence[Outcome]]], tool: Scorer) -> list[PlanResult]:
        """See `Plan`. All rows with two valid vectors are scored in one call."""
        checked = [[tool.check(outcome) for outcome in outcomes] for _, outcomes in rows]
        good = [number for number, pair in enumerate(checked) if len(pair) == 2 and all(map(_is_vector, pair))]
        queries, candidates = ([checked[number][side] for number in good] for side in (0, 1))
        scores = dict(zip(good, tool.pairs(queries, candidates), strict=True))  # type: ignore[arg-type]
        return [self._result(source, checked[number], scores.get(number)) for number, (source, _) in enumerate(rows)]

    def _result(self, get: Getter, pair: Sequence[Outcome], scores: tuple[float, float | Failure] | None) -> PlanResult:
        nothing: dict[str, Any] = {COSINE: None, LOGIT: None}
        if scores is not None:
            cosine, logit = scores
            if isinstance(logit, Failure):
                return PlanResult(nothing, [logit.at(column=self.candidate, row=row_name(get, self.key))])
            return PlanResult({COSINE: cosine, LOGIT: logit})
        if missing := missing_column(get, (self.query, self.candidate, *self.by)):
            return PlanResult(nothing, [missing.at(row=row_name(get, self.key))])
        named = zip((self.query, self.candidate), pair, strict=False)  # without outcomes if a value is null
        failed = [(path, one) for path, one in named if isinstance(one, Failure)]
        return PlanResult(nothing, [one.at(column=path, row=row_name(get, self.key)) for path, one in failed])

    def made(self, value: Mapping[str, Any]) -> list[Any]:
        """See `Plan`."""
        return [value.get(CLIP_SCORE)]


def _is_vector(outcome: Outcome) -> bool:
    return isinstance(outcome, Vector)
