"""From what the user names to documents and rows: `shards`, `readers` and `rows` at one address."""

from .listing import Kind
from .planning import plan_shards
from .readers import read_documents
from .rows import SourceRow, read_rows, schema_of
from .shards import Shard, whole_file

__all__ = ["Kind", "Shard", "SourceRow", "plan_shards", "read_documents", "read_rows", "schema_of", "whole_file"]
