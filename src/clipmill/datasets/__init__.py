"""Datasets: the inputs of a job, and the files of vectors, scores and failures that it writes.

- `inputs`: lists the user's inputs and reads them as documents or rows
- `tables`: schemas, record batches and the provenance of vectors
- `formats`: Parquet, JSON lines, clip-retrieval's layout, Lance
- `directory`: the files in a dataset's directory; `if_exists`: what a job does with a dataset that is there already;
  `replacing`: how a dataset that is whole takes the place of another
- `own_values`: values drawn from an input, to calibrate a model on
- `dataset`: describes and finishes a dataset; `summary`: its sums; `dataset_rows`: reads its rows
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .dataset import finish_job, read_failures, read_job, read_manifests, summarise, write_job
    from .dataset_rows import read_dataset
    from .formats.shard_writer import ShardWriter
    from .if_exists import IfExists, prepare_directory
    from .inputs import ReaderOptions, Shard, SourceRow, plan_shards, read_documents, read_rows, schema_of, whole_file
    from .summary import DatasetSummary
    from .tables.provenance import differences, provenance_of, read_provenance, spark_metadata, with_provenance
    from .tables.records import failure_records
    from .tables.schemas import documents_batch, documents_schema, rows_batch, rows_schema
    from .tables.vectors import nested_vector_array, vector_array, vector_type
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "dataset": (
                "finish_job",
                "read_failures",
                "read_job",
                "read_manifests",
                "summarise",
                "write_job",
            ),
            "dataset_rows": ("read_dataset",),
            "formats.shard_writer": ("ShardWriter",),
            "if_exists": (
                "IfExists",
                "prepare_directory",
            ),
            "inputs": (
                "ReaderOptions",
                "Shard",
                "SourceRow",
                "plan_shards",
                "read_documents",
                "read_rows",
                "schema_of",
                "whole_file",
            ),
            "summary": ("DatasetSummary",),
            "tables.provenance": (
                "differences",
                "provenance_of",
                "read_provenance",
                "spark_metadata",
                "with_provenance",
            ),
            "tables.records": ("failure_records",),
            "tables.schemas": (
                "documents_batch",
                "documents_schema",
                "rows_batch",
                "rows_schema",
            ),
            "tables.vectors": (
                "nested_vector_array",
                "vector_array",
                "vector_type",
            ),
        },
    )

__all__ = [
    "DatasetSummary",
    "IfExists",
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
