"""Parquet files have page checksums, and a page that does not match its checksum is an error."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.fs
import pytest

from clipmill.files.parquet import parquet_dataset, parquet_file, parquet_writer

TABLE = pa.table({"number": pa.array(range(20_000), pa.int64()), "text": [f"text {n}" for n in range(20_000)]})


@pytest.fixture
def path(tmp_path):
    with parquet_writer(str(tmp_path / "a.parquet"), TABLE.schema, use_dictionary=False) as writer:
        writer.write_table(TABLE)
    return tmp_path / "a.parquet"


def test_tables_are_read_as_they_were_written(path):
    with parquet_file(path) as file:
        assert file.read() == TABLE
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert parquet_dataset([str(path)], pyarrow.fs.LocalFileSystem()).to_table() == TABLE


def test_a_changed_byte_is_detected(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    with parquet_file(path) as file, pytest.raises(OSError, match="CRC checksum"):
        file.read()
    with pytest.raises(OSError, match="CRC checksum"):
        parquet_dataset([str(path)], pyarrow.fs.LocalFileSystem()).to_table()
