"""What is done with rows or documents, the same for every engine: plans travel, and are bound to a loaded encoder.

A plan takes a row apart into items. Between `items` and `results` lies an `EmbedSession`, in which the items of all
rows share micro-batches. Results need what only a loaded model knows (its learnt scales, the vectors of labels), so a
plan is `bound` first.

Rows are embedded by `columns.ColumnPlan`, ranked by `rank_plan.RankPlan`, classified by `classify_plan.ClassifyPlan`;
documents by `document_plan.DocumentPlan`, `rank_plan.DocumentRankPlan` and `classify_plan.DocumentClassifyPlan`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ...failures import Failure
from ..document import Document
from ..encoder import Encoder
from ..item import Item
from ..outcome import Outcome
from .columns import Embedded

Getter = Callable[[str], Any]
"""Returns the value at a path of a row; raises `MissingColumn` for one that the row does not have."""


class BoundRowPlan(Protocol):
    """A plan for rows in a process that has the model."""

    def items(self, get: Getter) -> list[Item]:
        """Return the items of a row, in order."""
        ...

    def results(self, get: Getter, outcomes: Sequence[Outcome]) -> Embedded:
        """Give a row its outcomes back, in the order of `items`; `get` is the same."""
        ...


class RowPlan(Protocol):
    """What is done with rows; pickles small."""

    @property
    def key(self) -> str:
        """Column that names a row in its failures."""
        ...

    @property
    def new_names(self) -> list[str]:
        """The columns that are added, in order."""
        ...

    def bound(self, encoder: Encoder) -> BoundRowPlan:
        """Return the plan for a process that has the model.

        Raises:
            SpecError: If the model cannot do it after all.
        """
        ...


class BoundDocumentPlan(Protocol):
    """A plan for documents in a process that has the model."""

    def items(self, document: Document) -> list[Item]:
        """Return the items of a document, in order."""
        ...

    def results(self, document: Document, outcomes: Sequence[Outcome]) -> Document:
        """Return a copy of a document with its outcomes, in the order of `items`; its `failures` say what failed."""
        ...

    def inner_failures(self, result: Document) -> list[Failure]:
        """Return the failures of parts of a document that is whole all the same, such as its matches."""
        ...


class AnyDocumentPlan(Protocol):
    """What is done with documents; pickles small."""

    def bound(self, encoder: Encoder) -> BoundDocumentPlan:
        """Return the plan for a process that has the model.

        Raises:
            SpecError: If the model cannot do it after all.
        """
        ...


Plan = RowPlan | AnyDocumentPlan


def is_of_rows(plan: Plan) -> bool:
    """Tell whether a plan is for rows; else it is for documents."""
    return hasattr(plan, "new_names")
