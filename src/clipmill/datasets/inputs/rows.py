"""Reads a shard as rows. A record that cannot be read becomes a row with a failure, and reading continues."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

import pyarrow as pa

from ...encoders.plans.plan import RowPlan
from ...errors import ClipmillError, DatasetError
from ...failures import Code, Failure, RowError, Stage
from ...files.file_systems import open_input, reason_of
from ...files.parquet import parquet_file
from ..tables.carried import CarriedRow
from ..tables.column_types import LIST_OF_TEXTS, REST_KEY, TAGS, top_level, unified
from ..tables.scalars import holds_audio, read_scalar
from ..tables.sizes import BATCH_BYTES, BATCH_ROWS
from .lines import BrokenFileError, csv_records, json_records, open_text
from .samples import AUDIO, IMAGE, KEY, MAX_FILE_BYTES, SAMPLE_COLUMNS, TEXT, read_files, read_samples
from .shards import Shard, csv_delimiter
from .tars import open_tar

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_OPENERS = 8
_FILE_METADATA = (b"PARQUET:field_id", REST_KEY)
"""Metadata of fields that holds only for the file it was read from."""


class Selection(NamedTuple):
    """What is read of the rows of a Parquet file.

    Attributes:
        read: Paths of the values that are converted to Python.
        carried: Columns that are carried to the output as Arrow values.
    """

    read: frozenset[str]
    carried: frozenset[str]


class SourceRow(NamedTuple):
    """A row of an input.

    Attributes:
        place: `<path>:<line>` of text files (lines from 1), `<path>:<row>` of Parquet files (rows from 0),
            `<path>:<sample>` of tars (samples from 0), `<path>` of files.
        values: Its columns, or those that were selected; empty if it could not be read.
        failure: Why it could not be read.
        carried: Its columns for the output as Arrow values, if they were selected.
    """

    place: str
    values: dict[str, Any]
    failure: Failure | None = None
    carried: CarriedRow | None = None


def schema_of(shards: Sequence[Shard], plan: RowPlan | None = None) -> pa.Schema:
    """Return the schema that all rows of a job share, whichever file they come from.

    Columns of Parquet files keep their types; where files differ, the column has a type that holds both. Columns of
    CSV files are strings. JSON lines declare no fields, and no types are inferred: the key and the columns that the
    plan reads are strings (lists of strings for lists of candidates), and all other fields go into one column `tags`,
    as a JSON object. Samples of tars and folders have their key under the name of the plan's key, the caption as
    `text`, and their metadata in `tags`; samples of tars also have `image` and `audio` if the plan reads them.

    Args:
        shards: All shards of the job.
        plan: The operations on the columns; needed for JSON lines.

    Raises:
        DatasetError: If no file can be read, samples lack a column, or two files have incompatible columns.
    """
    first = {shard.paths[0]: shard for shard in reversed(shards)}
    with ThreadPoolExecutor(_OPENERS) as pool:
        found = list(pool.map(lambda shard: _schema_of_file(shard, plan), first.values()))
    schemas = [schema for schema in reversed(found) if schema is not None]
    if not schemas:
        example = next(iter(first), "none")
        raise DatasetError(f"none of the {len(first)} inputs can be read as a table; one of them is {example}")
    whole = unified(schemas)
    fields = [field for schema in schemas for field in schema]
    return pa.schema([_with_rest(field, fields) for field in whole], metadata=whole.metadata)


def _schema_of_file(shard: Shard, plan: RowPlan | None) -> pa.Schema | None:
    import pyarrow.parquet as pq  # late: it loads all of pyarrow's file systems, and ssl

    path = shard.paths[0]
    if shard.kind in ("files", "tar"):
        return _sample_schema(shard, plan)
    if shard.kind == "jsonl":
        declared = [] if plan is None else _declared(plan)
        return pa.schema([*declared, pa.field(TAGS, pa.string(), metadata={REST_KEY: b"[]"})])
    try:
        if shard.kind == "csv":
            with open_text(path) as file:
                header = csv_header(file, path)
            return None if header is None else pa.schema([pa.field(name, pa.string()) for name in header])
        with open_input(path) as raw:
            schema = pq.read_schema(raw)
    except ClipmillError:
        raise
    except Exception:  # its rows become failures, and other files decide the types
        return None
    # The pandas metadata would not describe the new columns.
    metadata = {key: value for key, value in (schema.metadata or {}).items() if key != b"pandas"}
    return pa.schema([_without_file_metadata(field) for field in schema], metadata=metadata)


def _declared(plan: RowPlan) -> list[pa.Field]:
    """Return the declared columns of JSON lines: the key, and the columns that the plan reads."""
    names = [plan.key, *(path for path in plan.reads if "." not in path)]
    types = dict.fromkeys(plan.lists, LIST_OF_TEXTS)
    return [pa.field(name, types.get(name, pa.string())) for name in dict.fromkeys(names) if name != TAGS]


def _sample_schema(shard: Shard, plan: RowPlan | None) -> pa.Schema:
    """Return the columns of samples; bytes only if the plan reads them, since they may be written again."""
    read = [] if plan is None else list(plan.reads)
    if missing := [path for path in read if path.split(".")[0] not in SAMPLE_COLUMNS]:
        columns = ", ".join(map(repr, SAMPLE_COLUMNS))
        raise DatasetError(
            f"{shard.paths[0]} has no column {missing[0]!r}; the columns of image files, audio files and tars are "
            f"{columns}"
        )
    types = {KEY if plan is None else plan.key: pa.string(), TEXT: pa.string()}
    if shard.kind == "tar":
        types |= {name: pa.binary() for name in (IMAGE, AUDIO) if name in read}
    rest = pa.field(TAGS, pa.string(), metadata={REST_KEY: b"[]"})
    return pa.schema([*(pa.field(name, kind) for name, kind in types.items()), rest])


def _without_file_metadata(field: pa.Field) -> pa.Field:
    """Return a field without its Parquet id, which new columns don't have, and without an earlier job's `REST_KEY`."""
    metadata = {key: value for key, value in (field.metadata or {}).items() if key not in _FILE_METADATA}
    return field.with_metadata(metadata) if metadata else field.remove_metadata()


def _with_rest(field: pa.Field, fields: Iterable[pa.Field]) -> pa.Field:
    """Return a field of the unified schema; it takes undeclared fields if it does so in one of the inputs."""
    if field.name != TAGS or not any(REST_KEY in (one.metadata or {}) for one in fields if one.name == TAGS):
        return field
    return field.with_metadata({**(field.metadata or {}), REST_KEY: b"[]"})


# --- records ---------------------------------------------------------------------------------------------------------


def read_rows(
    shard: Shard,
    *,
    choose: Callable[[list[str]], list[str]] | None = None,
    selection: Selection | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Iterator[SourceRow]:
    """Read a shard as rows, if needed with some of its columns only.

    A row of JSON lines is the line's object, unchanged; the values of CSV are strings or None. A sample of a tar is a
    row of `key`, `image`, `audio`, `text` and `tags`, and so is a file of a folder with its sidecar files; see
    `samples`. `choose` returns the columns to read from a Parquet file, given all of its columns; by default all are
    read. `selection` does the same, and carries columns to the output without converting them to Python.
    `max_file_bytes` limits one file in a tar; the sample of a larger one fails.

    Yields:
        Rows in order; a record that could not be read is a row with a `failure`.
    """
    path, at = shard.paths[0], [shard.start if shard.kind == "tar" else shard.line]
    try:
        if shard.kind == "jsonl":
            yield from _json_rows(shard, at)
        elif shard.kind == "csv":
            yield from _csv_rows(shard, at)
        elif shard.kind == "files" or shard.kind == "tar":  # narrows the type for `assert_never`
            yield from _sample_rows(shard, at, max_file_bytes)
        elif shard.kind == "parquet":
            yield from _parquet_rows(shard, choose, selection)
        else:
            assert_never(shard.kind)
    except ClipmillError:
        raise
    except Exception as err:  # formats and file systems raise errors of their own; none may affect the next file
        place = path if shard.kind == "parquet" else f"{path}:{at[0]}"
        yield SourceRow(place, {}, _failure_of(err, path).at(row=place))


def _json_rows(shard: Shard, at: list[int]) -> Iterator[SourceRow]:
    path = shard.paths[0]
    with open_text(path) as file:
        for number, record in enumerate(json_records(file, offset=shard.offset, line=shard.line), shard.start):
            if number == shard.stop:
                return
            at[0] = record.line + 1
            place = f"{path}:{record.line}"
            if record.problem:
                yield SourceRow(place, {}, malformed(record.problem).at(row=place))
            elif record.value is not None:
                yield SourceRow(place, record.value)


def _csv_rows(shard: Shard, at: list[int]) -> Iterator[SourceRow]:
    path = shard.paths[0]
    delimiter = csv_delimiter(path)
    with open_text(path) as file:
        header = csv_header(file, path)
        if header is None:
            return
        if shard.offset:
            records = csv_records(file, delimiter, offset=shard.offset, line=shard.line)
        else:
            file.seek(0)
            records = csv_records(file, delimiter)
            next(records)  # the header, which may take more than one line
        for number, record in enumerate(records, shard.start):
            if number == shard.stop:
                return
            at[0] = record.line + 1
            place = f"{path}:{record.line}"
            problem = record.problem
            if not problem and record.value and len(record.value) != len(header):
                problem = f"the record has {len(record.value)} fields, but the header has {len(header)}"
            if problem:
                yield SourceRow(place, {}, malformed(problem).at(row=place))
            elif record.value:
                yield SourceRow(place, {name: value or None for name, value in zip(header, record.value, strict=True)})


def _sample_rows(shard: Shard, at: list[int], max_file_bytes: int) -> Iterator[SourceRow]:
    if shard.kind == "files":
        for sample in read_files(shard.paths, shard.beside, max_file_bytes=max_file_bytes):
            place = sample.values[KEY]
            yield SourceRow(place, sample.values, None if sample.failure is None else sample.failure.at(row=place))
        return
    path = shard.paths[0]
    with open_tar(path, shard.offset) as stream:
        for sample in read_samples(stream, start=shard.start, stop=shard.stop, max_file_bytes=max_file_bytes):
            at[0] = sample.number + 1
            place = f"{path}:{sample.number}"
            failure = None if sample.failure is None else sample.failure.at(row=place)
            yield SourceRow(place, sample.values, failure)


def csv_header(file: Any, path: str) -> list[str] | None:
    """Return the columns' names, None for an empty file; raise `BrokenFileError` for an invalid header."""
    record = next(csv_records(file, csv_delimiter(path)), None)
    if record is None:
        return None
    if record.problem or not record.value:
        raise BrokenFileError(f"the header cannot be read: {record.problem or 'the first line is blank'}")
    if len(set(record.value)) < len(record.value):
        raise BrokenFileError(f"the header names a column twice: {', '.join(record.value)}")
    return list(record.value)


