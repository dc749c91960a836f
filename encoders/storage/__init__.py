"""What stands in files: reading inputs, writing datasets of vectors, and where each vector comes from.

- `provenance`: which model and which options made a column, in Arrow's metadata and in Spark's (`spark_schema`)
- `vectors`: arrays of vectors, built from buffers
- `tables`: schemas and record batches of documents and of rows; `misfits`: what does not fit; `plain`: values as JSON
- `layouts`, `document_layouts`: how the results of each plan stand in them; `column_types`: the columns there were
- `records`: failures as they are written
- `shards`: what a job reads, cut into pieces; `listing`: folders, globs and files
- `readers`, `rows`: a shard as documents, or as rows; `lines`: JSON lines and CSV, record by record
- `tars`: archives, file by file; `samples`: files of one name, in tars and in folders
- `scalars`: one value out of Arrow
- `source`: planning and reading at one address
- `directory`: what stands in a dataset's directory; `lock`: one job at a time in it; `dataset`: described, finished,
  summed up; `dataset_rows`: read; `shard_writer`: one shard of it, whole or not at all; `files`: the file systems
- `parquet`: files with checksums
- `part_writers`: Parquet and JSON lines; `clip_retrieval`, `clip_retrieval_part`: clip-retrieval's layout; `lance_part`
- `planning`: `plan_shards`; `first_look`: at the input; `begin`: the beginning of a job; `resume`: what an earlier
  start of it left
- `attempts`, `careful`: shards over which processes die; `processes`: which process is which
- `existing`: `Existing`, datasets whose rows are passed over; `row_keys`, `existing_rows`: what tells rows apart, here
  and there; `skip_lists`: what is passed over of each shard
- `job`: `embed_shard`, a shard from its input to its files: what every engine distributes; `modes`: documents, rows;
  `output`: what is finished, on its way into the files
"""

from .begin import begin_job
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
from .existing import Existing
from .job import Job, embed_shard
from .lock import DirectoryLock
from .provenance import differences, provenance_of, read_provenance, spark_metadata, with_provenance
from .records import failure_records, row_failure_records
from .resume import read_earlier
from .shard_writer import ShardWriter
from .source import Shard, SourceRow, plan_shards, read_documents, read_rows, schema_of, whole_file
from .tables import documents_batch, documents_schema, rows_batch, rows_schema
from .vectors import nested_vector_array, vector_array, vector_type

__all__ = [
    "DatasetSummary",
    "DirectoryLock",
    "Existing",
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
    "read_earlier",
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
