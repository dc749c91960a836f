"""Reads JSON lines and CSV record by record: a broken record loses only itself, and memory holds one record."""

from __future__ import annotations

import collections
import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, cast

import numpy as np

from ...files.compression import decompressed
from ...files.file_systems import open_input
from .listing import uncompressed_name

MAX_RECORD_BYTES = 128 * 2**20
"""Maximum bytes of one record; a missing line break or quote must not load the rest of a file into memory."""
MAX_DEPTH = 64
"""Maximum nesting of objects and arrays in a JSON line; copying and pickling would fail on deeper values."""
MAX_RECORD_LINES = 2 * 2**20
"""Maximum lines of one CSV record: each takes some 120 bytes in memory beside its text."""
MAX_RECORD_VALUES = 8 * 2**20
"""Maximum values of one record, in which an object or array counts twice: a byte in a file may become 50 in memory."""
_BLOCK = 4 * 2**20
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class TextRecord(NamedTuple):
    """A record of a text file.

    Attributes:
        line: Line at which it begins, from 1.
        offset: Byte at which it begins (of the decompressed content).
        value: A JSON line's value, or the fields of a CSV record; None if the record is broken.
        problem: What is wrong with it; "" if nothing is.
        too_large: Whether it exceeds a limit.
    """

    line: int
    offset: int
    value: Any
    problem: str = ""
    too_large: bool = False


class _Line(NamedTuple):
    number: int
    offset: int
    data: bytes
    too_long: bool = False


class RecordTooLargeError(ValueError):
    """Raised for a record that is, or would become, too large for memory."""


class BrokenFileError(ValueError):
    """Raised for a file that cannot be read as UTF-8 text at all, or has no valid header."""


def open_text(path: str) -> IO[bytes]:
    """Open a text file for reading as bytes, decompressed if it is compressed."""
    file, compression = decompressed(open_input(path))
    return file if compression else io.BufferedReader(cast(io.RawIOBase, file), _BLOCK)


def json_records(file: IO[bytes], *, offset: int = 0, line: int = 1) -> Iterator[TextRecord]:
    """Yield the objects of a file of JSON lines; blank lines have the value None and no problem.

    Args:
        file: A file opened by `open_text`.
        offset: Byte at which to begin.
        line: Number of the line that begins there.

    Raises:
        BrokenFileError: If the file is in UTF-16.
        OSError, EOFError, zlib.error: If reading fails.
    """
    for one in _lines(file, offset, line):
        if not one.data.strip() and not one.too_long:
            yield TextRecord(one.number, one.offset, None)
            continue
        yield _parsed(one, lambda text: json_object(text.rstrip("\r\n")))


def uri_records(file: IO[bytes], *, offset: int = 0, line: int = 1) -> Iterator[TextRecord]:
    """Yield the lines of a list of URIs as objects with the field `uri`; see `json_records`."""
    for one in _lines(file, offset, line):
        yield _parsed(one, lambda text: {"uri": uri} if (uri := text.strip()) else None)


def _parsed(line: _Line, parse: Callable[[str], Any]) -> TextRecord:
    try:
        return TextRecord(line.number, line.offset, parse(_text(line)))
    except ValueError as err:
        return TextRecord(line.number, line.offset, None, str(err), isinstance(err, RecordTooLargeError))


def json_object(text: str, what: str = "the line") -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        RecordTooLargeError: If it may have more than `MAX_RECORD_VALUES` values.
        ValueError: If `text` is no JSON object, or is nested more than `MAX_DEPTH` levels deep.
    """
    too_deep = f"{what} is nested more than {MAX_DEPTH} levels deep"
    if len(text) > MAX_RECORD_VALUES:  # a value takes a character at least
        check_values(what, text.count(",") + 2 * (text.count("{") + text.count("[")))
    try:
        value = json.loads(text)
    except json.JSONDecodeError as err:
        raise ValueError(f"invalid JSON: {err.msg.removesuffix(' at')} at character {err.pos}") from None
    except RecursionError:
        raise ValueError(too_deep) from None
    if not isinstance(value, dict):
        raise ValueError(f"{what} holds a {type(value).__name__}, not an object")
    if text.count("{") + text.count("[") > MAX_DEPTH and _is_too_deep(value):
        raise ValueError(too_deep)
    return value


def check_values(what: str, values: int) -> None:
    """Raise `RecordTooLargeError` if a record has more than `MAX_RECORD_VALUES` values."""
    if values > MAX_RECORD_VALUES:
        raise RecordTooLargeError(
            f"{what} has up to {values:,} values (objects and arrays count twice), and may have {MAX_RECORD_VALUES:,}"
        )


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


def csv_delimiter(path: str) -> str:
    """Return the delimiter of a file: a tab for `.tsv`, else a comma."""
    return "\t" if uncompressed_name(path).endswith(".tsv") else ","


def csv_header(file: IO[bytes], path: str) -> list[str] | None:
    """Return the columns' names, None for an empty file; raise `BrokenFileError` for an invalid header."""
    record = next(csv_records(file, csv_delimiter(path)), None)
    if record is None:
        return None
    if record.problem or not record.value:
        raise BrokenFileError(f"the header cannot be read: {record.problem or 'the first line is blank'}")
    if len(set(record.value)) < len(record.value):
        raise BrokenFileError(f"the header names a column twice: {', '.join(record.value)}")
    return list(record.value)


