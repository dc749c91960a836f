"""What is done with an element and what comes out for it: documents and rows behind one interface.

What travels is `Elements`, with a plan in it (`encoders.plans`); in a process that has the model it is bound, and what
is bound takes elements apart and puts them together again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ..encoders.document import Document
from ..encoders.encoder import Encoder
from ..encoders.item import Item
from ..encoders.outcome import Outcome
from ..encoders.plans.plan import AnyDocumentPlan, BoundDocumentPlan, BoundRowPlan, RowPlan
from ..failures import Code, Failure, Stage
from .failed_row import FailedRow
from .rows import Vectors, as_lists, fields_of, make_row, value_at


class Finished(NamedTuple):
    """What comes out for an element, and why something of it is missing.

    Attributes:
        row: What comes out.
        failures: Why the element failed; it did not if there are none.
        inner: Why parts of it failed that leave it whole, such as single candidates.
    """

    row: Any
    failures: Sequence[Failure]
    inner: Sequence[Failure] = ()


class BoundElements(Protocol):
    """How one kind of elements is worked on, in a process that has the model."""

    def refuse(self, element: Any) -> FailedRow | None:
        """Return the failure of an element of which nothing is embedded, None for all others."""
        ...

    def items(self, element: Any) -> list[Item]:
        """Return what of an element is embedded."""
        ...

    def finish(self, element: Any, outcomes: Sequence[Outcome]) -> Finished:
        """Give an element its outcomes back, in the order of `items`; the element itself is left as it is."""
        ...


class Elements(Protocol):
    """What the elements are and what is done with them; pickles small."""

    def bound(self, encoder: Encoder) -> BoundElements:
        """Return what works on them.

        Raises:
            SpecError: If the model cannot do it after all.
        """
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class DocumentElements:
    """Elements that are documents.

    Attributes:
        plan: What is done with them.
        way_out: What to give where elements are rows instead.
    """

    plan: AnyDocumentPlan
    way_out: str

    def bound(self, encoder: Encoder) -> BoundDocuments:
        """See `Elements`."""
        return BoundDocuments(self.plan.bound(encoder), self.way_out)


@dataclasses.dataclass(frozen=True, slots=True)
class BoundDocuments:
    """Documents; see `BoundElements`.

    Attributes:
        plan: What is done with them.
        way_out: What to give where elements are rows instead.
    """

    plan: BoundDocumentPlan
    way_out: str

    def refuse(self, element: Any) -> FailedRow | None:
        """Refuse what is no document, and pass on what could not be read in the first place."""
        if not isinstance(element, Document):
            message = f"expected a Document, got {type(element).__name__}; for rows give {self.way_out}"
            return FailedRow(element, (Failure(Stage.READ, Code.UNSUPPORTED, message),))
        if element.failures:
            passed = self.plan.results(element, ())
            return FailedRow(passed, passed.failures)
        return None

    def items(self, element: Document) -> list[Item]:
        """See `BoundElements`."""
        return self.plan.items(element)

    def finish(self, element: Document, outcomes: Sequence[Outcome]) -> Finished:
        """See `BoundElements`."""
        result = self.plan.results(element, outcomes)
        return Finished(result, result.failures, self.plan.inner_failures(result))


@dataclasses.dataclass(frozen=True, slots=True)
class RowElements:
    """Elements that are rows.

    Attributes:
        plan: What is done with them.
        way_out: What to do about a column that exists already and would be written over.
        vectors: What a vector is in a row.
    """

    plan: RowPlan
    way_out: str
    vectors: Vectors = "array"

    def bound(self, encoder: Encoder) -> BoundRows:
        """See `Elements`."""
        return BoundRows(self, self.plan.bound(encoder))


@dataclasses.dataclass(frozen=True, slots=True)
class BoundRows:
    """Rows; see `BoundElements`.

    Attributes:
        rows: What they are.
        plan: What is done with them.
    """

    rows: RowElements
    plan: BoundRowPlan

    def refuse(self, element: Any) -> FailedRow | None:
        """See `refuse_row`."""
        return refuse_row(element, self.rows.plan.new_names, self.rows.plan.key, self.rows.way_out)

    def items(self, element: Any) -> list[Item]:
        """See `BoundElements`."""
        return self.plan.items(functools.partial(value_at, sure_fields(element)))

    def finish(self, element: Any, outcomes: Sequence[Outcome]) -> Finished:
        """See `BoundElements`."""
        fields = sure_fields(element)
        values, failures, inner = self.plan.results(functools.partial(value_at, fields), outcomes)
        if self.rows.vectors == "list":
            values = {name: as_lists(value) for name, value in values.items()}
        return Finished(make_row(element, fields, values), failures, inner)


def refuse_row(element: Any, added: Sequence[str], key: str, way_out: str) -> FailedRow | None:
    """Refuse what is no row, and rows that have a column already that would be written over.

    Args:
        element: What came.
        added: Names of columns that are added.
        key: Column that names a row.
        way_out: What to do about one of those that exists already.

    Returns:
        The failure, None for all others.
    """
    fields = fields_of(element)
    if fields is None:
        message = f"expected a dict, a beam.Row or a NamedTuple, got {type(element).__name__}"
        return FailedRow(element, (Failure(Stage.READ, Code.UNSUPPORTED, message),))
    taken = [name for name in added if name in fields]
    if taken:
        message = f"column {taken[0]!r} exists already; {way_out}"
        name = fields.get(key)
        failure = Failure(Stage.READ, Code.MALFORMED, message, column=taken[0])
        return FailedRow(element, (failure.at(row=None if name is None else str(name)),))
    return None


def sure_fields(element: Any) -> Mapping[str, Any]:
    """Return the fields of an element that was not refused, and so is a row."""
    fields = fields_of(element)
    assert fields is not None
    return fields
