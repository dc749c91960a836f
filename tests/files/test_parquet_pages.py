"""Page headers: read as Arrow reads them, and refused before a page expands."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.files import parquet_pages
from clipmill.files.page_headers import PageHeader, page_header
from clipmill.files.parquet import parquet_file
from clipmill.files.parquet_pages import PageGuard, PageTooLargeError, TooManyRowsError


def written(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def guarded(content: bytes, *, rows: int = 64, nbytes: int = 2**30) -> tuple[PageGuard, pq.ParquetFile]:
    guard = PageGuard(io.BytesIO(content), rows, nbytes)
    return guard, parquet_file(guard, pre_buffer=False, buffer_size=2**16)


def read(content: bytes, group: int = 0, *, rows: int = 64, nbytes: int = 2**30) -> pa.Table:
    guard, file = guarded(content, rows=rows, nbytes=nbytes)
    guard.watch(file, group, rows)
    return pa.Table.from_batches(file.iter_batches(rows, row_groups=[group], use_threads=False))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_headers_agree_with_the_footer(version: str, compression: str, dictionary: bool) -> None:
    draw = random.Random(1)
    table = pa.table(
        {
            "text": [draw.choice(["a", "bc", None]) for _ in range(3000)],
            "long": ["x" * draw.randrange(3000) for _ in range(3000)],
            "lists": [[draw.random()] * draw.randrange(4) for _ in range(3000)],
            "flag": [draw.random() < 0.5 for _ in range(3000)],
        }
    )
    content = written(
        table,
        compression=compression,
        use_dictionary=dictionary,
        data_page_version=version,
        data_page_size=5000,
        write_page_checksum=True,
    )
    group = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0)
    for number in range(group.num_columns):
        column = group.column(number)
        at = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
        end, nbytes, values = at + column.total_compressed_size, 0, 0
        while at < end:
            header = page_header(memoryview(content)[at:])
            assert header is not None
            nbytes += header.length + header.nbytes
            values += header.values if header.kind != 2 else 0
            at += header.length + header.stored
        assert (at, nbytes, values) == (end, column.total_uncompressed_size, column.num_values)
    assert read(content) == table


def test_a_header_that_is_cut_off_anywhere_is_not_all_there() -> None:
    content = written(pa.table({"text": ["a", "b"]}), use_dictionary=False)[4:]
    whole = page_header(memoryview(content))
    assert whole is not None and whole.values == 2
    assert [page_header(memoryview(content)[:end]) for end in range(whole.length)] == [None] * whole.length
    with pytest.raises(ValueError, match="unknown type"):
        page_header(memoryview(b"\x19" + content))


@pytest.mark.parametrize(
    "header",
    [
        b"\x15\x00\x15\x02\x00",  # without the bytes in the file
        b"\x15\x00\x15\x01\x15\x02\x00",  # negative
        b"\x1c\x00\x15\x02\x15\x02\x00",  # a struct instead of a number
        b"\x15\x00\x15\x02\x15\x02\x2c\x1c\x00\x00\x00",
    ],
)
def test_a_header_without_valid_sizes_is_refused(header: bytes) -> None:
    with pytest.raises(ValueError, match="lacks its sizes, or has negative ones"):
        page_header(memoryview(header))


def test_headers_are_found_wherever_reads_end() -> None:
    table = pa.table({"text": [f"{number}" * 50 for number in range(5000)]})
    content = written(table, use_dictionary=False, data_page_size=1000, write_batch_size=10)
    for buffer_size in (1, 17, 100, 1000, 10_000):
        guard = PageGuard(io.BytesIO(content), 64, 2**30)
        file = parquet_file(guard, pre_buffer=False, buffer_size=buffer_size)
        guard.watch(file, 0, 64)
        assert pa.Table.from_batches(file.iter_batches(64, use_threads=False)) == table
        assert guard._chunks[0].at == guard._chunks[0].end


@pytest.mark.parametrize(
    "column",
    [
        ["x" * 2**20] * 8,
        [np.zeros(2**20, np.float32)],
        pa.array([[["y" * 2**10] * 2**10]]),
    ],
    ids=["texts", "zeros", "nested"],
)
def test_pages_that_expand_are_refused(monkeypatch: pytest.MonkeyPatch, column: Any) -> None:
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 2**20 - 1)
    content = written(pa.table({"text": column}), compression="zstd", use_dictionary=not isinstance(column[0], str))
    assert len(content) < 10_000
    with pytest.raises(PageTooLargeError, match="'text"):
        read(content)


def test_pages_may_be_as_large_as_their_part_of_the_file_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 1000)
    noise = random.Random(1).randbytes(2**16)
    table = pa.table({"image": [noise] * 4})
    assert read(written(table, compression="snappy", use_dictionary=False, data_page_size=2**20)) == table
    assert read(written(table.slice(0, 1), compression="zstd")) == table.slice(0, 1)


def test_pages_of_all_columns_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 2**20)
    text = "x" * 300_000
    assert len(read(written(pa.table({f"c{n}": [text] for n in range(3)}), compression="zstd"))) == 1
    with pytest.raises(PageTooLargeError):
        read(written(pa.table({f"c{n}": [text] for n in range(4)}), compression="zstd", use_dictionary=False))


@pytest.mark.parametrize("encoding", ["dictionary", "DELTA_BYTE_ARRAY"])
def test_fewer_rows_are_read_at_once_if_values_repeat(encoding: str) -> None:
    table = pa.table({"text": ["x" * 1000] * 64})
    how: dict[str, Any] = (
        {} if encoding == "dictionary" else {"use_dictionary": False, "column_encoding": {"text": encoding}}
    )
    content = written(table, compression="none", **how)
    assert len(content) < 6000
    guard, file = guarded(content, nbytes=10_000)
    guard.watch(file, 0, 64)
    with pytest.raises(TooManyRowsError):
        list(file.iter_batches(64, use_threads=False))
    assert 1 <= guard.max_rows <= 9
    assert read(content, rows=guard.max_rows, nbytes=10_000) == table


def test_columns_that_overlap_are_refused() -> None:
    guard, file = guarded(written(pa.table({"a": [1], "b": [2]}), compression="none"))

    class Same:
        """A footer whose columns are all at the first one's place."""

        num_columns = 2

        def row_group(self, number: int) -> Any:
            return self

        def column(self, number: int) -> Any:
            return file.metadata.row_group(0).column(0)

    class Crafted:
        metadata, schema, iter_batches = Same(), file.schema, file.iter_batches

    with pytest.raises(ValueError, match="overlap"):
        guard.watch(Crafted(), 0, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "header",
    [
        PageHeader(20, 2, 10, 2**30, 2, 0),  # bytes in the file
        PageHeader(20, 0, 10, 2**30, 2, 0),
        PageHeader(20, 2, 10, 10, 2**30, 0),  # values of a dictionary
    ],
    ids=str,
)
def test_a_header_for_which_arrow_would_make_too_much_room_is_refused(header: PageHeader) -> None:
    chunk = parquet_pages._Chunk("x", 0, 100, 4, codec="UNCOMPRESSED", repeated=False, texts=True)
    chunk.step(PageHeader(20, 2, 10, 10, 2, 0))
    with pytest.raises(ValueError, match="'x' is damaged"):
        chunk.step(header)