def csv_records(file: IO[bytes], delimiter: str, *, offset: int = 0, line: int = 1) -> Iterator[TextRecord]:
    """Yield the records of a CSV file, including the header; blank lines have an empty list of fields.

    Quotes, doubled quotes and line breaks inside quotes follow RFC 4180. If a record violates it, for example with a
    quote that is never closed, only the record's first line is lost; reading continues at the next line.

    No line is read more than twice. A broken record was inside quotes wherever one of its lines began. A record that
    begins at one of them and does not end on its line is inside quotes at the next one, too, and breaks at the same
    place with the same problem:

        broken      1 ──" 2 ── 3 ── 4 ── 5 ✗
        from 2             2 ──" 3 …            known to break at 5: line 2 alone is lost

    Args:
        file: A file opened by `open_text`.
        delimiter: Delimiter of the fields.
        offset: Byte at which to begin; a record must begin there.
        line: Number of the line that begins there.

    Raises:
        BrokenFileError: If the file is in UTF-16.
        OSError, EOFError, zlib.error: If reading fails.
    """
    # The limit applies to the whole process, so it is never lowered here. Base64 fields are long.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD_BYTES))
    lines = _lines(file, offset, line)
    pushed_back: collections.deque[_Line] = collections.deque()
    known_problem = ""
    while True:
        consumed: list[_Line] = []
        fields, problem, too_large = None, "", False
        is_known = len(pushed_back) > 1
        feed = _feed(lines, pushed_back, consumed, delimiter, most=1 if is_known else None)
        try:
            fields = next(csv.reader(feed, delimiter=delimiter, strict=True), None)
        except (csv.Error, UnicodeError, RecordTooLargeError) as err:
            problem, too_large = str(err), isinstance(err, RecordTooLargeError)
            if "unexpected end" in problem:
                problem = known_problem if is_known else "a quote is not closed"
            if not is_known:
                known_problem = problem
            pushed_back.extendleft(reversed(consumed[1:]))
        if not consumed:
            return
        yield TextRecord(consumed[0].number, consumed[0].offset, fields, problem, too_large)


def _feed(
    lines: Iterator[_Line],
    pushed_back: collections.deque[_Line],
    consumed: list[_Line],
    delimiter: str,
    *,
    most: int | None,
) -> Iterator[str]:
    """Yield lines, `most` of them, to the CSV reader, which takes as many as its record has; append to `consumed`."""
    nbytes = values = 0
    while most is None or len(consumed) < most:
        line = pushed_back.popleft() if pushed_back else next(lines, None)
        if line is None:
            return
        consumed.append(line)
        nbytes += len(line.data)
        if nbytes > MAX_RECORD_BYTES:
            raise RecordTooLargeError(f"the record is longer than {MAX_RECORD_BYTES:,} bytes; is a quote missing?")
        if len(consumed) > MAX_RECORD_LINES:
            raise RecordTooLargeError(f"the record has more than {MAX_RECORD_LINES:,} lines; is a quote missing?")
        text = _text(line)
        values += text.count(delimiter)
        check_values("the record", values)
        yield text


def _text(line: _Line) -> str:
    if line.too_long:
        raise RecordTooLargeError(f"the line is longer than {MAX_RECORD_BYTES:,} bytes")
    try:
        return line.data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise UnicodeError(f"the line is not UTF-8 at byte {err.start}") from None


def _lines(file: IO[bytes], offset: int, number: int) -> Iterator[_Line]:
    if offset:
        file.seek(offset)
    while data := file.readline(MAX_RECORD_BYTES + 1):
        length, too_long = len(data), len(data) > MAX_RECORD_BYTES
        while too_long and not data.endswith(b"\n") and (data := file.readline(_BLOCK)):
            length += len(data)
        if offset == 0 and not too_long:
            if data.startswith(_UTF16):
                raise BrokenFileError("the file is in UTF-16; convert it to UTF-8")
            data = data.removeprefix(_BOM)
        yield _Line(number, offset, b"" if too_long else data, too_long)
        offset += length
        number += 1


def line_starts(path: str, every: int) -> list[int]:
    """Return the byte offsets of every `every`-th line of an uncompressed file, ascending from 0."""
    starts, base, lines = [0], 0, 0
    with open_input(path) as file:
        while block := file.read(_BLOCK):
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            starts += [base + int(end) + 1 for end in ends[(-lines - 1) % every :: every]]
            lines += len(ends)
            base += len(block)
    return [start for start in starts if start < base or start == 0]


JSON_OVER_LINES = "JSON over many lines; make JSON lines of it: jq -c . file.json > file.jsonl"


def json_problem(start: bytes) -> str:
    """Return what JSON that begins like this is, with a hint, if it cannot be JSON lines; "" if it may be."""
    line = start.removeprefix(_BOM).lstrip().partition(b"\n")[0].rstrip()
    if line.startswith(b"["):
        return "a JSON array; make JSON lines of it: jq -c '.[]' file.json > file.jsonl"
    return JSON_OVER_LINES if line == b"{" else ""
