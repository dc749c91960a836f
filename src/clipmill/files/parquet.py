"""Parquet files with page checksums, so that bytes damaged on a disk or in transit are detected and not embedded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import pyarrow.dataset
    import pyarrow.parquet as pq


def parquet_writer(sink: Any, schema: pa.Schema, **options: Any) -> pq.ParquetWriter:
    """Open a path or an Arrow file for writing Parquet, with a checksum for each page."""
    import pyarrow.parquet as pq  # imported here: it imports all of pyarrow's file systems, and ssl

    return pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True, **options)


def refused_by_parquet(kind: pa.DataType) -> str | None:
    """Return why a type cannot be written to Parquet; None if it can."""
    import pyarrow.parquet as pq

    try:
        pq.write_table(pa.schema([("x", kind)]).empty_table(), pa.BufferOutputStream())
    except (pa.ArrowException, NotImplementedError, TypeError, ValueError) as err:
        return str(err)
    return None


def parquet_file(source: Any, **options: Any) -> pq.ParquetFile:
    """Open a Parquet file for reading. A page that does not match its checksum raises an `OSError`.

    Pages without a checksum are read unchecked.

    Raises:
        ValueError: If its footer contradicts itself.
    """
    import pyarrow.parquet as pq

    file = pq.ParquetFile(source, page_checksum_verification=True, **options)
    check_row_counts(file.metadata)
    return file


def check_row_counts(footer: pq.FileMetaData) -> None:
    """Raise `ValueError` if the rows of the row groups are not those of the file: some would be lost silently."""
    rows = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    if min(rows, default=0) < 0 or sum(rows) != footer.num_rows:
        raise ValueError(f"the footer is damaged: it counts {footer.num_rows} rows, and {sum(rows)} in its row groups")


def parquet_dataset(paths: list[str], file_system: Any) -> pyarrow.dataset.Dataset:
    """Open several files as one dataset, with the same checks as `parquet_file`."""
    import pyarrow.dataset

    checked = pyarrow.dataset.ParquetFileFormat(page_checksum_verification=True)
    return pyarrow.dataset.dataset(paths, format=checked, filesystem=file_system)
