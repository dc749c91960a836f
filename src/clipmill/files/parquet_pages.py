"""Reads Parquet files whose pages may expand: how much a page holds is known before it is decoded.

A page of a few bytes may decompress to 2 GiB, and a dictionary may hold one long value that all rows repeat. The
footer's sizes are claims, so the sizes are taken from the page headers, which Arrow itself uses to allocate memory.
pyarrow does not show them. `PageGuard` reads them while they pass by:

    column chunk   [dictionary header][page][header][page][header][page] …
    checked         ▲                        ▲             ▲               each before the bytes after it are decoded
"""

from __future__ import annotations

import bisect
import itertools
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from .page_headers import PageHeader, page_header

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MAX_PAGE_BYTES = 256 * 2**20
"""Maximum bytes of the pages of a row group that are in memory together, one of each column, with dictionaries."""
MAX_PAGE_RATIO = 32
"""Larger pages may have this many times the bytes that they take in the file. Photographs written in large row groups
have pages of 1 GiB, but they hardly compress; texts rarely compress more than tenfold."""
_HEADER_BYTES, _MAX_HEADER_BYTES = 2**16, 2**24
"""Bytes that are read of a page header at first, and at most: it may hold two values as statistics. Arrow refuses
larger ones, too."""
_SMALL_DICTIONARY = 2**16
_PADDING = 100
"""Bytes by which the pages of a column may be longer than the footer says: early writers left a header out."""
_DICTIONARY_PAGE = 2
_DELTA_BYTE_ARRAY = 7
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}


class PageTooLargeError(ValueError):
    """Raised for pages that take much more memory than bytes of the file."""


class TooManyRowsError(ValueError):
    """Raised if the rows that are read at once may take much more memory than the pages that hold them."""


class _Sizes(NamedTuple):
    """Bytes of the page and dictionary of a column that are in memory, and in the file, and of its longest value."""

    held: int = 0
    stored: int = 0
    longest: int = 0

    def __add__(self, other: tuple[int, ...]) -> _Sizes:  # type: ignore[override]
        return _Sizes(*map(int.__add__, self, other))

    def __sub__(self, other: _Sizes) -> _Sizes:
        return _Sizes(*map(int.__sub__, self, other))


class _Chunk:
    """A column of a row group: where its next page header is, and the sizes of its pages so far."""

    def __init__(self, name: str, at: int, end: int, width: int, *, codec: str, repeated: bool, texts: bool) -> None:
        self.name = name
        self.codec = codec
        self.texts = texts
        self.at = at
        self.end = end
        self.sizes = _Sizes()
        self._width = width
        self._repeated = repeated
        self._dictionary_bytes = 0

    def step(self, header: PageHeader, longest_of_dictionary: int = 0) -> None:
        """Move to the next header, and add this page to the sizes.

        Raises:
            ValueError: If Arrow would make room for more bytes than the file has, or more values than the bytes hold.
        """
        damaged = f"a page header of column {self.name!r} is damaged: "
        if header.stored > self.end - self.at + _PADDING:
            raise ValueError(damaged + f"{header.stored:,} bytes, which are more than the column has")
        if header.kind == _DICTIONARY_PAGE and header.values * self._width > header.nbytes:
            raise ValueError(damaged + f"{header.values:,} values in {header.nbytes:,} bytes")
        _, stored, longest = self.sizes
        held = header.nbytes
        if header.kind == _DICTIONARY_PAGE:
            self._dictionary_bytes, longest = held, longest_of_dictionary
            self._width += held // max(header.values, 1)
        elif self._repeated:  # a list of a million equal values takes a few bytes
            held = max(held, header.values * self._width)
        if header.encoding == _DELTA_BYTE_ARRAY:  # a value may repeat the one before
            longest = max(longest, header.nbytes)
        is_dictionary = header.kind == _DICTIONARY_PAGE
        self.sizes = _Sizes(
            held if is_dictionary else held + self._dictionary_bytes, max(stored, header.stored), longest
        )
        self.at += header.length + header.stored


class _FirstPageError(Exception):
    pass


