"""From what the user names to documents and rows: planning (`shards`) and reading (`readers`) at one address."""

from .readers import SourceRow, read_documents, read_rows, schema_of
from .shards import Kind, Shard, plan_shards, whole_file

__all__ = ["Kind", "Shard", "SourceRow", "plan_shards", "read_documents", "read_rows", "schema_of", "whole_file"]
