"""How elements become rows of files, and their failures lines: documents and rows behind one interface."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ..datasets.tables.document_layouts import document_layout
from ..datasets.tables.layouts import layout_of
from ..datasets.tables.records import candidate_failure_records, row_failure_records
from ..datasets.tables.schemas import documents_batch, rows_batch
from ..encoders.document import Document
from ..encoders.plans.columns import ColumnPlan, MissingColumn
from ..encoders.plans.plan import AnyDocumentPlan, RowPlan
from .failed_row import FailedRow
from .rows import fields_of, plain, value_at


class Table(Protocol):
    """How elements become rows of files; pickles small."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of the files."""
        ...

    def row(self, element: Any) -> Any:
        """Return what of an element is held until it is written."""
        ...

    def batch(self, rows: Sequence[Any]) -> pa.RecordBatch:
        """Return what `row` gave as a batch of the schema."""
        ...

    @property
    def makes_vectors(self) -> bool:
        """Whether what was made is vectors; else it is scores."""
        ...

    def made(self, row: Any) -> list[Any]:
        """Return every vector or score of what `row` gave, None where it is null."""
        ...

    def records(self, failed: FailedRow) -> list[dict[str, Any]]:
        """Return what is written of a failure: why, and what a second try needs."""
        ...

    def inner_records(self, row: Any) -> list[dict[str, Any]]:
        """Return what is written of failures inside what `row` gave of an element that is whole."""
        ...


@dataclasses.dataclass(frozen=True)
class DocumentTable:
    """Documents in files.

    Attributes:
        schema: Made by `documents_schema`.
        dim: Values in a vector.
        plan: What was done with them.
    """

    schema: pa.Schema
    dim: int
    plan: AnyDocumentPlan

    @property
    def makes_vectors(self) -> bool:
        """See `Table`."""
        return document_layout(self.plan).makes_vectors

    def row(self, element: Any) -> Document | None:
        """See `Table`; None for what is no document."""
        return element if isinstance(element, Document) else None

    def batch(self, rows: Sequence[Document]) -> pa.RecordBatch:
        """See `Table`."""
        return documents_batch(rows, self.schema, self.dim)

    def made(self, row: Document) -> list[Any]:
        """See `Table`; those of matches and chunks too."""
        return document_layout(self.plan).made(row)

    def records(self, failed: FailedRow) -> list[dict[str, Any]]:
        """See `Table`."""
        if isinstance(failed.row, Document):
            return document_layout(self.plan).records(failed.row)
        return [failure.as_dict() for failure in failed.failures]

    def inner_records(self, row: Document) -> list[dict[str, Any]]:
        """See `Table`: those of matches."""
        return document_layout(self.plan).inner_records(row)


@dataclasses.dataclass(frozen=True)
class RowTable:
    """Rows in files.

    Attributes:
        schema: Made by `rows_schema`.
        dim: Values in a vector.
        plan: What was done with them.
    """

    schema: pa.Schema
    dim: int
    plan: RowPlan

    @property
    def makes_vectors(self) -> bool:
        """See `Table`."""
        return layout_of(self.plan).makes_vectors

    def row(self, element: Any) -> dict[str, Any] | None:
        """See `Table`: the columns that are written, images that are not among them let go; None for what is no row."""
        fields = fields_of(element)
        if fields is None:
            return None
        outputs = self.plan.outputs if isinstance(self.plan, ColumnPlan) else ()
        return {
            name: _as_arrays(value) if name in outputs else plain(value)
            for name, value in fields.items()
            if name in self.schema.names
        }

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
        """See `Table`."""
        return rows_batch(rows, self.schema, self.plan, self.dim)

    def made(self, row: Mapping[str, Any]) -> list[Any]:
        """See `Table`; an array column has one for each element, a list of candidates one for each."""
        return layout_of(self.plan).made(row)

    def records(self, failed: FailedRow) -> list[dict[str, Any]]:
        """See `Table`."""
        fields = fields_of(failed.row)
        if fields is None:
            return [failure.as_dict() for failure in failed.failures]
        return row_failure_records(failed.failures, fields, self.plan, functools.partial(_value_or_none, fields))

    def inner_records(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """See `Table`: those of candidates."""
        return candidate_failure_records(row, self.plan)


def _value_or_none(fields: Mapping[str, Any], path: str) -> Any:
    try:
        return value_at(fields, path)
    except MissingColumn:
        return None


def _as_arrays(value: Any) -> Any:
    """Return vectors as arrays, where `Embed(vectors="list")` or a shuffle made other sequences of them."""
    if value is None or isinstance(value, np.ndarray):
        return value
    is_vector = len(value) > 0 and isinstance(value[0], float | np.floating)
    return np.asarray(value, np.float32) if is_vector else [_as_arrays(inner) for inner in value]
