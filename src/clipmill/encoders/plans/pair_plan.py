"""Ranking of flat rows: each has a query and one candidate, and is scored within its group."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from ...errors import SpecError
from ...messages import setting
from ...models.spec import EncoderSpec
from .kinds import Kind, check_names
from .pairs import PairRows
from .plan import NewColumn
from .rank_plan import CLIP_SCORE, COSINE, RANK, RowRanking
from .scores import SCALE, Scale, Score

LOGIT = "logit"
"""The scaled cosine, plus the bias with `score="sigmoid"`. The clip_score is its softmax over the group, or sigmoid."""


@dataclasses.dataclass(frozen=True, slots=True)
class PairPlan(RowRanking, PairRows):
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
    score: Score = "softmax"
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
    def sides(self) -> tuple[tuple[str, Kind], tuple[str, Kind]]:
        """See `PairRows`."""
        return (self.query, self.query_kind), (self.candidate, self.candidate_kind)

    @property
    def added(self) -> list[NewColumn]:
        """See `RowPlan`."""
        scores = [NewColumn(COSINE, "score"), NewColumn(CLIP_SCORE, "score")]
        return [*scores, NewColumn(RANK, "rank")] if self.top_k else scores

    def values(self, cosine: float | None, logit: float | None) -> dict[str, Any]:
        """Return `cosine` and `logit`, of which the engine makes clip_score and rank."""
        return {COSINE: cosine, LOGIT: logit}

    def made(self, value: Mapping[str, Any]) -> list[Any]:
        """See `Plan`."""
        return [value.get(CLIP_SCORE)]
