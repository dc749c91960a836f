"""From what a user asked for to a `Job`: checked on the driver, before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..datasets.formats.base import Format, check_format, default_dtype
from ..datasets.formats.part_writers import schema_in_format
from ..datasets.inputs.rows import schema_of
from ..datasets.inputs.shards import Shard
from ..datasets.tables.column_types import column_type
from ..datasets.tables.schemas import documents_schema, rows_schema
from ..encoders.plans.columns import ColumnPlan
from ..encoders.plans.document_plan import DocumentEmbedPlan
from ..encoders.plans.plan import Plan
from ..errors import SpecError
from ..files.file_systems import Folder
from ..models.spec import EncoderSpec
from .comparison import comparing
from .existing import Existing
from .first_look import READER_OPTIONS, check_has_matches, check_reader
from .job import Job

_USUAL_KEY = "id"


def plan_job(
    spec: EncoderSpec,
    directory: str,
    shards: Sequence[Shard],
    *,
    columns: Mapping[str, Any] | ColumnPlan | None = None,
    plan: Plan | None = None,
    reader: Mapping[str, Any] | None = None,
    access_paths: str = "@r",
    keep_content: bool = False,
    tags: Mapping[str, pa.DataType] | Sequence[str] = (),
    drop: Sequence[str] = (),
    dtype: str | None = None,
    fail_fast: bool = False,
    format: Format = "parquet",
    existing: Existing | None = None,
    content_hash: bool = False,
) -> Job:
    """Check what a user asked for and decide the columns of the output, on the driver, without weights.

    Args:
        spec: The encoder.
        directory: The dataset that is written; made absolute.
        shards: All shards of the job.
        columns: Embeds these columns of rows; without it and without a plan documents are embedded.
        plan: What else is done: ranking or classifying rows or documents, checked for this spec.
        reader: `text`, `uri`, `image`, `id` and `tags` of `read_documents`.
        access_paths: Which documents of a tree are embedded; a plan says its own.
        keep_content: Whether documents keep `blob` and `tensor`; a plan says its own.
        tags: Columns (of JSON lines, fields) that travel along as tags of documents; with types, as columns of
            their own.
        drop: Columns of rows that are left out.
        dtype: `float32` or `float16`; None is float16 for clip-retrieval's layout and float32 otherwise.
        fail_fast: Whether the first failure ends the job.
        format: `parquet`, `jsonl`, `clip-retrieval` or `lance`.
        existing: Datasets whose rows are passed over; where rows are told by content, `content_hash` is implied.
        content_hash: Whether a column `content_hash` is written, the SHA-256 of each row's text or bytes.

    Raises:
        SpecError: If the options contradict each other.
        DatasetError: If the inputs don't have the columns that are named.
    """
    directory = Folder.of(directory).url
    reader = dict(reader or {})
    check_format(format)
    dtype = dtype or default_dtype(format)
    if unknown := sorted(set(reader) - set(READER_OPTIONS)):
        raise SpecError(f"reader has no option {unknown[0]!r}; it has {', '.join(READER_OPTIONS)}")
    if plan is not None and (columns is not None or access_paths != "@r" or keep_content):
        raise SpecError("a plan says its own columns, access_paths and keep_content")
    if columns is not None:
        plan = columns if isinstance(columns, ColumnPlan) else ColumnPlan.of(columns, spec=spec)
    if plan is None or not plan.of_rows:
        if drop:
            raise SpecError("drop leaves out columns of rows, and without columns={…} documents are embedded")
        plan = plan or DocumentEmbedPlan(access_paths, keep_content)
        check_has_matches(plan, shards)
        reader.setdefault("tags", tuple(tags))
        check_reader(shards, reader)
        declared = tags if isinstance(tags, Mapping) else None
        schema = documents_schema(spec, tags=declared, dtype=dtype, plan=plan)  # type: ignore[arg-type]
        job = Job(spec, directory, schema, plan, reader, fail_fast, format)
        return _in_format(comparing(job, existing, content_hash=content_hash))
    if reader or tags or keep_content or access_paths != "@r":
        raise SpecError(
            f"columns={{…}} embeds rows; {', '.join(READER_OPTIONS)}, access_paths and keep_content are for documents"
        )
    if plan.by:
        raise SpecError(
            "a job takes its rows one by one, and flat rows are ranked within groups: Rank(by=…) on Beam and "
            "rank_groups(by=…) on Spark do that"
        )
    there = schema_of(shards, plan)  # type: ignore[arg-type]
    if plan.key != _USUAL_KEY:  # type: ignore[union-attr]  # which rows need not have
        column_type(there, plan.key)  # type: ignore[union-attr]
    schema = rows_schema(there, plan, spec, drop=drop, dtype=dtype)  # type: ignore[arg-type]
    job = Job(spec, directory, schema, plan, fail_fast=fail_fast, format=format)
    return _in_format(comparing(job, existing, content_hash=content_hash, there=there))


def _in_format(job: Job) -> Job:
    """Return a job with the schema that its format needs."""
    schema = schema_in_format(job.format, job.schema, plan=job.plan, spec=job.spec, directory=job.directory)
    return dataclasses.replace(job, schema=schema)
