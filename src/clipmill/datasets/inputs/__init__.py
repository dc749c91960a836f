"""From what the user names to documents and rows.

- `globs`: the pattern language; `listing`: folders, patterns and files
- `planning`: `plan_shards`, all pieces of a job's input; `shards`: one of them
- `readers`, `rows`: a shard as documents, or as rows
- `lines`: JSON lines and CSV, record by record; `tars`: archives, file by file; `samples`: files of one name, in tars
  and in folders
"""

from .listing import Kind
from .planning import plan_shards
from .readers import ReaderOptions, read_documents
from .rows import SourceRow, read_rows, schema_of
from .shards import Shard, whole_file

__all__ = [
    "Kind",
    "ReaderOptions",
    "Shard",
    "SourceRow",
    "plan_shards",
    "read_documents",
    "read_rows",
    "schema_of",
    "whole_file",
]
