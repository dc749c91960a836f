"""A shard as documents or as rows; what cannot be read is a failure in its place, and the rest goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from ..columns import ColumnPlan
from ..document import Document
from ..failure import Failure
from .shards import Shard


class SourceRow(NamedTuple):
    """A row of an input.

    Attributes:
        place: `<path>:<line>` of text files (lines from 1), `<path>:<row>` of Parquet files (rows from 0).
        values: Its columns; empty where it could not be read.
        failure: Why it could not be read.
    """

    place: str
    values: dict[str, Any]
    failure: Failure | None = None


def read_documents(
    shard: Shard,
    *,
    text: str | None = None,
    uri: str | None = None,
    image: str | None = None,
    id: str | None = None,
    tags: Sequence[str] = (),
) -> Iterator[Document]:
    """Read a shard as documents.

    Args:
        shard: What to read.
        text: Column of texts.
        uri: Column of URIs; what they name is read only as far as the spec allows it.
        image: Column of encoded images.
        id: Column that names the documents.
        tags: Columns that travel along (CSV, Parquet; of JSON lines all other fields do).
    """
    raise NotImplementedError


def read_rows(shard: Shard) -> Iterator[SourceRow]:
    """Read a shard as rows with all their columns.

    Raises:
        DatasetError: If the shard is of `files`, which have no columns.
    """
    raise NotImplementedError


def schema_of(shards: Sequence[Shard], plan: ColumnPlan | None = None) -> pa.Schema:
    """Return the one schema that all rows of a job have."""
    raise NotImplementedError
