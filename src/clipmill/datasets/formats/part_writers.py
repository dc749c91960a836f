"""What writes the rows of one shard: Parquet, a JSON object for each row, clip-retrieval's layout, Lance."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from ...failures import Failure
from ...files.file_systems import Folder
from ...files.json_text import json_text
from ...files.parquet import parquet_writer
from ...models.spec import EncoderSpec
from ..tables.column_types import is_list_type
from .base import CLIP_RETRIEVAL, LANCE, Format, Part, PartWriter, Published, part_name


def schema_in_format(format: str, schema: pa.Schema, *, plan: Any, spec: EncoderSpec, directory: str) -> pa.Schema:
    """Return the schema of a job as its format needs it, on the driver.

    Args:
        format: What is written.
        schema: Columns of the job's rows or documents.
        plan: What is done with them.
        spec: What makes the vectors.
        directory: Path or URL of the dataset.

    Raises:
        SpecError: If the format has no place for what the job makes, or cannot be written there.
        MissingExtraError: If the format's library is not installed.
    """
    if format == CLIP_RETRIEVAL:
        from .clip_retrieval import with_layout

        return with_layout(schema, plan, spec)
    if format == LANCE:
        from .lance_part import check_lance

        check_lance(directory, schema)
    return schema


def mismatch_of(format: str, schema: pa.Schema) -> Callable[[Any], Failure | None] | None:
    """Return what says of a row why it has no place in a format; None where every row has one."""
    if format != CLIP_RETRIEVAL:
        return None
    from .clip_retrieval import mismatch_of

    return mismatch_of(schema)


def open_part(folder: Folder, shard: str, schema: pa.Schema, format: Format) -> Part:
    """Return what writes the rows of a shard.

    Args:
        folder: The dataset.
        shard: Its name.
        schema: Columns of every table.
        format: What is written.

    Raises:
        MissingExtraError: If the format's library is not installed.
    """
    if format == CLIP_RETRIEVAL:
        from .clip_retrieval_part import LayoutPart

        return LayoutPart(folder, shard, schema)
    if format == LANCE:
        from .lance_part import LancePart

        return LancePart(folder, shard, schema)
    return FilePart(folder, part_name(shard, format), schema, format)


class FilePart:
    """One file of rows."""

    def __init__(self, folder: Folder, name: str, schema: pa.Schema, format: Format) -> None:
        """Open it, under a temporary name."""
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
        """See `Part`; each table is a row group."""
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
        self._writer.is_open = False  # or its destructor tries again, on a file that is full or gone
        with contextlib.suppress(Exception):
            self._sink.close()
        with contextlib.suppress(OSError):
            self.temporary.unlink(missing_ok=True)


def _open_writer(sink: pa.NativeFile, schema: pa.Schema, format: Format) -> PartWriter:
    if format == "jsonl":
        return LinesWriter(sink, schema)
    # No dictionaries: nearly all bytes are vectors and keys, which don't repeat.
    writer: PartWriter = parquet_writer(sink, schema, use_dictionary=False)
    return writer


class LinesWriter:
    """Writes every row as a JSON object with all columns, in their order.

    `tags`, a JSON object in a string in Parquet, is the object itself here, so that what is written reads as it was
    read. Bytes have no place in JSON: a word on their size stands there.
    """

    def __init__(self, sink: pa.NativeFile, schema: pa.Schema) -> None:
        """Keep the file; nothing is written yet."""
        self.is_open = True
        self._sink = sink
        self._opened = _opener(pa.struct(list(schema)))

    def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None:
        """Add rows; the size of row groups says nothing here."""
        lines = [json_text(self._opened(row)) + "\n" for row in table.to_pylist()]
        self._sink.write("".join(lines).encode())

    def close(self) -> None:
        """See `PartWriter`."""
        self.is_open = False


def _opener(kind: pa.DataType) -> Callable[[Any], Any]:
    """Return what puts the objects of `tags` in their place in a value of a type."""
    if is_list_type(kind):
        one = _opener(kind.value_type)
        return _same if one is _same else lambda value: None if value is None else [one(inner) for inner in value]
    if not pa.types.is_struct(kind):
        return _same
    inside = {field.name: _opened_tags if field.name == "tags" else _opener(field.type) for field in kind}
    changed = {name: change for name, change in inside.items() if change is not _same}
    if not changed:
        return _same
    return lambda value: (
        value if value is None else {**value, **{name: change(value[name]) for name, change in changed.items()}}
    )


def _same(value: Any) -> Any:
    return value


def _opened_tags(value: Any) -> Any:
    """Return the object in a string; a user's own column of that name, which holds something else, as it is."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, dict) else value
