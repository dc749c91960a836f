"""What writes the rows of one file: Parquet, or a JSON object for each row."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal, Protocol, get_args

import pyarrow as pa

from ..errors import SpecError
from .plain import json_text

Format = Literal["parquet", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)


class PartWriter(Protocol):
    """Writes tables of one schema to an open file."""

    is_open: bool

    def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None:
        """Add rows."""
        ...

    def close(self) -> None:
        """Write what is left; the file itself stays open."""
        ...


def check_format(format: str) -> None:
    """Refuse what is no format.

    Raises:
        SpecError: Saying what there is.
    """
    if format not in FORMATS:
        raise SpecError(f"format={format!r} is none of {', '.join(map(repr, FORMATS))}")


def open_part(sink: pa.NativeFile, schema: pa.Schema, format: Format) -> PartWriter:
    """Return what writes rows of a schema to an open file."""
    if format == "jsonl":
        return LinesWriter(sink, schema)
    import pyarrow.parquet as pq  # late: it brings all of pyarrow's file systems, and ssl

    # No dictionaries: nearly all bytes are vectors and keys, which don't repeat.
    writer: PartWriter = pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=False)
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
    if pa.types.is_list(kind):
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
