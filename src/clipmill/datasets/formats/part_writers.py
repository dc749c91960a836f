"""Selects the writer for the rows of a shard, and writes Parquet and JSON lines."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...errors import SpecError
from ...failures import Failure
from ...files.folder import Folder
from ...files.json_text import json_text
from ...files.parquet import parquet_writer, refused_by_parquet
from ...messages import setting
from ...models.spec import EncoderSpec
from ..tables.column_types import is_list_type
from ..tables.scalars import printable_rows
from .base import CLIP_RETRIEVAL, LANCE, PARQUET, WEBDATASET, Format, Part, Published, part_name

if TYPE_CHECKING:
    import pyarrow.parquet as pq


def schema_in_format(format: str, schema: pa.Schema, *, plan: Any, spec: EncoderSpec, directory: str) -> pa.Schema:
    """Return the schema of a job as its format needs it. Called on the driver.

    Raises:
        SpecError: If the format cannot hold the job's output, or cannot be written to the directory.
    """
    if format == CLIP_RETRIEVAL:
        from .clip_retrieval import with_layout

        return with_layout(schema, plan, spec)
    if format == LANCE:
        from .lance_part import check_lance

        check_lance(directory, schema)
    if format == WEBDATASET:
        from .webdataset_part import with_members

        return with_members(schema, plan)
    if format == PARQUET:
        for field in schema:
            if refused_by_parquet(field.type) is not None:
                raise SpecError(
                    setting("format", PARQUET) + f" cannot hold {field.type}, the type of column {field.name!r}",
                    hint="leave the column out: " + setting("drop", field.name),
                )
    return schema


def mismatch_of(format: str, schema: pa.Schema) -> Callable[[Any], Failure | None] | None:
    """Return a function that returns why a row does not fit the format; None if every row fits."""
    if format != CLIP_RETRIEVAL:
        return None
    from .clip_retrieval import mismatch_of

    return mismatch_of(schema)


def open_part(folder: Folder, shard: str, schema: pa.Schema, format: Format) -> Part:
    """Open the writer for the rows of a shard, whose tables all have `schema`."""
    if format == CLIP_RETRIEVAL:
        from .clip_retrieval_part import LayoutPart

        return LayoutPart(folder, shard, schema)
    if format == LANCE:
        from .lance_part import LancePart

        return LancePart(folder, shard, schema)
    if format == WEBDATASET:
        from .webdataset_part import SamplesPart

        return SamplesPart(folder, shard, schema)
    return FilePart(folder, part_name(shard, format), schema, format)


class FilePart:
    """One file of rows."""

    def __init__(self, folder: Folder, name: str, schema: pa.Schema, format: Format) -> None:
        """Open the file, under a temporary name."""
        self._folder = folder
        self._name = name
        self.temporary = folder.temporary(name)
        self._sink = pa.OSFile(str(self.temporary), "wb")
        try:
            self._writer = _open_writer(self._sink, schema, format)
        except BaseException:
            self._sink.close()
            self.temporary.unlink(missing_ok=True)
            raise

    def write_table(self, table: pa.Table) -> None:
        """See `Part`; each table becomes a row group."""
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))

    def close(self) -> None:
        """See `Part`."""
        self._writer.close()
        self._sink.close()

    def publish(self) -> Published:
        """See `Part`."""
        return Published({self._name: self._folder.publish(self.temporary, self._name)})

    def discard(self) -> None:
        """See `Part`."""
        with contextlib.suppress(Exception):
            self._writer.close()
        self._writer.is_open = False  # or its destructor tries again, when the disk is full or the file is gone
        with contextlib.suppress(Exception):
            self._sink.close()
        with contextlib.suppress(OSError):
            self.temporary.unlink(missing_ok=True)


def _open_writer(sink: pa.NativeFile, schema: pa.Schema, format: Format) -> pq.ParquetWriter | LinesWriter:
    if format == "jsonl":
        return LinesWriter(sink, schema)
    # No dictionary encoding: nearly all bytes are vectors and keys, which don't repeat.
    return parquet_writer(sink, schema, use_dictionary=False)


class LinesWriter:
    """Writes every row as a JSON object with all columns, in their order.

    `tags`, which Parquet holds as a string of JSON, is written as a JSON object, so that the output reads like the
    input. JSON cannot hold bytes; a note of their size replaces them.
    """

    def __init__(self, sink: pa.NativeFile, schema: pa.Schema) -> None:
        """Take the open file; nothing is written yet."""
        self.is_open = True
        self._sink = sink
        self._parse_tags = _tags_parser(pa.struct(list(schema)))

    def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None:
        """Add rows; `row_group_size` has no effect."""
        lines = [json_text(self._parse_tags(row)) + "\n" for row in printable_rows(table)]
        self._sink.write("".join(lines).encode())

    def close(self) -> None:
        """Close the writer; the file itself stays open."""
        self.is_open = False


def _tags_parser(kind: pa.DataType) -> Callable[[Any], Any]:
    """Return a function that parses all `tags` in a value of a type."""
    if is_list_type(kind):
        parse = _tags_parser(kind.value_type)
        return (
            _unchanged
            if parse is _unchanged
            else lambda value: None if value is None else [parse(inner) for inner in value]
        )
    if not pa.types.is_struct(kind):
        return _unchanged
    fields = {field.name: _parsed_tags if field.name == "tags" else _tags_parser(field.type) for field in kind}
    parsers = {name: parse for name, parse in fields.items() if parse is not _unchanged}
    if not parsers:
        return _unchanged
    return lambda value: (
        value if value is None else {**value, **{name: parse(value[name]) for name, parse in parsers.items()}}
    )


def _unchanged(value: Any) -> Any:
    return value


def _parsed_tags(value: Any) -> Any:
    """Return the JSON object in a string; any other value, such as that of a user's own column `tags`, is unchanged."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, dict) else value
