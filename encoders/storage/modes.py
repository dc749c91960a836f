"""What `embed_shard` does differently for documents and for rows: read, take apart, put together, write."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..columns import ColumnPlan, MissingColumn, get_by_path
from ..document import AccessPaths, Document
from ..document_plan import DocumentPlan
from ..failure import Failure
from ..item import Item
from ..outcome import Outcome
from .readers import read_documents
from .rows import REST_KEY, SourceRow, malformed, read_rows
from .shards import Shard
from .tables import (
    document_vectors,
    documents_batch,
    failure_records,
    row_failure_records,
    row_vectors,
    rows_batch,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What became of one document or row.

    Attributes:
        row: What is written; None where nothing of it has a vector.
        name: What names it in failures: its id, or its place.
        failures: What failed of it.
        records: The failures as they are written.
        nbytes: Bytes that it carries along.
    """

    row: Any
    name: str | None
    failures: Sequence[Failure] = ()
    records: Sequence[Mapping[str, Any]] = ()
    nbytes: int = 0


class DocumentMode:
    """Documents: one item for each place that the access paths reach."""

    def __init__(self, reader: Mapping[str, Any], access_paths: str, keep_content: bool) -> None:
        self._reader = dict(reader)
        self._paths = AccessPaths.parse(access_paths)
        self._plan = DocumentPlan(access_paths, keep_content)

    def read(self, shard: Shard) -> Iterator[tuple[Document, list[Item]]]:
        """Yield the documents of a shard with their items."""
        for document in read_documents(shard, **self._reader):
            yield document, self._plan.items(document)

    def finish(self, token: Document, outcomes: Sequence[Outcome]) -> Result:
        """Give a document its vectors."""
        document = self._plan.results(token, outcomes)
        has_vector = any(inner.embedding is not None for _, inner in self._paths.select(document))
        is_written = has_vector or not document.failures  # nothing reached and nothing failed: written as it came
        nbytes = len(document.blob or b"") + (0 if document.tensor is None else document.tensor.nbytes)
        row = document if is_written else None
        return Result(row, document.id, document.failures, failure_records(document), nbytes)

    def vectors(self, row: Document) -> list[Any]:
        """Return the vectors of what is written."""
        return document_vectors(row)

    def records(self, row: Document, failures: Sequence[Failure]) -> list[dict[str, Any]]:
        """Return failures of a document as they are written."""
        return failure_records(row, failures)

    def batch(self, rows: Sequence[Document], schema: pa.Schema, dim: int) -> pa.RecordBatch:
        """Return documents as Arrow."""
        return documents_batch(rows, schema, dim)


class RowMode:
    """Rows: one item for each column that is embedded, or for each element of an array."""

    def __init__(self, plan: ColumnPlan, schema: pa.Schema) -> None:
        self._plan = plan
        self._schema = schema
        self._has_rest = any(REST_KEY in (field.metadata or {}) for field in schema)
        self._kept = set(schema.names)
        lists = {
            name: pa.types.is_list(schema.field(name).type.value_type) for name in plan.outputs if name in self._kept
        }
        self._single = {path for path, column in plan.columns.items() if not lists.get(str(column.output))}

    def read(self, shard: Shard) -> Iterator[tuple[SourceRow, list[Item]]]:
        """Yield the rows of a shard with their items."""
        for row in read_rows(shard):
            if row.failure is None and (problem := self._problem_of(row)):
                row = row._replace(failure=problem)
            if shard.kind == "jsonl" and row.values and row.values.get(self._plan.key) is None:
                row = row._replace(values={self._plan.key: row.place, **_without_null(row.values, self._plan.key)})
            yield row, [] if row.failure else self._plan.items(_getter(row.values))

    def _problem_of(self, row: SourceRow) -> Failure | None:
        """Say which column holds an array where no file declares one: the output has room for one vector."""
        for path in self._single:
            if isinstance(_value(row.values, path), list | tuple):
                return dataclasses.replace(malformed("the column holds an array in this row"), column=path)
        return None

    def finish(self, token: SourceRow, outcomes: Sequence[Outcome]) -> Result:
        """Give a row its vectors."""
        values = token.values
        key = _value(values, self._plan.key)
        name = token.place if key is None else str(key)
        if token.failure is not None:
            failures: list[Failure] = [token.failure.at(row=name)]
            embedded: dict[str, Any] = {}
        else:
            made = self._plan.results(_getter(values), outcomes)
            failures = [failure.at(row=token.place) for failure in made.failures]
            embedded = made.values
        records = self.records(values, failures)
        if failures and not any(_has_vector(value) for value in embedded.values()):
            return Result(None, name, failures, records)
        # What isn't written is let go of here; of JSON lines everything is, in `tags`.
        kept = values if self._has_rest else {name: v for name, v in values.items() if name in self._kept}
        return Result({**kept, **embedded}, name, failures, records, _nbytes(kept))

    def vectors(self, row: Mapping[str, Any]) -> list[Any]:
        """Return the vectors of what is written, None where one is null."""
        return row_vectors(row, self._plan)

    def records(self, row: Mapping[str, Any], failures: Sequence[Failure]) -> list[dict[str, Any]]:
        """Return failures of a row as they are written."""
        return row_failure_records(failures, row, self._plan, lambda path: _value(row, path))

    def batch(self, rows: Sequence[Mapping[str, Any]], schema: pa.Schema, dim: int) -> pa.RecordBatch:
        """Return rows as Arrow."""
        return rows_batch(rows, schema, self._plan, dim)


def _getter(values: Mapping[str, Any]) -> Any:
    return lambda path: get_by_path(values, path)


def _value(values: Mapping[str, Any], path: str) -> Any:
    try:
        return get_by_path(values, path)
    except MissingColumn:
        return None


def _without_null(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def _nbytes(value: Any) -> int:
    """Return the bytes of strings, files and arrays in a value."""
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, np.ndarray):
        return value.nbytes
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return sum(map(_nbytes, inner))


def _has_vector(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(inner, np.ndarray) for inner in value)
    return isinstance(value, np.ndarray)
