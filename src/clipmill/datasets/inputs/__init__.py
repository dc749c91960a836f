"""Lists the inputs of a job, cuts them into shards, and reads shards as documents or rows.

- `globs`: the pattern language; `listing`: lists folders, patterns and files; `walking`: walks through folders and
  prefixes; `sidecars`: captions and metadata beside images
- `recognition`: how each file is read, by its name or its first bytes
- `planning`: `plan_shards` cuts a job's input into shards; `kept_files`: the files of a previous plan; `shards`: one
  shard
- `file_names`: ids of files, relative to the input
- `readers`: reads a shard as documents; `rows`: reads a shard as rows; `source_row`: one row; `row_schemas`: the
  common schema of all rows
- `lines`: reads JSON lines and CSV record by record; `columnar`: reads Parquet and Arrow files a few rows at a time;
  `tars`: reads archives member by member; `samples`: groups files that share a name, in tars and in folders
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import lazy_names

if TYPE_CHECKING:
    from .file_names import RelativeNames
    from .listing import Kind
    from .planning import plan_shards
    from .readers import ReaderOptions, read_documents
    from .row_schemas import schema_of
    from .rows import read_rows
    from .shards import Shard, whole_file
    from .source_row import SourceRow
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "file_names": ("RelativeNames",),
            "listing": ("Kind",),
            "planning": ("plan_shards",),
            "readers": (
                "ReaderOptions",
                "read_documents",
            ),
            "row_schemas": ("schema_of",),
            "rows": ("read_rows",),
            "shards": (
                "Shard",
                "whole_file",
            ),
            "source_row": ("SourceRow",),
        },
    )

__all__ = [
    "Kind",
    "ReaderOptions",
    "RelativeNames",
    "Shard",
    "SourceRow",
    "plan_shards",
    "read_documents",
    "read_rows",
    "schema_of",
    "whole_file",
]