def _parquet_rows(
    shard: Shard, choose: Callable[[list[str]], list[str]] | None, selection: Selection | None
) -> Iterator[SourceRow]:
    path = shard.paths[0]
    # No pre-buffering: it would hold all columns of a row group in memory.
    with open_input(path) as raw, parquet_file(raw, pre_buffer=False, buffer_size=2**20) as file:
        there = file.schema_arrow.names
        columns = choose(list(there)) if choose else None
        split = None
        if selection is not None:
            split = _Split(top_level(selection.read, there), [name for name in there if name in selection.carried])
            columns = list(dict.fromkeys([*split.read, *split.carried])) or there[:1]  # any column counts the rows
        first, last = 0, file.metadata.num_rows if shard.stop is None else shard.stop
        for group in range(file.metadata.num_row_groups):
            length = file.metadata.row_group(group).num_rows
            start, stop = max(shard.start, first), min(first + length, last)
            if start < stop:
                all_rows, wanted = range(first, first + length), range(start, stop)
                yield from _row_group(file, group, columns, path, all_rows, wanted, split)
            first += length


class _Split(NamedTuple):
    """The columns of a `Selection` that a file has."""

    read: list[str]
    carried: list[str]


def _row_group(
    file: pq.ParquetFile,
    group: int,
    columns: list[str] | None,
    path: str,
    all_rows: range,
    wanted: range,
    split: _Split | None,
) -> Iterator[SourceRow]:
    at, after = all_rows.start, wanted.start
    row_bytes = file.metadata.row_group(group).total_byte_size // max(len(all_rows), 1)
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES // max(row_bytes, 1)))
    try:
        for batch in file.iter_batches(rows, row_groups=[group], columns=columns):
            low, high = max(wanted.start - at, 0), min(wanted.stop - at, batch.num_rows)
            if low < high:
                part = batch.slice(low, high - low)
                read, carried = (part, None) if split is None else (part.select(split.read), part.select(split.carried))
                for number, values in enumerate(_values_of(read)):
                    after = at + low + number + 1
                    place = f"{path}:{after - 1}"
                    if isinstance(values, Failure):
                        yield SourceRow(place, {}, values.at(row=place))
                    else:
                        yield SourceRow(place, values, None, None if carried is None else CarriedRow(carried, number))
            at += batch.num_rows
            if at >= wanted.stop:
                return
    except Exception as err:  # the rest of this row group is lost; the next one may be readable
        place = f"{path}:{after}"
        failure = _failure_of(err, path)
        message = f"rows {after} to {wanted.stop - 1}: " + failure.message
        yield SourceRow(place, {}, Failure(failure.stage, failure.code, message, failure.transient, row=place))


