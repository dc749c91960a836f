"""How plans read a row: values by path, whatever kind of row an engine has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...failures import Code, Failure, Stage

Getter = Callable[[str], Any]
"""Returns the value at a path of a row; raises `MissingColumn` for one that the row does not have."""


class MissingColumn(LookupError):
    """Raised by a row's getter for a column that the row does not have."""


def get_by_path(row: Mapping[str, Any], path: str) -> Any:
    """Return the value at `a.b.c` of nested mappings; a key that contains the dots itself wins.

    Raises:
        MissingColumn: Naming what is there.
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
    """Return the value at a path of a row, None where the row has no such column."""
    try:
        return get(path)
    except MissingColumn:
        return None


def row_name(get: Getter, key: str) -> str | None:
    """Return the name of a row in its failures; None where it has no such column, or a null in it."""
    value = value_or_none(get, key)
    return None if value is None else str(value)


def missing_column(get: Getter, paths: Sequence[str]) -> Failure | None:
    """Say which of the columns is not there, None if all are."""
    for path in paths:
        try:
            get(path)
        except MissingColumn as err:
            return Failure(Stage.READ, Code.MISSING_COLUMN, f"the row has no {path!r}: {err}", column=path)
    return None
