"""Checks of the input of a job, on the driver, before anything is written."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence

from ..datasets.inputs.readers import ReaderOptions, choose_columns, is_failure_line
from ..datasets.inputs.row_schemas import schema_of
from ..datasets.inputs.rows import read_rows
from ..datasets.inputs.samples import SAMPLE_COLUMNS, member_columns, split_name
from ..datasets.inputs.shards import Shard
from ..datasets.inputs.tars import open_tar
from ..datasets.tables.column_types import holds_bytes, is_list_type, type_at
from ..encoders.plans.plan import Plan, RowPlan
from ..errors import DatasetError
from ..failures import RowError
from ..files.json_text import some_of
from ..messages import setting

_LINES_LOOKED_AT = 100
_FIELDS_NAMED = 20
_MEMBERS_LOOKED_AT = 10_000
_NAME_COLUMNS = (
    "name the columns of the query ("
    + setting("query", ...)
    + ") and of the candidates ("
    + setting("candidates", ...)
    + ")"
)


def check_has_matches(plan: Plan, shards: Sequence[Shard]) -> None:
    """Raise `DatasetError`, naming the file and its fields, for inputs without matches if the plan needs them."""
    if not plan.needs_matches:
        return
    if other := next((shard for shard in shards if shard.kind != "jsonl"), None):
        raise DatasetError(
            f"{other.paths[0]} has no documents with matches, which are JSON lines",
            hint="of a table " + _NAME_COLUMNS,
        )
    if shards and (fields := _fields_without_matches(shards[0])):
        named = ", ".join(map(repr, fields[:_FIELDS_NAMED]))
        raise DatasetError(
            f"{shards[0].paths[0]} has no documents with matches (its first lines have the fields {named})",
            hint="of rows " + _NAME_COLUMNS,
        )


def _fields_without_matches(shard: Shard) -> list[str]:
    """Return the fields of a shard's first lines, none if one of them has `matches` or there is nothing to tell by."""
    fields: dict[str, None] = {}
    for row in itertools.islice(read_rows(shard), _LINES_LOOKED_AT):
        if "matches" in row.values:
            return []
        if not is_failure_line(row.values):  # a candidate's failure, which reading turns into one again
            fields.update(dict.fromkeys(row.values))
    return list(fields)


def check_reader(shards: Sequence[Shard], reader: ReaderOptions) -> None:
    """Check the first table of each kind, so that a misspelt column does not cost a night.

    A named column that is missing, has no effect on these inputs, or is a tag of bytes raises a `DatasetError`.
    """
    named = [(name, column) for name, column in reader.columns.items() if name != "id"]
    firsts: dict[str, Shard] = {}
    for shard in shards:
        firsts.setdefault(shard.kind, shard)
    if named and firsts.keys() == {"tar"}:
        raise DatasetError(
            setting(*named[0]) + " has no effect with tars: the image or audio clip of a sample is embedded",
            hint="captions are embedded as the column 'text' of rows, " + setting("columns", ...),
        )
    for shard in filter(None, map(firsts.get, ("csv", "parquet", "arrow"))):
        try:
            schema = schema_of([shard])
        except DatasetError:  # a broken file is a failure, not the end of the job
            continue
        try:
            chosen = choose_columns(schema.names, reader, shard.paths[0])
        except RowError as err:
            raise DatasetError(err.args[0]) from err
        for field, column in chosen.items():
            if field != "id" and column in schema.names and is_list_type(schema.field(column).type):
                raise DatasetError(
                    f"the column {column!r} of {shard.paths[0]} holds lists, and a document has one {field}",
                    hint="embed each value of the lists as rows, " + setting("columns", ...),
                )
        for tag in () if isinstance(reader.tags, Mapping) else reader.tags:
            if (found := type_at(schema, tag)) is not None and holds_bytes(found):
                raise DatasetError(
                    f"{shard.paths[0]}: column {tag!r} is {found}, and tags are JSON, which has no bytes",
                    hint="leave it out of " + setting("tags", ...),
                )


def check_members(plan: RowPlan, shards: Sequence[Shard]) -> None:
    """Raise `DatasetError` for a column that is an ending of files in tars, if no sample of the first tar has it.

    Of a large tar not all is read: a column that is not in it has nulls.
    """
    wanted = member_columns(plan.reads)
    shard = next((shard for shard in shards if shard.kind == "tar"), None)
    if shard is None or not wanted:
        return
    seen: dict[str, None] = {}
    members = 0
    with contextlib.suppress(Exception), open_tar(shard.paths[0]) as stream:  # a broken tar is a failure
        for member in itertools.islice(stream.members(), _MEMBERS_LOOKED_AT):
            seen.setdefault(split_name(member.name)[1])
            members += 1
    if 0 < members < _MEMBERS_LOOKED_AT and (missing := [name for name in wanted if name.lower() not in seen]):
        raise DatasetError(
            f"{shard.paths[0]} has no column {missing[0]!r}: the columns of tars are "
            f"{', '.join(map(repr, SAMPLE_COLUMNS))} and the endings of their files, here "
            f"{some_of(list(map(repr, seen)))}"
        )
