"""Datasets: what a job reads, and the files of vectors, scores and failures that it writes.

- `inputs`: from what the user names to documents and rows
- `tables`: schemas and record batches, and where each vector comes from
- `formats`: Parquet, JSON lines, clip-retrieval's layout, Lance
- `directory`: what stands in a dataset's directory; `dataset`: described, finished, summed up; `dataset_rows`: read
"""

from .dataset import (
    DatasetSummary,
    finish_job,
    read_failures,
    read_job,
    read_manifests,
    summarise,
    write_job,
)
from .dataset_rows import read_dataset
from .directory import prepare_directory
from .formats.shard_writer import ShardWriter
from .inputs import ReaderOptions, Shard, SourceRow, plan_shards, read_documents, read_rows, schema_of, whole_file
from .tables.provenance import differences, provenance_of, read_provenance, spark_metadata, with_provenance
from .tables.records import failure_records
from .tables.schemas import documents_batch, documents_schema, rows_batch, rows_schema
from .tables.vectors import nested_vector_array, vector_array, vector_type

__all__ = [
    "DatasetSummary",
    "ReaderOptions",
    "Shard",
    "ShardWriter",
    "SourceRow",
    "differences",
    "documents_batch",
    "documents_schema",
    "failure_records",
    "finish_job",
    "nested_vector_array",
    "plan_shards",
    "prepare_directory",
    "provenance_of",
    "read_dataset",
    "read_documents",
    "read_failures",
    "read_job",
    "read_manifests",
    "read_provenance",
    "read_rows",
    "rows_batch",
    "rows_schema",
    "schema_of",
    "spark_metadata",
    "summarise",
    "vector_array",
    "vector_type",
    "whole_file",
    "with_provenance",
    "write_job",
]