def _values_of(batch: pa.RecordBatch) -> list[dict[str, Any] | Failure]:
    columns: dict[str, list[Any]] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[name] = [*map(read_scalar, column)] if holds_audio(column.type) else column.to_pylist()
        except Exception as err:  # Python cannot represent a value, such as a text that is not UTF-8
            if batch.num_rows == 1:
                failure = malformed(f"the {column.type} cannot be read: {type(err).__name__}: {err}"[:300])
                return [dataclasses.replace(failure, column=name)]
            return [one for row in range(batch.num_rows) for one in _values_of(batch.slice(row, 1))]
    if not columns:
        return [{} for _ in range(batch.num_rows)]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


# --- failures --------------------------------------------------------------------------------------------------------


def malformed(message: str) -> Failure:
    """Return the failure of a malformed record."""
    return Failure(Stage.READ, Code.MALFORMED, message)


def _failure_of(err: Exception, path: str) -> Failure:
    """Return why a file cannot be read: it does not exist, is damaged, or its disk or object store fails."""
    if isinstance(err, RowError):
        return err.failure
    reason = f"{path}: {reason_of(err)[:300]}"
    if isinstance(err, FileNotFoundError | NotADirectoryError):
        return Failure(Stage.READ, Code.NOT_FOUND, f"{path}: no such file")
    is_damage = isinstance(err, pa.ArrowException | ValueError | EOFError | zlib.error)
    if is_damage or (isinstance(err, OSError) and err.errno is None):
        return malformed(reason)
    return Failure(Stage.READ, Code.FETCH_FAILED, reason, transient=not isinstance(err, PermissionError))
