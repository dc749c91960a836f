"""What a job does differently for documents and for rows: read, take apart, put together, write."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..datasets.inputs.readers import read_documents
from ..datasets.inputs.rows import SourceRow, malformed, read_rows
from ..datasets.inputs.samples import AUDIO, IMAGE, KEY
from ..datasets.inputs.shards import Shard
from ..datasets.tables.column_types import REST_KEY, dropped_names
from ..datasets.tables.document_layouts import EMBEDDING, document_layout
from ..datasets.tables.layouts import layout_of
from ..datasets.tables.records import row_failure_records
from ..datasets.tables.schemas import CONTENT_HASH, documents_batch, rows_batch
from ..datasets.tables.sizes import held_bytes
from ..encoders.content_hash import hash_of_outcomes
from ..encoders.document import Document
from ..encoders.encoder import Encoder
from ..encoders.item import Item, Uri
from ..encoders.outcome import Outcome
from ..encoders.plans.classify_plan import ClassifyPlan, DocumentClassifyPlan
from ..encoders.plans.columns import ColumnPlan, MissingColumn, get_by_path
from ..encoders.plans.plan import AnyDocumentPlan, Plan, RowPlan, is_of_rows
from ..encoders.plans.rank_plan import DocumentRankPlan
from ..failures import Failure
from ..files.plain import key_text


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What became of one document or row.

    Attributes:
        row: What is written; None where nothing of it was made.
        name: What names it in failures: its id, or its place.
        failures: What failed of it.
        records: The failures as they are written, the inner ones too.
        nbytes: Bytes that it carries along.
        inner: What failed inside it, while it is whole: candidates.
    """

    row: Any
    name: str | None
    failures: Sequence[Failure] = ()
    records: Sequence[Mapping[str, Any]] = ()
    nbytes: int = 0
    inner: Sequence[Failure] = ()


class DocumentMode:
    """Documents: one item for each place that the plan reaches."""

    def __init__(
        self,
        plan: AnyDocumentPlan,
        encoder: Encoder,
        reader: Mapping[str, Any],
        schema: pa.Schema,
        *,
        hashed: bool = False,
    ) -> None:
        self._hashed = hashed
        self._places = getattr(plan, "places", None)  # what is ranked or labelled is neither hashed nor passed over
        self._reader = {**reader, "max_file_bytes": encoder.spec.max_fetch_bytes}
        self._plan = plan.bound(encoder)
        self._to_rank = isinstance(plan, DocumentRankPlan)
        self._with_vectors = _with_vectors(plan)
        self._layout = document_layout(plan)
        self._schema = schema
        self._dim = encoder.dim
        self.makes_vectors = self._layout.makes_vectors

    def read(self, shard: Shard) -> Iterator[tuple[Document, list[Item]]]:
        """Yield the documents of a shard with their items."""
        for document in read_documents(shard, **self._reader, to_rank=self._to_rank):
            for inner in self._with_vectors(document):
                inner.embedding = inner.tags.pop(EMBEDDING, None)  # a line's unknown fields are tags
            yield document, self._plan.items(document)

    def unread(self, shard: Shard, failure: Failure) -> tuple[Document, list[Item]]:
        """Return what stands for rows of a shard that cannot be read."""
        return Document(id=shard.paths[0], failures=(failure.at(row=shard.paths[0]),)), []

    def finish(self, token: Document, outcomes: Sequence[Outcome]) -> Result:
        """Give a document its results."""
        document = self._plan.results(token, outcomes)
        if self._hashed:
            document.tags.pop(CONTENT_HASH, None)  # of an earlier dataset
            if not document.failures and (told := hash_of_outcomes(self.places(token), outcomes)):
                document.tags[CONTENT_HASH] = told
        # nothing reached and nothing failed: written as it came
        is_written = not document.failures or any(one is not None for one in self._layout.made(document))
        inner = self._plan.inner_failures(document)
        records = [*self._layout.records(document), *self._layout.inner_records(document)]
        written = document if is_written else None
        return Result(written, document.id, document.failures, records, held_bytes(written), inner)

    def key(self, token: Any) -> str | None:
        """Return what names a document that was read, as it is written; None for one that could not be read."""
        return None if token.failures else key_text(token.id)

    def places(self, token: Any) -> list[str]:
        """Return where each of a document's items stands."""
        return [] if self._places is None else self._places(token)

    def made(self, row: Document) -> list[Any]:
        """Return the vectors or scores of what is written, None where one is null."""
        return self._layout.made(row)

    def records(self, row: Document, failures: Sequence[Failure]) -> list[dict[str, Any]]:
        """Return failures of a document as they are written."""
        return self._layout.records(row, failures)

    def batch(self, rows: Sequence[Document]) -> pa.RecordBatch:
        """Return documents as Arrow."""
        return documents_batch(rows, self._schema, self._dim)


