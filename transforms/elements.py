"""What is embedded of an element and what comes out for it: documents and rows behind one interface."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ..encoders.columns import ColumnPlan
from ..encoders.document import Document
from ..encoders.document_plan import DocumentPlan
from ..encoders.failure import Code, Failure, Stage
from ..encoders.item import Item
from ..encoders.outcome import Outcome
from .failed_row import FailedRow
from .rows import Vectors, as_lists, fields_of, make_row, value_at


class Finished(NamedTuple):
    """What comes out for an element, and why something of it is missing."""

    row: Any
    failures: Sequence[Failure]


class Elements(Protocol):
    """How one kind of elements is embedded; pickles small."""

    def refuse(self, element: Any) -> FailedRow | None:
        """Return the failure of an element that is not embedded at all, None for all others."""
        ...

    def items(self, element: Any) -> list[Item]:
        """Return what of an element is embedded."""
        ...

    def finish(self, element: Any, outcomes: Sequence[Outcome]) -> Finished:
        """Give an element its outcomes back, in the order of `items`; the element itself is left as it is."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class DocumentElements:
    """Elements that are documents.

    Attributes:
        plan: Which documents of a tree are embedded.
    """

    plan: DocumentPlan

    def refuse(self, element: Any) -> FailedRow | None:
        """Refuse what is no document, and pass on what could not be read in the first place."""
        if not isinstance(element, Document):
            message = f"expected a Document, got {type(element).__name__}; for rows give columns={{'name': 'text'}}"
            return FailedRow(element, (Failure(Stage.READ, Code.UNSUPPORTED, message),))
        if element.failures:
            passed = self.plan.results(element, ())
            return FailedRow(passed, passed.failures)
        return None

    def items(self, element: Document) -> list[Item]:
        """See `Elements`."""
        return self.plan.items(element)

    def finish(self, element: Document, outcomes: Sequence[Outcome]) -> Finished:
        """See `Elements`."""
        result = self.plan.results(element, outcomes)
        return Finished(result, result.failures)


@dataclasses.dataclass(frozen=True, slots=True)
class RowElements:
    """Elements that are rows.

    Attributes:
        plan: Which columns are embedded.
        vectors: What a vector is in a row.
    """

    plan: ColumnPlan
    vectors: Vectors = "array"

    def refuse(self, element: Any) -> FailedRow | None:
        """Refuse what is no row, and rows that have a column already that would be written over."""
        fields = fields_of(element)
        if fields is None:
            message = f"expected a dict, a beam.Row or a NamedTuple, got {type(element).__name__}"
            return FailedRow(element, (Failure(Stage.READ, Code.UNSUPPORTED, message),))
        taken = [name for name in self.plan.new_names if name in fields]
        if taken:
            message = f"column {taken[0]!r} exists already; choose a name: Column('image', output='…')"
            name = fields.get(self.plan.key)
            failure = Failure(Stage.READ, Code.MALFORMED, message, column=taken[0])
            return FailedRow(element, (failure.at(row=None if name is None else str(name)),))
        return None

    def items(self, element: Any) -> list[Item]:
        """See `Elements`."""
        return self.plan.items(functools.partial(value_at, self._fields(element)))

    def finish(self, element: Any, outcomes: Sequence[Outcome]) -> Finished:
        """See `Elements`."""
        fields = self._fields(element)
        values, failures, _ = self.plan.results(functools.partial(value_at, fields), outcomes)
        if self.vectors == "list":
            values = {name: as_lists(value) for name, value in values.items()}
        return Finished(make_row(element, fields, values), failures)

    def _fields(self, element: Any) -> Mapping[str, Any]:
        fields = fields_of(element)
        assert fields is not None  # refused otherwise
        return fields
