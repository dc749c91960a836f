"""Reads the rows of Parquet and Arrow files, a few at a time, so that memory holds a bounded number of bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ...failures import Code, Failure, Stage
from ...files.arrow_stream import ArrowStream
from ...files.file_systems import open_input, raise_failing_store
from ...files.parquet import parquet_file
from ...files.parquet_pages import PageGuard, TooManyRowsError
from ..tables.carried import carried_rows
from ..tables.column_types import top_level
from ..tables.scalars import holds_audio, inner_values, printable_values, read_scalar
from ..tables.sizes import BATCH_BYTES, BATCH_ROWS
from .lines import RecordTooLargeError, check_values
from .shards import Shard
from .source_row import SourceRow, failure_of, malformed

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_TEXT_OR_BYTES = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


class Selection(NamedTuple):
    """What is read of the rows of a Parquet or Arrow file.

    Attributes:
        read: Paths of the values that are converted to Python.
        carried: Columns that are carried to the output as Arrow values.
    """

    read: frozenset[str]
    carried: frozenset[str]


def parquet_rows(
    shard: Shard, choose: Callable[[list[str]], list[str]] | None, selection: Selection | None
) -> Iterator[SourceRow]:
    """Yield the rows of a shard of a Parquet file; see `read_rows`."""
    path = shard.paths[0]
    # No pre-buffering: it would hold all columns of a row group in memory.
    with (
        open_input(path) as raw,
        parquet_file(guard := PageGuard(raw, BATCH_ROWS, BATCH_BYTES), pre_buffer=False, buffer_size=2**20) as file,
    ):
        columns, split = _columns(file.schema_arrow.names, choose, selection)
        first, last = 0, file.metadata.num_rows if shard.stop is None else shard.stop
        for group in range(file.metadata.num_row_groups):
            length = file.metadata.row_group(group).num_rows
            start, stop = max(shard.start, first), min(first + length, last)
            if start < stop:
                wanted = range(start, stop)
                yield from _row_group(_parquet_batches(file, guard, group, columns, first, wanted), path, wanted, split)
            first += length


def arrow_rows(
    shard: Shard, choose: Callable[[list[str]], list[str]] | None, selection: Selection | None
) -> Iterator[SourceRow]:
    """Yield the rows of a shard of an Arrow file or stream; see `read_rows`."""
    path = shard.paths[0]
    with ArrowStream(path) as stream:
        columns, split = _columns(stream.schema.names, choose, selection)
        wanted = range(shard.start, sys.maxsize if shard.stop is None else shard.stop)
        yield from _row_group(_arrow_batches(stream, columns, wanted), path, wanted, split)


def _arrow_batches(
    stream: ArrowStream, columns: list[str] | None, wanted: range
) -> Iterator[tuple[int, pa.RecordBatch]]:
    at = after = 0
    for batch in stream.batches():
        part = batch if columns is None else batch.select(columns)
        after = max(after, wanted.start)
        for some in _pieces(part, at, after, wanted.stop, most=min(BATCH_ROWS, _rows_of_dictionaries(part))):
            yield after, some
            after += some.num_rows
        at += batch.num_rows
        if at >= wanted.stop:
            return


def _rows_of_dictionaries(batch: pa.RecordBatch) -> int:
    """Return how many rows may be held at once if each of them has the longest value of every dictionary."""
    lengths = [
        pc.max(pc.binary_length(column.dictionary)).as_py() or 0
        for column in batch.columns
        if pa.types.is_dictionary(column.type) and column.type.value_type in _TEXT_OR_BYTES
    ]
    return max(1, BATCH_BYTES // max(sum(lengths), 1))


def _pieces(
    batch: pa.RecordBatch, at: int, after: int, stop: int, *, most: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a batch, which begins at row `at`, from row `after` to `stop`, a few at a time."""
    while after < min(at + batch.num_rows, stop):
        left = batch.slice(after - at, stop - after)
        some = left.slice(0, min(most, max(1, left.num_rows * BATCH_BYTES // max(left.nbytes, 1))))
        yield some
        after += some.num_rows


def _columns(
    there: list[str], choose: Callable[[list[str]], list[str]] | None, selection: Selection | None
) -> tuple[list[str] | None, _Split | None]:
    """Return the columns to read of a table, None for all, and what each is for."""
    if selection is None:
        return (choose(list(there)) if choose else None), None
    split = _Split(top_level(selection.read, there), [name for name in there if name in selection.carried])
    return list(dict.fromkeys([*split.read, *split.carried])) or there[:1], split  # any column counts the rows


class _Split(NamedTuple):
    """The columns of a `Selection` that a file has."""

    read: list[str]
    carried: list[str]


def _parquet_batches(
    file: pq.ParquetFile, guard: PageGuard, group: int, columns: list[str] | None, first: int, wanted: range
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the wanted rows of a row group, a few at a time, with the number of the first; `first` is the group's.

    A footer's sizes are claims, and a dictionary's values repeat: rows are read again, fewer at a time, if the pages
    say that so many may be too large.
    """
    metadata = file.metadata.row_group(group)
    row_bytes = metadata.total_byte_size // max(metadata.num_rows, 1)
    after = wanted.start
    while after < wanted.stop:
        rows, at = max(1, min(guard.max_rows, BATCH_BYTES // max(row_bytes, 1))), first
        guard.watch(file, group, rows)
        with contextlib.suppress(TooManyRowsError):
            # Threads cost more than they save: batches are small, and pages of all columns would be decoded at once.
            for batch in file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
                for some in _pieces(batch, at, after, wanted.stop):
                    yield after, some
                    after += some.num_rows
                at += batch.num_rows
                if at >= wanted.stop:
                    return
            return


def _row_group(
    batches: Iterator[tuple[int, pa.RecordBatch]], path: str, wanted: range, split: _Split | None
) -> Iterator[SourceRow]:
    after = wanted.start
    try:
        for first, batch in batches:
            read = batch if split is None else batch.select(split.read)
            carried = [None] * len(batch) if split is None else carried_rows(batch.select(split.carried))
            for number, (values, row) in enumerate(zip(_values_of(read), carried, strict=True), first):
                after = number + 1
                place = f"{path}:{number}"
                if isinstance(values, Failure):
                    yield SourceRow(place, {}, values.at(row=place))
                else:
                    yield SourceRow(place, values, None, row)
    except Exception as err:  # the rest of this row group is lost; the next one may be readable
        raise_failing_store(err, path)
        place = f"{path}:{after}"
        failure = failure_of(err, path)
        last = "the last" if wanted.stop == sys.maxsize else wanted.stop - 1
        message = f"rows {after} to {last}: " + failure.message
        yield SourceRow(place, {}, Failure(failure.stage, failure.code, message, failure.transient, row=place))


def _values_of(batch: pa.RecordBatch) -> list[dict[str, Any] | Failure]:
    try:
        check_values("the row", sum(map(inner_values, batch.columns)))
    except RecordTooLargeError as err:
        if batch.num_rows == 1:
            return [Failure(Stage.READ, Code.TOO_LARGE, str(err))]
        return [one for row in range(batch.num_rows) for one in _values_of(batch.slice(row, 1))]
    columns: dict[str, list[Any]] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[name] = [*map(read_scalar, column)] if holds_audio(column.type) else printable_values(column)
        except Exception as err:  # Python cannot represent a value, such as a text that is not UTF-8
            if batch.num_rows == 1:
                failure = malformed(f"the {column.type} cannot be read: {type(err).__name__}: {err}"[:300])
                return [dataclasses.replace(failure, column=name)]
            return [one for row in range(batch.num_rows) for one in _values_of(batch.slice(row, 1))]
    if not columns:
        return [{} for _ in range(batch.num_rows)]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