class PageGuard:
    """A file for pyarrow that checks each page header of a row group before pyarrow gets it.

    Attributes:
        max_rows: How many rows may be read at once; lower after a `TooManyRowsError`.
    """

    def __init__(self, file: IO[bytes], max_rows: int, max_expanded_bytes: int) -> None:
        """Take an open file; `max_expanded_bytes` limits the rows read at once if each repeats the longest values."""
        self.max_rows = max_rows
        self._file = file
        self._max_expanded_bytes = max_expanded_bytes
        self._chunks: list[_Chunk] = []
        self._starts: list[int] = []
        self._sizes = _Sizes()
        self._rows = 1
        self._withheld: _FirstPageError | None = None

    def watch(self, file: pq.ParquetFile, group: int, rows: int) -> None:
        """Check the pages of a row group from now on, of which `rows` rows are read at once.

        From then on, reading raises:
            PageTooLargeError: If the pages are over `MAX_PAGE_BYTES` and `MAX_PAGE_RATIO`.
            TooManyRowsError: If the rows may be over `max_expanded_bytes`; `max_rows` is lower then.
            ValueError: If a page header cannot be read.

        Raises:
            ValueError: If columns of the row group overlap in the file.
            OSError: If what the footer says of a column is damaged.
        """
        self._check_columns(file, group)
        metadata, schema = file.metadata.row_group(group), file.schema
        chunks = [_chunk_of(metadata.column(n), schema.column(n)) for n in range(metadata.num_columns)]
        chunks.sort(key=lambda chunk: (chunk.at, chunk.end))
        for one, following in itertools.pairwise(chunks):
            if one.end > following.at:
                raise ValueError(f"the columns {one.name!r} and {following.name!r} overlap in the file")
        self._chunks, self._starts = chunks, [chunk.at for chunk in chunks]
        self._rows, self._sizes = rows, _Sizes()

    def _check_columns(self, file: pq.ParquetFile, group: int) -> None:
        """Let Arrow look at all columns' metadata where it raises errors: `RowGroupMetaData.column` ends the process.

        A reader looks at them before its first page, which it is not given.
        """
        self._withheld = _FirstPageError()
        try:
            next(file.iter_batches(1, row_groups=[group], use_threads=False), None)
        except _FirstPageError:
            pass
        finally:
            self._withheld = None

    def read(self, size: int = -1) -> bytes:
        """Return bytes of the file."""
        if self._withheld is not None:
            raise self._withheld
        start = self._file.tell()
        data = self._file.read(size)
        end = start + len(data)
        number = max(bisect.bisect_right(self._starts, start) - 1, 0)
        while number < len(self._chunks) and self._starts[number] < end:
            chunk = self._chunks[number]
            while start <= chunk.at < min(end, chunk.end):
                self._check(chunk, data, start)
            number += 1
        return data

    def _check(self, chunk: _Chunk, data: bytes, start: int) -> None:
        before = chunk.sizes
        header = self._header(chunk, data, start)
        chunk.step(header, self._longest(chunk, header, start + len(data)))
        self._sizes += chunk.sizes - before
        held, stored, longest = self._sizes
        if held > max(MAX_PAGE_BYTES, MAX_PAGE_RATIO * stored):
            raise PageTooLargeError(
                f"a page of column {chunk.name!r} takes {held / 2**20:,.0f} MiB in memory with those of the columns "
                f"beside it, and may take {MAX_PAGE_BYTES // 2**20} MiB or {MAX_PAGE_RATIO} times its size in the "
                "file; write the file again with smaller row groups, or pages of fewer rows"
            )
        if self._rows > 1 and self._rows * longest > self._max_expanded_bytes:
            self.max_rows = max(1, self._max_expanded_bytes // longest)
            raise TooManyRowsError(f"at most {self.max_rows} rows may be read at once")

    def _longest(self, chunk: _Chunk, header: PageHeader, back_to: int) -> int:
        """Return the bytes of the longest value of a dictionary, at most; those of small ones are not looked at."""
        if header.kind != _DICTIONARY_PAGE or not chunk.texts:
            return 0
        if header.nbytes <= _SMALL_DICTIONARY or header.nbytes > MAX_PAGE_BYTES:
            return header.nbytes
        self._file.seek(chunk.at + header.length)
        stored = self._file.read(header.stored)
        self._file.seek(back_to)
        return longest_value(stored, header, chunk.codec)

    def _header(self, chunk: _Chunk, data: bytes, start: int) -> PageHeader:
        """Return the header at which a chunk stands; read on where it reaches beyond `data`."""
        header = page_header(memoryview(data)[chunk.at - start :])
        size = _HEADER_BYTES
        while header is None:
            self._file.seek(chunk.at)
            header = page_header(memoryview(more := self._file.read(size)))
            if header is None and (len(more) < size or size >= _MAX_HEADER_BYTES):
                raise ValueError(f"a page header of column {chunk.name!r} is cut off")
            size *= 4
            self._file.seek(start + len(data))
        return header

    # --- the rest of a file, as pyarrow needs it ---

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a byte."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the byte at which the file stands."""
        return self._file.tell()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return False."""
        return False

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._file.closed

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def longest_value(stored: bytes, header: PageHeader, codec: str) -> int:
    """Return the bytes of the longest value of a dictionary page; all of its bytes if it cannot be read.

    Args:
        stored: The page as it is in the file: lengths of four bytes, each with its value behind it, compressed.
        header: Its header.
        codec: Its compression, as Parquet's metadata names it.
    """
    try:
        name = "lz4_raw" if codec.startswith("LZ4") else codec.lower()
        data = stored if name == "uncompressed" else pa.decompress(stored, header.nbytes, codec=name, asbytes=True)
    except (pa.ArrowException, OSError, ValueError):
        return header.nbytes
    at, longest = 0, 0
    while at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        longest = max(longest, length)
        at += 4 + length
    return longest if at == len(data) else header.nbytes


def _chunk_of(metadata: Any, column: Any) -> _Chunk:
    start = metadata.data_page_offset
    if metadata.has_dictionary_page and 0 < metadata.dictionary_page_offset < start:
        start = metadata.dictionary_page_offset
    end = start + metadata.total_compressed_size
    width = _WIDTHS.get(column.physical_type, column.length)
    return _Chunk(
        metadata.path_in_schema,
        start,
        end,
        width,
        codec=metadata.compression,
        repeated=column.max_repetition_level > 0,
        texts=column.physical_type == "BYTE_ARRAY",
    )
