"""Jobs planned from keywords, which say in a line what a test is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clipmill.datasets import ReaderOptions, Shard
from clipmill.encoders import EncoderSpec
from clipmill.encoders.plans.document_embed_plan import DocumentEmbedPlan
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.jobs import Job, JobOptions, plan_job


def plan(
    spec: EncoderSpec,
    directory: str,
    shards: Sequence[Shard],
    *,
    columns: Mapping[str, Any] | ColumnPlan | None = None,
    reader: Mapping[str, Any] | None = None,
    tags: Any = (),
    access_paths: str = "@r",
    keep_content: bool = False,
    **options: Any,
) -> Job:
    """Plan a job that embeds columns, or documents, unless the options have another plan."""
    if columns is not None:
        options["plan"] = columns if isinstance(columns, ColumnPlan) else ColumnPlan.of(columns, spec=spec)
    if options.get("plan") is None:
        options["plan"] = DocumentEmbedPlan(access_paths, keep_content)
    return plan_job(spec, directory, shards, JobOptions(reader=ReaderOptions(**reader or {}, tags=tags), **options))