class RowMode:
    """Rows: one item for each value that is worked on, or for each element of an array."""

    def __init__(self, plan: RowPlan, encoder: Encoder, schema: pa.Schema, *, hashed: bool = False) -> None:
        self._hashed = hashed
        self._places = getattr(plan, "places", None)
        self._plan = plan
        self._bound = plan.bound(encoder)
        self._layout = layout_of(plan)
        self._schema = schema
        self._dim = encoder.dim
        self._max_file_bytes = encoder.spec.max_fetch_bytes
        self._worked_on = set(self._layout.kinds)
        self.makes_vectors = self._layout.makes_vectors
        rest = [field for field in schema if REST_KEY in (field.metadata or {})]
        self._has_rest = bool(rest)
        self._kept = set(schema.names)
        new_names = {*plan.new_names, *([CONTENT_HASH] if hashed else [])}
        self._taken = new_names - {name for field in rest for name in dropped_names(field)} if rest else set()
        self._single = _single_columns(plan, schema)

    def read(self, shard: Shard) -> Iterator[tuple[SourceRow, list[Item]]]:
        """Yield the rows of a shard with their items."""
        for row in read_rows(shard, max_file_bytes=self._max_file_bytes):
            if row.failure is None and (problem := self._problem_of(row)):
                row = row._replace(failure=problem)
            if shard.kind in ("files", "tar") and row.values:
                row = row._replace(values=self._of_sample(row.values))
            if shard.kind == "jsonl" and row.values and row.values.get(self._plan.key) is None:
                row = row._replace(values={self._plan.key: row.place, **_without(row.values, self._plan.key)})
            yield row, [] if row.failure else self._bound.items(_getter(row.values))

    def _of_sample(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a sample with its name where the plan looks for it, and without bytes that nobody asked for."""
        named = _value(values, self._plan.key)
        unused = {KEY, self._plan.key, *({IMAGE, AUDIO} - self._worked_on)}
        kept = {name: value for name, value in values.items() if name not in unused}
        return {self._plan.key: values[KEY] if named is None else str(named), **kept}

    def _problem_of(self, row: SourceRow) -> Failure | None:
        """Say what is in the way of the output, where no file declares its columns.

        A field of the name of a new column, or an array, where there is room for one vector.
        """
        if taken := sorted(self._taken & row.values.keys()):
            message = f"the line has a field {taken[0]!r}, where a new column goes: name that one otherwise, or drop it"
            return dataclasses.replace(malformed(message), column=taken[0])
        for path in self._single:
            if isinstance(_value(row.values, path), list | tuple):
                return dataclasses.replace(malformed("the column holds an array in this row"), column=path)
        return None

    def unread(self, shard: Shard, failure: Failure) -> tuple[SourceRow, list[Item]]:
        """Return what stands for rows of a shard that cannot be read."""
        return SourceRow(shard.paths[0], {}, failure), []

    def finish(self, token: SourceRow, outcomes: Sequence[Outcome]) -> Result:
        """Give a row its results."""
        values = token.values
        key = _value(values, self._plan.key)
        name = token.place if key is None else str(key)
        inner: list[Failure] = []
        if token.failure is not None:
            failures: list[Failure] = [token.failure.at(row=name)]
            made: dict[str, Any] = {}
        else:
            given = self._bound.results(_getter(values), outcomes)
            failures = [failure.at(row=token.place) for failure in given.failures]
            inner = [failure.at(row=token.place) for failure in given.inner]
            made = given.values
        records = self.records(values, [*failures, *inner])
        if failures and not any(one is not None for one in self._layout.made(made)):
            return Result(None, name, failures, records)
        # What isn't written is let go of here; of JSON lines everything is, in `tags`.
        kept = {name: value for name, value in values.items() if self._is_written(name, value)}
        nbytes = held_bytes(kept) + (
            0 if self.makes_vectors else held_bytes(made)
        )  # candidates, which may be photographs
        if self._hashed:
            told = None if failures else hash_of_outcomes(self.places(token), outcomes)
            made = {**made, CONTENT_HASH: told}
        return Result({**kept, **made}, name, failures, records, nbytes, inner)

    def key(self, token: Any) -> str | None:
        """Return what names a row that was read, as it is written; None for one without a name."""
        return None if token.failure is not None else key_text(_value(token.values, self._plan.key))

    def places(self, token: Any) -> list[str]:
        """Return where each of a row's items stands."""
        return [] if self._places is None else self._places(_getter(token.values))

    def _is_written(self, name: str, value: Any) -> bool:
        if isinstance(value, Uri):  # a file of the input, whose name is the key
            return False
        return name in self._kept or (self._has_rest and not isinstance(value, bytes))

    def made(self, row: Mapping[str, Any]) -> list[Any]:
        """Return the vectors or scores of what is written, None where one is null."""
        return self._layout.made(row)

    def records(self, row: Mapping[str, Any], failures: Sequence[Failure]) -> list[dict[str, Any]]:
        """Return failures of a row as they are written."""
        return row_failure_records(failures, row, self._plan, lambda path: _plain_value(row, path))

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
        """Return rows as Arrow."""
        return rows_batch(rows, self._schema, self._plan, self._dim)


Mode = DocumentMode | RowMode


def mode_of(
    plan: Plan, encoder: Encoder, reader: Mapping[str, Any], schema: pa.Schema, *, hashed: bool = False
) -> Mode:
    """Return how a plan's rows or documents are read, given their results, and written.

    Args:
        plan: What is done.
        encoder: With what.
        reader: Arguments of `read_documents`.
        schema: What is written.
        hashed: Whether what tells the content of each is written too; outcomes say it then.

    Raises:
        SpecError: If the model cannot do it after all.
    """
    if is_of_rows(plan):
        return RowMode(plan, encoder, schema, hashed=hashed)  # type: ignore[arg-type]  # told by its new columns
    return DocumentMode(plan, encoder, reader, schema, hashed=hashed)  # type: ignore[arg-type]


def _with_vectors(plan: AnyDocumentPlan) -> Callable[[Document], list[Document]]:
    """Return what tells the documents of a tree whose vectors are used where they are there already."""
    if isinstance(plan, DocumentRankPlan):
        return lambda document: [document, *document.matches]
    if isinstance(plan, DocumentClassifyPlan):
        return lambda document: [inner for _, inner in plan.documents.select(document)]
    return lambda document: []


def _single_columns(plan: RowPlan, schema: pa.Schema) -> set[str]:
    """Return the columns of which each row holds one value, as no file declares them arrays."""
    columns = plan.columns if isinstance(plan, ClassifyPlan) else plan
    if not isinstance(columns, ColumnPlan):
        return set()
    one_each = {field.name: _depth(field.type) for field in schema}
    usual = 1  # a vector is a list of numbers, and labels are a list
    return {path for path, column in columns.columns.items() if one_each.get(str(column.output), usual) == usual}


def _depth(kind: pa.DataType) -> int:
    """Return how many lists stand around each other in a type."""
    return 1 + _depth(kind.value_type) if pa.types.is_list(kind) else 0


def _getter(values: Mapping[str, Any]) -> Any:
    return lambda path: get_by_path(values, path)


def _value(values: Mapping[str, Any], path: str) -> Any:
    try:
        return get_by_path(values, path)
    except MissingColumn:
        return None


def _plain_value(values: Mapping[str, Any], path: str) -> Any:
    value = _value(values, path)
    return value.uri if isinstance(value, Uri) else value


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}
