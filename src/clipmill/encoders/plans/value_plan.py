"""Embedding of single values, such as a text or an encoded image, that are neither rows nor trees of documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ...failures import Failure
from ..document import Document
from ..item import Item
from ..outcome import Outcome, Vector
from .kinds import Kind, item_of_kind
from .plan import Plan, PlanResult


@dataclasses.dataclass(frozen=True, slots=True)
class ValuePlan(Plan):
    """Embeds values; the result of each is its vector, or None for null.

    Attributes:
        kind: Kind of the values; see `kinds`. A `Document` is embedded by its content, whatever the kind.
    """

    kind: Kind = "auto"
    of_rows = False
    key = "id"

    def items(self, source: Any) -> list[Item]:
        """Return the one item of a value."""
        return [source.item() if isinstance(source, Document) else item_of_kind(self.kind, source)]

    def result(self, source: Any, outcomes: Sequence[Outcome], tool: Any) -> PlanResult:
        """Return the vector, (dim,) float32. Failures of documents name the document."""
        (outcome,) = outcomes
        if isinstance(outcome, Failure):
            row = source.key() or None if isinstance(source, Document) else None
            return PlanResult(None, [outcome.at(row=row)])
        return PlanResult(outcome.values if isinstance(outcome, Vector) else None)

    def made(self, value: Any) -> list[Any]:
        """See `Plan`."""
        return [value]
