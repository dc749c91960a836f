"""Rows of Beam (dicts, `beam.Row`s and NamedTuples), read in the same way, and the types of output rows."""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import datetime
import functools
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from apache_beam.pvalue import Row
from apache_beam.typehints import typehints
from apache_beam.typehints.native_type_compatibility import convert_to_beam_type
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.typehints.schemas import typing_to_runner_api
from apache_beam.utils.timestamp import Duration, Timestamp

from ..encoders.plans.plan import RowPlan
from ..encoders.plans.row_values import get_by_path

Vectors = Literal["array", "list"]
"""The type of a vector in a row: a float32 array, or a list of numbers for transforms in other languages."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

STRUCTS = Sequence[Mapping[str, Any]] | None
"""A list of dicts in a row, as scores are: after a shuffle it is the same again, values of any type in it."""


def fields_of(value: Any) -> Mapping[str, Any] | None:
    """Return the fields of a row by name, None if it is no row."""
    if isinstance(value, Mapping):
        return value
    if _is_row(value):
        fields: Mapping[str, Any] = value._asdict()  # type: ignore[union-attr]
        return fields
    return None


def _is_row(value: Any) -> bool:
    return isinstance(value, Row) or (isinstance(value, tuple) and hasattr(value, "_fields"))


@dataclasses.dataclass(frozen=True, slots=True)
class RowFields:
    """The fields of a row, which plans read by path."""

    fields: Mapping[str, Any]

    def __call__(self, path: str) -> Any:
        """Return the value at a path; see `value_at`."""
        return value_at(self.fields, path)


def value_at(fields: Mapping[str, Any], path: str) -> Any:
    """Return the value at `a.b.c` of rows inside rows, of whatever kind, or raise `MissingColumn`.

    A struct, also one in a list, is a mapping.
    """
    head, dot, rest = path.partition(".")
    if dot and path not in fields and (inner := fields_of(fields.get(head))) is not None:
        return value_at(inner, rest)
    value = get_by_path(fields, path)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return value if not any(map(_is_row, value)) else [fields_of(one) if _is_row(one) else one for one in value]
    inner = fields_of(value)
    return value if inner is None else inner


def plain(value: Any) -> Any:
    """Return a value with every row inside it as a dict, and Beam's moments and durations as Python's."""
    if (fields := fields_of(value)) is not None:
        return {name: plain(inner) for name, inner in fields.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, Duration):
        return datetime.timedelta(microseconds=value.micros)
    if isinstance(value, Timestamp):
        with contextlib.suppress(OverflowError):  # a moment that Python lacks is refused where it is written
            return _EPOCH + datetime.timedelta(microseconds=value.micros)
    return value


def row_fields(element_type: Any) -> list[tuple[str, Any]] | None:
    """Return names and types of the fields of a PCollection's elements, None without a schema."""
    row_type = element_type
    if isinstance(element_type, type) and issubclass(element_type, tuple):
        row_type = RowTypeConstraint.from_user_type(element_type)
    if not isinstance(row_type, RowTypeConstraint):
        return None
    hints = _resolved_hints(row_type) if any(_is_unresolved(kind) for _, kind in row_type._fields) else {}
    return [(name, _resolved_type(hints.get(name, kind))) for name, kind in row_type._fields]


def _resolved_type(kind: Any) -> Any:
    """Return a type as Beam has it, with the types of rows inside it resolved."""
    kind = convert_to_beam_type(kind)
    is_tuple = isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
    row_type = RowTypeConstraint.from_user_type(kind) if is_tuple else kind
    if isinstance(row_type, RowTypeConstraint) and any(_is_unresolved(one) for _, one in row_type._fields):
        return RowTypeConstraint.from_fields(row_fields(row_type) or [])
    if isinstance(kind, typehints.UnionConstraint):
        return typehints.Union[tuple(map(_resolved_type, kind.union_types))]
    if isinstance(kind, typehints.SequenceTypeConstraint):
        resolved = _resolved_type(kind.inner_type)
        return kind if resolved is kind.inner_type else typehints.Sequence[resolved]
    return kind


def _is_unresolved(kind: Any) -> bool:
    """Return whether `from __future__ import annotations` has turned a field's type into text."""
    return isinstance(kind, str | typing.ForwardRef)


def _resolved_hints(row_type: RowTypeConstraint) -> dict[str, Any]:
    try:
        return typing.get_type_hints(row_type.user_type)
    except NameError:  # names a type that only type checkers import
        return {}


def planned_type(element_type: Any, plan: RowPlan, vectors: Vectors = "array") -> Any:
    """Return the type of rows with the columns of a plan added: see `widened_type`.

    Vectors are declared as arrays, so that a shuffle keeps them; declared as sequences of numbers they would come
    back as lists of Python floats.
    """
    known = dict(row_fields(element_type) or ())
    plan.check_arrays([path for path in plan.reads if is_array(known.get(path))])
    vector = Sequence[np.float32] if vectors == "list" else _array_type()
    single = {"flag": bool, "score": float | None, "rank": int | None, "ranked": STRUCTS}
    added: dict[str, Any] = {}
    for column in plan.added:
        if column.holds in single:
            added[column.name] = single[column.holds]
            continue
        one: Any = vector if column.holds == "vector" else STRUCTS
        added[column.name] = Sequence[one | None] | None if is_array(known.get(column.source or "")) else one | None
    return widened_type(element_type, added)


@functools.cache
def _array_type() -> Any:
    """Return the type of arrays in schemas; older Beam fails on `np.ndarray`, and writes `Any` the same."""
    try:
        typing_to_runner_api(np.ndarray)
    except IndexError:
        return Any
    return np.ndarray


def widened_type(element_type: Any, added: Mapping[str, Any]) -> Any:
    """Return the type of rows with new columns: with a schema if the input has one, dicts for dicts."""
    fields = row_fields(element_type)
    if fields is None:
        is_dict = isinstance(element_type, typehints.DictConstraint) or element_type is dict
        return typehints.Dict[str, Any] if is_dict else typehints.Any
    together = [*fields, *added.items()]
    return RowTypeConstraint.from_fields([(name, convert_to_beam_type(kind)) for name, kind in together])


def is_array(kind: Any) -> bool:
    """Return whether a field holds arrays or nulls; bytes and strings are values."""
    kind = convert_to_beam_type(kind)
    if isinstance(kind, typehints.UnionConstraint):
        return any(is_array(inner) for inner in kind.union_types if inner is not type(None))
    if isinstance(kind, typehints.SequenceTypeConstraint | typehints.TupleConstraint):
        return True
    origin = getattr(kind, "__origin__", kind)
    return isinstance(origin, type) and issubclass(origin, list | collections.abc.MutableSequence)


def make_row(original: Any, fields: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """Return a new row of the kind that came: a dict for a dict, else a `beam.Row`."""
    merged = {**fields, **values}
    return merged if isinstance(original, Mapping) else Row(**merged)


def as_lists(value: Any) -> Any:
    """Return vectors, alone or in a list, as lists of numbers."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [as_lists(inner) for inner in value] if isinstance(value, list) else value
