"""What stands in files: reading inputs, writing datasets of vectors, and where each vector comes from.

- `provenance`: which model and which options made a column, in Arrow's metadata and in Spark's (`spark_schema`)
- `vectors`: arrays of vectors, built from buffers
- `tables`: schemas and record batches of documents and of rows; `misfits`: what does not fit; `plain`: values as JSON
- `layouts`, `document_layouts`: how the results of each plan stand in them; `column_types`: the columns there were
- `records`: failures as they are written
- `shards`: what a job reads, cut into pieces: `Shard`, `plan_shards`; `listing`: folders, globs and files
- `readers`, `rows`: a shard as documents, or as rows; `lines`: JSON lines and CSV, record by record
- `scalars`: one value out of Arrow
- `source`: planning and reading at one address
- `dataset`: a dataset's directory; `shard_writer`: one shard of it, whole or not at all; `files`: the file systems
- `part_writers`: Parquet and JSON lines
- `job`: `embed_shard`, a shard from its input to its files: what every engine distributes; `modes`: documents, rows;
  `output`: what is finished, on its way into the files
"""

from .dataset import (
    DatasetSummary,
    finish_job,
    prepare_directory,
    read_dataset,
    read_failures,
    read_job,
    read_manifests,
    summarise,
    write_job,
)
from .job import Job, begin_job, embed_shard
from .provenance import differences, provenance_of, read_provenance, spark_metadata, with_provenance
from .records import failure_records, row_failure_records
from .shard_writer import ShardWriter
from .source import Shard, SourceRow, plan_shards, read_documents, read_rows, schema_of, whole_file
from .tables import documents_batch, documents_schema, rows_batch, rows_schema
from .vectors import nested_vector_array, vector_array, vector_type

__all__ = [
    "DatasetSummary",
    "Job",
    "Shard",
    "ShardWriter",
    "SourceRow",
    "begin_job",
    "differences",
    "documents_batch",
    "documents_schema",
    "embed_shard",
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
    "row_failure_records",
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
