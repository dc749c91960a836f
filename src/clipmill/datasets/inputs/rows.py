"""Reads a shard as rows. A record that cannot be read becomes a row with a failure, and reading continues."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import assert_never

from ...errors import ClipmillError
from ...failures import Code, Failure, RowError, Stage
from ...files.compression import compression_of
from ...files.file_systems import open_input, raise_failing_store
from .columnar import Selection, arrow_rows, parquet_rows
from .lines import TextRecord, csv_delimiter, csv_header, csv_records, json_records, open_text, uri_records
from .listing import listed_again
from .samples import ARCHIVE, KEY, MAX_FILE_BYTES, read_files, read_samples
from .shards import Shard, is_listed
from .source_row import SourceRow, failure_of, malformed
from .tars import open_tar


def read_rows(
    shard: Shard,
    *,
    choose: Callable[[list[str]], list[str]] | None = None,
    selection: Selection | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
    members: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[SourceRow]:
    """Read a shard as rows, if needed with some of its columns only.

    A row of JSON lines is the line's object, unchanged; the values of CSV are strings or None. A line of a list of URIs
    is a row with the column `uri`. A sample of a tar is a row of `key`, `image`, `audio`, `text`, `tags`, `archive`,
    `offset` and `size`; a file of a folder with its sidecar files is a row of the first five; see `samples`. `choose`
    returns the columns to read from a Parquet or Arrow file, given all of its columns; by default all are read.
    `selection` does the same, and carries columns to the output without converting them to Python. `max_file_bytes`
    limits one file in a tar; the sample of a larger one fails. `members` are files of a tar's samples that are columns
    of their own; see `read_samples`.

    Where a shard of a table or tar begins and ends holds for the file that was listed. Of another file rows would be
    missing, or in two shards: if the file has changed, the shard is one failure, `changed`. If it changes while it is
    read, such a failure follows the rows. A file of a folder is one row, whatever it holds by then.

    Yields:
        Rows in order; a record that could not be read is a row with a `failure`.

    Raises:
        DatasetError: If an object store does not answer. The rows that were not read are there, so this is no failure
            of theirs: the shard is done again.
    """
    path, at = shard.paths[0], [shard.start if shard.kind == "tar" else shard.line]
    is_table = shard.kind != "files"
    try:
        listed = listed_again(path) if is_table else None
        if listed is not None and not is_listed(shard, listed):
            raise _changed(path, "after the job listed it")
        yield from _rows(shard, at, choose, selection, max_file_bytes, members)
        if is_table and listed_again(path) != listed:
            raise _changed(path, "while it was read")
    except ClipmillError:
        raise
    except Exception as err:  # formats and file systems raise errors of their own; none may affect the next file
        raise_failing_store(err, path)
        is_columnar = shard.kind in ("parquet", "arrow")
        place = path if is_columnar else f"{path}:{at[0]}"
        yield SourceRow(place, {}, ((is_columnar and _compressed(path)) or failure_of(err, path)).at(row=place))


def _compressed(path: str) -> Failure | None:
    """Return the failure of a Parquet or Arrow file that is compressed as a whole; None for any other."""
    with contextlib.suppress(Exception), open_input(path) as file:
        if compression := compression_of(file.read(10)):
            return malformed(f"{path}: it is compressed with {compression} as a whole; decompress it")
    return None


def _changed(path: str, when: str) -> RowError:
    message = f"{path} changed {when}; run the job again when nothing writes to it (--resume reads only what changed)"
    return RowError(Stage.READ, Code.CHANGED, message, transient=True)


def _rows(
    shard: Shard,
    at: list[int],
    choose: Callable[[list[str]], list[str]] | None,
    selection: Selection | None,
    max_file_bytes: int,
    members: Mapping[str, str],
) -> Iterator[SourceRow]:
    """Yield the rows of a shard; `at` is set to the line or sample that comes next."""
    if shard.kind == "jsonl":
        yield from _line_rows(shard, at, json_records)
    elif shard.kind == "uris":
        yield from _line_rows(shard, at, uri_records)
    elif shard.kind == "csv":
        yield from _csv_rows(shard, at)
    elif shard.kind == "files" or shard.kind == "tar":  # narrows the type for `assert_never`
        yield from _sample_rows(shard, at, max_file_bytes, members)
    elif shard.kind == "parquet":
        yield from parquet_rows(shard, choose, selection)
    elif shard.kind == "arrow":
        yield from arrow_rows(shard, choose, selection)
    else:
        assert_never(shard.kind)


def _line_rows(shard: Shard, at: list[int], records: Callable[..., Iterator[TextRecord]]) -> Iterator[SourceRow]:
    path = shard.paths[0]
    with open_text(path) as file:
        for number, record in enumerate(records(file, offset=shard.offset, line=shard.line), shard.start):
            if number == shard.stop:
                return
            at[0] = record.line + 1
            place = f"{path}:{record.line}"
            if record.problem:
                yield SourceRow(place, {}, _failure_of_record(record).at(row=place))
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
            if not record.problem and record.value and len(record.value) != len(header):
                problem = f"the record has {len(record.value)} fields, but the header has {len(header)}"
                record = record._replace(problem=problem)
            if record.problem:
                yield SourceRow(place, {}, _failure_of_record(record).at(row=place))
            elif record.value:
                yield SourceRow(place, {name: value or None for name, value in zip(header, record.value, strict=True)})


def _sample_rows(shard: Shard, at: list[int], max_file_bytes: int, members: Mapping[str, str]) -> Iterator[SourceRow]:
    if shard.kind == "files":
        for sample in read_files(shard.paths, shard.beside, max_file_bytes=max_file_bytes):
            place = sample.values[KEY]
            yield SourceRow(place, sample.values, None if sample.failure is None else sample.failure.at(row=place))
        return
    path = shard.paths[0]
    with open_tar(path, shard.offset) as stream:
        samples = read_samples(
            stream, start=shard.start, stop=shard.stop, max_file_bytes=max_file_bytes, members=members
        )
        for sample in samples:
            at[0] = sample.number + 1
            place = f"{path}:{sample.number}"
            failure = None if sample.failure is None else sample.failure.at(row=place)
            values = sample.values if failure is not None else {ARCHIVE: path, **sample.values}
            yield SourceRow(place, values, failure)


def _failure_of_record(record: TextRecord) -> Failure:
    return Failure(Stage.READ, Code.TOO_LARGE if record.too_large else Code.MALFORMED, record.problem)
