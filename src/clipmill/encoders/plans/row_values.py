"""Reading values from a row by path, for the row types of all engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...failures import Code, Failure, Stage
from ...files.json_text import key_text

Getter = Callable[[str], Any]
"""Returns the value at a path of a row, or raises `MissingColumn`."""


class MissingColumn(LookupError):
    """Raised by a getter for a column that the row does not have."""


def get_by_path(row: Mapping[str, Any], path: str) -> Any:
    """Return the value at `a.b.c` of nested mappings, or raise `MissingColumn`.

    A key that contains the dots itself takes precedence.
    """
    if path in row:
        return row[path]
    head, dot, rest = path.partition(".")
    if not dot or head not in row:
        raise MissingColumn(f"it has {', '.join(map(repr, row)) or 'no columns'}")
    inner = row[head]
    if inner is None:
        return None
    if not isinstance(inner, Mapping):
        raise MissingColumn(f"{head!r} is {type(inner).__name__}, not a struct")
    return get_by_path(inner, rest)


def value_or_none(get: Getter, path: str) -> Any:
    """Return the value at a path of a row, or None if the row has no such column."""
    try:
        return get(path)
    except MissingColumn:
        return None


def row_name(get: Getter, key: str) -> str | None:
    """Return the text of the value that identifies a row in its failures. None if it has no such value."""
    return key_text(value_or_none(get, key))


def missing_column(get: Getter, paths: Sequence[str]) -> Failure | None:
    """Return a failure for the first missing column, or None if all exist."""
    for path in paths:
        try:
            get(path)
        except MissingColumn as err:
            return Failure(Stage.READ, Code.MISSING_COLUMN, f"the row has no {path!r}: {err}", column=path)
    return None
