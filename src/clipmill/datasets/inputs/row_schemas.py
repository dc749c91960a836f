"""The schema that all rows of a job share, whichever files they come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from ...encoders.plans.plan import RowPlan
from ...errors import ClipmillError, DatasetError
from ...files.arrow_stream import ArrowStream
from ...files.file_systems import open_input, raise_failing_store
from ..tables.column_types import LIST_OF_TEXTS, REST_KEY, TAGS, unified, variable_lists
from .lines import csv_header, open_text
from .samples import AUDIO, IMAGE, KEY, PLACE_COLUMNS, SAMPLE_COLUMNS, TEXT, member_columns
from .shards import Shard

_OPENERS = 8
_WITH_SCHEMA = ("csv", "parquet", "arrow")
_FILE_METADATA = (b"PARQUET:field_id", REST_KEY)
"""Metadata of fields that holds only for the file it was read from."""


def schema_of(shards: Sequence[Shard], plan: RowPlan | None = None) -> pa.Schema:
    """Return the schema that all rows of a job share, whichever file they come from.

    Columns of Parquet files keep their types; where files differ, the column has a type that holds both. Columns of
    CSV files are strings. JSON lines declare no fields, and no types are inferred: the key and the columns that the
    plan reads are strings (lists of strings for lists of candidates), and all other fields go into one column `tags`,
    as a JSON object. Samples of tars and folders have their key under the name of the plan's key, the caption as
    `text`, and their metadata in `tags`; samples of tars also have their place (`archive`, `offset`, `size`), and
    `image` and `audio` if the plan reads them.

    Args:
        shards: All shards of the job.
        plan: The operations on the columns; needed for JSON lines.

    Raises:
        DatasetError: If no file can be read, samples lack a column, or two files have incompatible columns.
    """
    first: dict[str, Shard] = {}
    for shard in shards:
        # the schema of other kinds is the same for all files
        first.setdefault(shard.paths[0] if shard.kind in _WITH_SCHEMA else shard.kind, shard)
    with ThreadPoolExecutor(_OPENERS) as pool:
        found = list(pool.map(lambda shard: _schema_of_file(shard, plan), first.values()))
    schemas = [schema for schema in found if schema is not None]
    if not schemas:
        example = next((shard.paths[0] for shard in first.values()), "none")
        raise DatasetError(f"none of the {len(first)} inputs can be read as a table; one of them is {example}")
    whole = unified(schemas)
    fields = [field for schema in schemas for field in schema]
    whole = pa.schema([_with_rest(field, fields) for field in whole], metadata=whole.metadata)
    has_nulls = any(shard.kind == "arrow" for shard in first.values())
    there = [set(schema.names) for schema in schemas]
    for number, field in enumerate(whole):
        if has_nulls or not all(field.name in names for names in there):
            whole = whole.set(number, field.with_type(variable_lists(field.type)))
    return whole


def _schema_of_file(shard: Shard, plan: RowPlan | None) -> pa.Schema | None:
    import pyarrow.parquet as pq  # late: it loads all of pyarrow's file systems, and ssl

    path = shard.paths[0]
    if shard.kind in ("files", "tar"):
        return _sample_schema(shard, plan)
    if shard.kind == "jsonl":
        declared = [] if plan is None else _declared(plan)
        return pa.schema([*declared, pa.field(TAGS, pa.string(), metadata={REST_KEY: b"[]"})])
    if shard.kind == "uris":
        return pa.schema([pa.field("uri", pa.string())])
    try:
        if shard.kind == "csv":
            with open_text(path) as file:
                header = csv_header(file, path)
            return None if header is None else pa.schema([pa.field(name, pa.string()) for name in header])
        if shard.kind == "arrow":
            with ArrowStream(path) as stream:
                schema = stream.schema
        else:
            with open_input(path) as raw:
                schema = pq.read_schema(raw)
    except ClipmillError:
        raise
    except Exception as err:  # its rows become failures, and other files decide the types
        raise_failing_store(err, path)
        return None
    # The pandas metadata would not describe the new columns.
    metadata = {key: value for key, value in (schema.metadata or {}).items() if key != b"pandas"}
    return pa.schema([_without_file_metadata(field) for field in schema], metadata=metadata)


def _declared(plan: RowPlan) -> list[pa.Field]:
    """Return the declared columns of JSON lines: the key, and the columns that the plan reads."""
    names = [plan.key, *(path for path in plan.reads if "." not in path)]
    types = dict.fromkeys(plan.lists, LIST_OF_TEXTS)
    return [pa.field(name, types.get(name, pa.string())) for name in dict.fromkeys(names) if name != TAGS]


def _sample_schema(shard: Shard, plan: RowPlan | None) -> pa.Schema:
    """Return the columns of samples; bytes only if the plan reads them, since they may be written again."""
    reads = {} if plan is None else plan.reads
    members = member_columns(reads)
    if members and shard.kind == "files":
        columns = ", ".join(map(repr, SAMPLE_COLUMNS))
        raise DatasetError(
            f"{shard.paths[0]} has no column {next(iter(members))!r}; the columns of image files and audio files are "
            f"{columns}"
        )
    types = {KEY if plan is None else plan.key: pa.string(), TEXT: pa.string()}
    if shard.kind == "tar":
        types |= PLACE_COLUMNS | {name: pa.binary() for name in (IMAGE, AUDIO) if name in reads}
        types |= {name: pa.string() if kind == "text" else pa.binary() for name, kind in members.items()}
    rest = pa.field(TAGS, pa.string(), metadata={REST_KEY: b"[]"})
    return pa.schema([*(pa.field(name, kind) for name, kind in types.items()), rest])


def _without_file_metadata(field: pa.Field) -> pa.Field:
    """Return a field without its Parquet id, which new columns don't have, and without an earlier job's `REST_KEY`."""
    metadata = {key: value for key, value in (field.metadata or {}).items() if key not in _FILE_METADATA}
    return field.with_metadata(metadata) if metadata else field.remove_metadata()


def _with_rest(field: pa.Field, fields: Iterable[pa.Field]) -> pa.Field:
    """Return a field of the unified schema; it takes undeclared fields if it does so in one of the inputs."""
    if field.name != TAGS or not any(REST_KEY in (one.metadata or {}) for one in fields if one.name == TAGS):
        return field
    return field.with_metadata({**(field.metadata or {}), REST_KEY: b"[]"})
