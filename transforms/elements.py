"""Adapters between elements and plans: documents and rows behind one interface."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
from apache_beam.io.fileio import ReadableFile
from apache_beam.io.filesystem import FileMetadata

from ..datasets.tables.sizes import held_bytes
from ..encoders.document import Document
from ..encoders.plans.plan import DocumentPlan, Plan, RowPlan
from ..encoders.plans.runner import Done
from ..failures import Code, Failure, Stage
from ..files.json_text import key_text
from ..indexes.search_plan import SearchPlan
from ..metrics.stats import Stats
from .failed_row import FailedRow
from .rows import RowFields, Vectors, as_lists, fields_of, make_row


class Elements(Protocol):
    """Adapter of one kind of element; pickles small."""

    @property
    def plan(self) -> Plan:
        """The plan for them."""
        ...

    def read(self, element: Any) -> Any:
        """Return the source of an element for the plan, or a `FailedRow` if nothing of it can be embedded."""
        ...

    def output(self, done: Done) -> Any:
        """Return the output for an element, `done.token[0]`, which is not changed."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class DocumentElements:
    """Elements that are documents.

    Attributes:
        row_options: The options for rows, for an error message.
    """

    plan: DocumentPlan
    row_options: str

    def read(self, element: Any) -> Document | FailedRow:
        """Refuse elements other than documents, and pass on documents that could not be read."""
        if not isinstance(element, Document):
            advice = _as_document(element) or f"for rows give {self.row_options}"
            message = f"expected a Document, got {type(element).__name__}; {advice}"
            return FailedRow(element, (Failure(Stage.READ, Code.UNSUPPORTED, message),))
        if element.failures:
            unread = self.plan.result(element, (), None)
            return FailedRow(unread.value, tuple(unread.failures))
        return element

    def output(self, done: Done) -> Document:
        """See `Elements`."""
        document: Document = done.result.value
        return document


@dataclasses.dataclass(frozen=True, slots=True)
class RowElements:
    """Elements that are rows."""

    plan: RowPlan
    vectors: Vectors = "array"

    def read(self, element: Any) -> RowFields | FailedRow:
        """See `read_row`."""
        return read_row(element, self.plan)

    def output(self, done: Done) -> Any:
        """See `Elements`."""
        values = done.result.value
        if self.vectors == "list":
            values = {name: as_lists(value) for name, value in values.items()}
        return make_row(done.token[0], done.source.fields, values)


def source_bytes(source: Any) -> int:
    """Return the bytes that the caller of a session holds for a source."""
    return held_bytes(source.fields if isinstance(source, RowFields) else source)


def count_refused(stats: Stats, refused: FailedRow) -> None:
    """Count an element that cannot be processed."""
    stats.rows += 1
    for failure in refused.failures:
        stats.count_failure(failure)


def _as_document(element: Any) -> str | None:
    """Return how to make a document of an element; None for a row, and what cannot be one."""
    if fields_of(element) is not None:
        return None
    if (wrapped := _in_pair_or_batch(element, "the id of the document")) is not None:
        return wrapped
    if isinstance(element, ReadableFile):
        return "give Document(blob=file.read(), id=file.metadata.path), or read the files with ReadDocuments"
    if isinstance(element, FileMetadata):
        return "give Document.from_listed_uri(metadata.path), or read the files with ReadDocuments"
    if isinstance(element, str):
        return "give Document(text=element) or Document(uri=element)"
    if isinstance(element, bytes | np.ndarray):
        return f"give Document({'blob' if isinstance(element, bytes) else 'tensor'}=element)"
    is_image = hasattr(element, "__array_interface__")  # of Pillow
    return "give Document(tensor=numpy.asarray(element))" if is_image else None


def _as_row(element: Any) -> str:
    """Return how to make rows of what is none."""
    if (wrapped := _in_pair_or_batch(element, "a column")) is not None:
        return wrapped
    if isinstance(element, Document):
        return "documents are embedded without columns"
    return "put it into a column: {'name': element}"


def _in_pair_or_batch(element: Any, key_goes_to: str) -> str | None:
    if isinstance(element, tuple) and len(element) == 2:
        batch = "; a list of values is taken apart by beam.FlatMapTuple" if isinstance(element[1], list) else ""
        return f"of a keyed pair give the value alone, and put the key into {key_goes_to}{batch}"
    if isinstance(element, list | tuple | set):
        return "take it apart: beam.FlatMap(lambda batch: batch)"
    return None


def read_row(element: Any, plan: RowPlan | SearchPlan) -> RowFields | FailedRow:
    """Return the fields of a row; refuse other elements, and rows with a column that would be overwritten."""
    fields = fields_of(element)
    if fields is None:
        message = f"expected a dict, a beam.Row or a NamedTuple, got {type(element).__name__}; {_as_row(element)}"
        return FailedRow(element, (Failure(Stage.READ, Code.UNSUPPORTED, message),))
    taken = [name for name in plan.new_names if name in fields]
    if taken:
        message = f"column {taken[0]!r} exists already; " + plan.hint_for(taken[0])
        failure = Failure(Stage.READ, Code.MALFORMED, message, column=taken[0])
        return FailedRow(element, (failure.at(row=key_text(fields.get(plan.key))),))
    return RowFields(fields)
