"""Schemas and record batches: documents and rows, with their vectors, as they stand in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..columns import ColumnPlan
from ..document import Document
from ..failure import Failure
from ..spec import EncoderSpec


def documents_schema(
    spec: EncoderSpec,
    *,
    access_paths: str = "@r",
    keep_content: bool = False,
    tags: Mapping[str, pa.DataType] | None = None,
    dtype: str = "float32",
) -> pa.Schema:
    """Return the schema of embedded documents."""
    raise NotImplementedError


def documents_batch(documents: Sequence[Document], schema: pa.Schema, dim: int) -> pa.RecordBatch:
    """Return embedded documents as a batch of a schema that `documents_schema` made."""
    raise NotImplementedError


def rows_schema(
    base: pa.Schema, plan: ColumnPlan, spec: EncoderSpec, *, drop: Sequence[str] = (), dtype: str = "float32"
) -> pa.Schema:
    """Return the schema of embedded rows: the columns of `base` without `drop`, then the plan's new ones."""
    raise NotImplementedError


def rows_batch(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, plan: ColumnPlan, dim: int) -> pa.RecordBatch:
    """Return embedded rows (old and new columns in one mapping) as a batch of a schema that `rows_schema` made."""
    raise NotImplementedError


def failure_records(document: Document, failures: Sequence[Failure] | None = None) -> list[dict[str, Any]]:
    """Return a document's failures as they are written: why, and what a second try needs (never image bytes)."""
    raise NotImplementedError
