"""Parquet files whose pages have checksums: bytes that changed on a disk or on their way are noticed, not embedded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import pyarrow.dataset
    import pyarrow.parquet as pq


def parquet_writer(sink: Any, schema: pa.Schema, **options: Any) -> pq.ParquetWriter:
    """Open a file for writing, each page with its checksum.

    Args:
        sink: A path, or a file of Arrow.
        schema: Columns of every table.
        **options: More of `ParquetWriter`.
    """
    import pyarrow.parquet as pq  # late: it brings all of pyarrow's file systems, and ssl

    return pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True, **options)


def parquet_file(source: Any, **options: Any) -> pq.ParquetFile:
    """Open a file for reading; a page that is not as its checksum says raises an `OSError`, where it has one.

    Args:
        source: A path, or an open file.
        **options: More of `ParquetFile`.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(source, page_checksum_verification=True, **options)


def parquet_dataset(paths: list[str], file_system: Any) -> pyarrow.dataset.Dataset:
    """Open files as one table, as `parquet_file` does it."""
    import pyarrow.dataset

    checked = pyarrow.dataset.ParquetFileFormat(page_checksum_verification=True)
    return pyarrow.dataset.dataset(paths, format=checked, filesystem=file_system)
