"""`PairRows`: the common part of plans for rows with a pair of values, each pair scored on its own."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

from ...failures import Failure
from ..item import Item
from ..outcome import Outcome, Vector
from .kinds import Kind, item_of_kind
from .plan import PlanResult, RowPlan
from .ranking import Scorer
from .row_values import Getter, missing_column, row_name


class PairRows(RowPlan):
    """Rows with two columns of values, of any kinds. A row without one of the values has no scores, and no failure."""

    __slots__ = ()
    makes_vectors = False

    @property
    @abc.abstractmethod
    def sides(self) -> tuple[tuple[str, Kind], tuple[str, Kind]]:
        """The two columns and their kinds."""

    @abc.abstractmethod
    def values(self, cosine: float | None, logit: float | None) -> dict[str, Any]:
        """Return the columns of a row for the cosine of its pair and its logit; both are None without scores."""

    @property
    def reads(self) -> Mapping[str, str]:
        """See `RowPlan`."""
        return dict(self.sides)

    def items(self, source: Getter) -> list[Item]:
        """Return the two items of a row. No items if either is null or a column is missing."""
        if self._missing(source):
            return []
        values = [source(path) for path, _ in self.sides]
        if any(value is None for value in values):
            return []
        return [item_of_kind(kind, value) for (_, kind), value in zip(self.sides, values, strict=True)]

    def result(self, source: Getter, outcomes: Sequence[Outcome], tool: Scorer) -> PlanResult:
        """See `Plan` and `values`."""
        return self.results([(source, outcomes)], tool)[0]

    def results(self, rows: Sequence[tuple[Getter, Sequence[Outcome]]], tool: Scorer) -> list[PlanResult]:
        """See `Plan`. All rows with two valid vectors are scored in one call."""
        checked = [[tool.check(outcome) for outcome in outcomes] for _, outcomes in rows]
        good = [number for number, pair in enumerate(checked) if len(pair) == 2 and all(map(_is_vector, pair))]
        left, right = ([checked[number][side] for number in good] for side in (0, 1))
        scores = dict(zip(good, tool.pairs(left, right), strict=True))  # type: ignore[arg-type]
        return [self._result(source, checked[number], scores.get(number)) for number, (source, _) in enumerate(rows)]

    def _result(self, get: Getter, pair: Sequence[Outcome], scores: tuple[float, float | Failure] | None) -> PlanResult:
        paths = [path for path, _ in self.sides]
        if scores is not None:
            cosine, logit = scores
            if isinstance(logit, Failure):
                return PlanResult(self._nothing(), [logit.at(column=paths[1], row=row_name(get, self.key))])
            return PlanResult(self.values(cosine, logit))
        if missing := self._missing(get):
            return PlanResult(self._nothing(), [missing.at(row=row_name(get, self.key))])
        named = zip(paths, pair, strict=False)  # without outcomes if a value is null
        failed = [one.at(column=path, row=row_name(get, self.key)) for path, one in named if isinstance(one, Failure)]
        return PlanResult(self._nothing(), failed) if failed else PlanResult(self.values(None, None))

    def _nothing(self) -> dict[str, Any]:
        """Return the columns of a row that failed."""
        return self.values(None, None)

    def _missing(self, get: Getter) -> Failure | None:
        return missing_column(get, [*(path for path, _ in self.sides), *self.by])


def _is_vector(outcome: Outcome) -> bool:
    return isinstance(outcome, Vector)
