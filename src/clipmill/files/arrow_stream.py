"""Reads Arrow files and streams (Feather, the caches of Hugging Face) whose batches may expand.

A file (`ARROW1`) is a stream with a table of contents behind it, so that both are read from their beginning:

    [ARROW1][schema][dictionary …][batch][batch] … [end]

A compressed buffer says how long it is once decompressed. pyarrow allocates that much, and does not show it, so the
headers are read ahead (https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc).
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, Self

import pyarrow as pa

from .file_systems import is_local, open_input, open_location

MAGIC = b"ARROW1\x00\x00"
CONTINUATION = b"\xff\xff\xff\xff"
MAX_BATCH_BYTES = 256 * 2**20
"""Maximum bytes of a batch with compressed buffers, once decompressed."""
MAX_BATCH_RATIO = 32
"""Larger batches may have this many times the bytes that they take in the file."""
_MAX_HEADER_BYTES = 2**24
_DICTIONARY, _BATCH = 2, 3


class BatchTooLargeError(ValueError):
    """Raised for a batch that takes much more memory than bytes of the file."""


class BatchHeader(NamedTuple):
    """What a stream says of a batch before it is decoded.

    Attributes:
        rows: Its number of rows.
        stored: Bytes in the file, with those of the dictionaries before it.
        nbytes: Bytes once decompressed, at most.
        is_compressed: Whether any buffer is compressed.
    """

    rows: int
    stored: int
    nbytes: int
    is_compressed: bool

    @property
    def is_too_large(self) -> bool:
        """Whether the batch expands to more than is allowed."""
        return self.is_compressed and self.nbytes > max(MAX_BATCH_BYTES, MAX_BATCH_RATIO * self.stored)


class ArrowStream:
    """The batches of an Arrow file or stream, in order; a context manager.

    A local file is mapped, so that its uncompressed batches take no memory of their own.
    """

    def __init__(self, path: str) -> None:
        """Open a file by its path or URL; raise `pyarrow.ArrowInvalid` or `OSError` if it cannot be read."""
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(open_input(path))
            file_system, place = open_location(path)
            source = pa.memory_map(place) if is_local(file_system) else pa.PythonFile(self._file, mode="r")
            stack.callback(source.close)
            self._start = len(MAGIC) if source.read(len(MAGIC)) == MAGIC else 0
            source.seek(self._start)
            self._reader = pa.ipc.open_stream(source)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def schema(self) -> pa.Schema:
        """The schema of all batches."""
        return self._reader.schema

    def headers(self) -> Iterator[BatchHeader]:
        """Yield what the stream says of its batches; no batch is decoded."""
        yield from batch_headers(self._file, self._start)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches; their offsets and texts are checked, since a crafted file may point anywhere.

        Raises:
            BatchTooLargeError: At a batch that expands to more than is allowed.
            pyarrow.ArrowInvalid, OSError: Where the file is damaged.
        """
        for header in self.headers():
            if header.is_too_large:
                raise BatchTooLargeError(
                    f"a batch of {header.rows:,} rows takes {header.nbytes:,} bytes of memory, allowed are "
                    f"{MAX_BATCH_BYTES:,}, or {MAX_BATCH_RATIO} times its bytes in the file; write smaller batches"
                )
            batch = self._reader.read_next_batch()
            batch.validate(full=True)
            yield batch


def batch_headers(file: IO[bytes], at: int = 0) -> Iterator[BatchHeader]:
    """Yield the headers of a stream's batches; its schema begins at byte `at`. The file may be read in between.

    Raises:
        ValueError: If a header is damaged, or the stream is cut off.
    """
    while True:
        elsewhere = file.tell()
        header, at = _next_header(file, at)
        file.seek(elsewhere)
        if header is None:
            return
        yield header


def _next_header(file: IO[bytes], at: int) -> tuple[BatchHeader | None, int]:
    """Return the header of the batch after byte `at`, None at the end of the stream, and the byte after that batch."""
    stored = nbytes = 0
    is_compressed = False
    while True:
        file.seek(at)
        start = file.read(8)
        if len(start) < 8 or start[:4] != CONTINUATION:
            raise ValueError("the Arrow stream is cut off or damaged between two batches")
        length = int.from_bytes(start[4:], "little", signed=True)
        if length == 0:
            return None, at
        if not 0 < length <= _MAX_HEADER_BYTES or len(metadata := file.read(length)) < length:
            raise ValueError("the Arrow stream is cut off or damaged in the header of a batch")
        body = at + 8 + length
        try:
            kind, body_bytes, rows, buffers, compressed = _message(metadata)
        except (struct.error, IndexError) as err:
            raise ValueError("the header of an Arrow batch is damaged") from err
        if min(body_bytes, rows, *itertools.chain.from_iterable(buffers)) < 0:
            raise ValueError("the header of an Arrow batch has negative sizes")
        stored += length + body_bytes
        is_compressed |= compressed
        nbytes += _decompressed_bytes(file, body, buffers) if compressed else body_bytes
        at = body + body_bytes
        if kind == _BATCH:
            return BatchHeader(rows, stored, nbytes, is_compressed), at


def _decompressed_bytes(file: IO[bytes], body: int, buffers: list[tuple[int, int]]) -> int:
    total = 0
    for offset, length in buffers:
        if length:
            file.seek(body + offset)
            claimed = int.from_bytes(file.read(8), "little", signed=True)
            total += length if claimed < 0 else claimed  # -1: not compressed after all
    return total


def _message(data: bytes) -> tuple[int, int, int, list[tuple[int, int]], bool]:
    """Return the kind of a message, the bytes of its body, its rows, its buffers, and whether they are compressed."""
    message = _table(data, _number(data, 0, "<I"))
    kind = data[message(1)] if message(1) else 0
    body_bytes = _number(data, message(3), "<q") if message(3) else 0
    if kind not in (_DICTIONARY, _BATCH):
        return kind, body_bytes, 0, [], False
    batch = _table(data, _indirect(data, message(2)))
    if kind == _DICTIONARY:
        batch = _table(data, _indirect(data, batch(1)))
    rows = _number(data, batch(0), "<q") if batch(0) else 0
    vector = _indirect(data, batch(2))
    count = _number(data, vector, "<I")
    buffers = [struct.unpack_from("<qq", data, vector + 4 + 16 * number) for number in range(count)]
    return kind, body_bytes, rows, buffers, batch(3) != 0


def _table(data: bytes, at: int) -> Callable[[int], int]:
    """Return a function from the number of a FlatBuffers table's field to its position, 0 for a missing field."""
    fields = at - _number(data, at, "<i")
    size = _number(data, fields, "<H")

    def position(number: int) -> int:
        offset = _number(data, fields + 4 + 2 * number, "<H") if 4 + 2 * number < size else 0
        return at + offset if offset else 0

    return position


def _indirect(data: bytes, at: int) -> int:
    return at + _number(data, at, "<I")


def _number(data: bytes, at: int, form: str) -> Any:
    if at < 0:
        raise IndexError(at)
    return struct.unpack_from(form, data, at)[0]
