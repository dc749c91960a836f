"""Adapters of a job's rows and documents: how they are read, and what of them is written."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from ..datasets.formats.shard_sink import FinishedRow
from ..datasets.inputs.columnar import Selection
from ..datasets.inputs.file_names import namer, renamed
from ..datasets.inputs.readers import read_documents
from ..datasets.inputs.rows import read_rows
from ..datasets.inputs.samples import AUDIO, IMAGE, KEY, PLACE_COLUMNS, member_columns
from ..datasets.inputs.shards import Shard
from ..datasets.inputs.source_row import SourceRow, malformed
from ..datasets.tables.carried import FinishedValues
from ..datasets.tables.column_types import REST_KEY, dropped_names, is_list_type
from ..datasets.tables.records import failure_records, inner_failure_records
from ..datasets.tables.schemas import CONTENT_HASH
from ..datasets.tables.sizes import held_bytes
from ..encoders.content_hash import hash_of_outcomes
from ..encoders.document import Document
from ..encoders.item import Uri
from ..encoders.plans.document_embed_plan import EMBEDDING
from ..encoders.plans.plan import DocumentPlan, RowPlan
from ..encoders.plans.row_values import Getter, get_by_path, row_name, value_or_none
from ..encoders.plans.runner import Done
from ..failures import Failure
from ..files.json_text import key_text
from .job import Job


class Record(NamedTuple):
    """A row or document of a shard.

    Attributes:
        read: The row or document as it was read.
        source: The getter of the row, or the document, for the plan.
        failure: Why a row could not be read; a document has its own failures.
        placed: The column of a tar's sample whose content its `PLACE_COLUMNS` describe.
    """

    read: Any
    source: Any
    failure: Failure | None = None
    placed: str = IMAGE

    @property
    def nbytes(self) -> int:
        """Bytes of the row or document in memory; contents that are carried, too, count once."""
        if not isinstance(self.read, SourceRow):
            return held_bytes(self.read)
        carried = 0 if self.read.carried is None else self.read.carried.nbytes
        return max(held_bytes(self.read.values), carried)


class DocumentRecords:
    """Documents of a job."""

    def __init__(self, job: Job) -> None:
        self._plan: DocumentPlan = job.plan  # type: ignore[assignment]  # see `records_of`
        self._hashed = job.content_hash
        self._reader = job.reader
        self._name_of = name_of(job)
        self._max_file_bytes = job.spec.max_fetch_bytes

    def read(self, shard: Shard) -> Iterator[Record]:
        """Yield the documents of a shard."""
        documents = read_documents(
            shard,
            self._reader,
            to_rank=self._plan.needs_matches,
            max_file_bytes=self._max_file_bytes,
            name_of=self._name_of,
        )
        for document in documents:
            for inner in self._plan.precomputed(document):
                inner.embedding = inner.tags.pop(EMBEDDING, None)  # a line's unknown fields are tags
            yield Record(document, document)

    def unread(self, shard: Shard, failure: Failure) -> Record:
        """Return a record in place of the documents of a shard that cannot be read."""
        name = self._name_of(shard.paths[0])
        document = Document(id=name, failures=(failure.at(row=name),))
        return Record(document, document)

    def key(self, record: Record) -> str | None:
        """Return the name of a document as it is written; None for one that could not be read."""
        return None if record.read.failures else key_text(record.read.id)

    def finished(self, done: Done) -> FinishedRow:
        """Return the document and its failures, for the files."""
        document: Document = done.result.value
        if self._hashed:
            document.tags.pop(CONTENT_HASH, None)  # of an earlier dataset
            content_hash = hash_of_outcomes(self._plan.places(done.source), done.outcomes)
            if content_hash and not document.failures:
                document.tags[CONTENT_HASH] = content_hash
        failures = failure_records(self._plan, document, document.failures)
        failures += inner_failure_records(self._plan, document)
        return FinishedRow(document, failures, bool(document.failures), document.id)


class RowRecords:
    """Rows of a job."""

    def __init__(self, job: Job) -> None:
        self._plan: RowPlan = job.plan  # type: ignore[assignment]  # see `records_of`
        self._hashed = job.content_hash
        self._name_of = name_of(job)
        self._max_file_bytes = job.spec.max_fetch_bytes
        rest = [field for field in job.schema if REST_KEY in (field.metadata or {})]
        self._has_rest = bool(rest)
        self._kept = set(job.schema.names)
        new_names = {*self._plan.new_names, *([CONTENT_HASH] if self._hashed else [])}
        self._taken = new_names - {name for field in rest for name in dropped_names(field)} if rest else set()
        self._single = _single_columns(self._plan, job.schema)
        with_rest = {field.name for field in rest}  # a table's own column is merged with undeclared fields of others
        read = {*self._plan.reads, self._plan.key, *with_rest}
        self._members = member_columns(self._plan.reads)
        self._selection = Selection(frozenset(read), frozenset(self._kept - new_names - with_rest))

    def read(self, shard: Shard) -> Iterator[Record]:
        """Yield the rows of a shard."""
        rows = read_rows(shard, selection=self._selection, max_file_bytes=self._max_file_bytes, members=self._members)
        for row in rows:
            if row.failure is None and (problem := self._problem_of(row)):
                row = row._replace(failure=problem)
            row = renamed(row, self._name_of)
            placed = AUDIO if row.values.get(IMAGE) is None else IMAGE
            if shard.kind in ("files", "tar") and row.values:
                own = {KEY: row.place} if shard.kind == "files" else {}
                row = row._replace(values=self._of_sample({**row.values, **own}))
            if shard.kind == "jsonl" and row.values and row.values.get(self._plan.key) is None:
                row = row._replace(values={self._plan.key: row.place, **_without(row.values, self._plan.key)})
            yield Record(row, _getter(row.values), row.failure, placed)

    def _of_sample(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a sample with its name in the key column, and without bytes that the plan does not read."""
        named = row_name(_getter(values), self._plan.key)
        unused = {KEY, self._plan.key, *({IMAGE, AUDIO} - set(self._plan.reads))}
        kept = {name: value for name, value in values.items() if name not in unused}
        return {self._plan.key: named or values[KEY], **kept}

    def _problem_of(self, row: SourceRow) -> Failure | None:
        """Return why a row of undeclared columns does not fit the output, None if it does.

        It has a field with the name of a new column, or an array where the output has one vector.
        """
        if taken := sorted(self._taken & row.values.keys()):
            message = (
                f"the line has a field {taken[0]!r}, which a new column would overwrite: rename one, or drop the field"
            )
            return dataclasses.replace(malformed(message), column=taken[0])
        for path in self._single:
            if isinstance(value_or_none(_getter(row.values), path), list | tuple):
                return dataclasses.replace(malformed("the column holds an array in this row"), column=path)
        return None

    def unread(self, shard: Shard, failure: Failure) -> Record:
        """Return a record in place of the rows of a shard that cannot be read."""
        row = SourceRow(self._name_of(shard.paths[0]), {}, failure)
        return Record(row, _getter(row.values), failure)

    def key(self, record: Record) -> str | None:
        """Return the name of a row as it is written; None for one without a name."""
        return None if record.failure is not None else key_text(value_or_none(record.source, self._plan.key))

    def finished(self, done: Done) -> FinishedRow:
        """Return the written columns of a row and its failures, for the files."""
        row: SourceRow = done.token.read
        name = row_name(done.source, self._plan.key) or row.place
        failures = [failure.at(row=name) for failure in done.result.failures]
        inner = [failure.at(row=row.place) for failure in done.result.inner]
        written = None
        if done.result.value is not None:
            # Columns that are not written are released here. JSON lines keep all fields, in `tags`.
            # Encoded images and audio are in the carried row, too.
            is_kept = self._is_written if row.carried is None else self._is_repeated
            kept = {name: value for name, value in row.values.items() if is_kept(name, value)}
            written = {**kept, **done.result.value}
            if row.carried is not None:
                written = FinishedValues(written, row.carried)
            if self._hashed:
                content_hash = hash_of_outcomes(self._plan.places(done.source), done.outcomes)
                written[CONTENT_HASH] = None if failures else content_hash
        records = [
            {**record, **(_place_of(row.values) if record["column"] == done.token.placed else {})}
            for record in failure_records(self._plan, done.source, [*failures, *inner])
        ]
        return FinishedRow(written, records, bool(failures), name)

    def _is_written(self, name: str, value: Any) -> bool:
        if isinstance(value, Uri):  # a file of the input, whose name is the key
            return False
        return name in self._kept or (self._has_rest and not isinstance(value, bytes))

    def _is_repeated(self, name: str, value: Any) -> bool:
        """Return whether a value of a carried row is kept for the row's failures, too."""
        return not isinstance(value, bytes | memoryview) and self._is_written(name, value)


Records = DocumentRecords | RowRecords


def name_of(job: Job) -> Callable[[str], str]:
    """Return the function that names files, and rows without an id, by their places."""
    return namer(job.relative_to)


def records_of(job: Job) -> Records:
    """Return the adapter for the rows or documents of a job."""
    return RowRecords(job) if job.plan.of_rows else DocumentRecords(job)


def _single_columns(plan: RowPlan, schema: pa.Schema) -> set[str]:
    """Return the columns that hold one value in each row, because no file declares them as arrays."""
    found = set()
    for column in plan.added:
        if column.holds in ("vector", "labels") and column.source is not None:
            kind = schema.field(column.name).type if column.name in schema.names else None
            if kind is None or not is_list_type(kind.value_type):  # a vector is a list itself, and so are labels
                found.add(column.source)
    return found


def _place_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return where the content of a tar's sample can be read again, as a document's failure has it."""
    place = {name: values.get(name) for name in PLACE_COLUMNS}
    return {} if None in place.values() else {"tags": place}


def _getter(values: Mapping[str, Any]) -> Getter:
    return functools.partial(get_by_path, values)


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}
