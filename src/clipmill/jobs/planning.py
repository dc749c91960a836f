"""From `JobOptions` to a `Job`: checked on the driver, before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..datasets.formats.part_writers import schema_in_format
from ..datasets.inputs.file_names import RelativeNames
from ..datasets.inputs.row_schemas import schema_of
from ..datasets.inputs.samples import PLACE_COLUMNS
from ..datasets.inputs.shards import Shard
from ..datasets.tables.column_types import column_type
from ..datasets.tables.schemas import documents_schema, rows_schema
from ..files.file_systems import named
from ..models.spec import EncoderSpec
from .comparison import compared
from .job import Job
from .options import JobOptions
from .preflight import check_has_matches, check_members, check_reader

_USUAL_KEY = "id"


def plan_job(spec: EncoderSpec, directory: str, shards: Sequence[Shard], options: JobOptions | None = None) -> Job:
    """Check the options of a job and decide the columns of its output, on the driver, without weights.

    Args:
        spec: The encoder.
        directory: The dataset to write; it is made absolute.
        shards: All shards of the job.
        options: The options; by default documents are embedded.

    Raises:
        SpecError: If the options contradict the inputs.
        DatasetError: If the inputs don't have the columns that are named, or two relative ids would be equal.
    """
    options = options or JobOptions()
    plan: Any = options.plan
    rows = None
    if options.relative_to:
        RelativeNames(options.relative_to).check(shards)
    if not plan.of_rows:
        check_has_matches(plan, shards)
        check_reader(shards, options.reader)
        declared = dict(options.reader.tags) if isinstance(options.reader.tags, Mapping) else {}
        if any(shard.kind == "tar" for shard in shards):
            declared = {**PLACE_COLUMNS, **declared}
        schema = documents_schema(spec, tags=declared, dtype=options.written_dtype, plan=plan)
    else:
        check_members(plan, shards)
        rows = schema_of(shards, plan)
        if plan.key != _USUAL_KEY:  # rows need not have the default key
            column_type(rows, plan.key)
        schema = rows_schema(rows, plan, spec, drop=options.drop, dtype=options.written_dtype)
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    job = compared(Job(**given, spec=spec, directory=named(directory), schema=schema), rows)
    written = schema_in_format(job.format, job.schema, plan=job.plan, spec=spec, directory=job.directory)
    return dataclasses.replace(job, schema=written)
