"""Python values as Arrow values of a declared type, by an explicit table of types.

Without it, pyarrow truncates (1.5 to 1, a datetime to its date), reads numbers as moments, and takes anything with an
`__int__` for an integer, a UUID among others. A value is converted without loss here, or refused.
"""

from __future__ import annotations

import collections.abc
import datetime
import decimal
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ...files.json_text import clean_text, exact_json, is_missing, usual_text
from ...files.times import PER_SECOND, nanoseconds_of
from .column_types import BOOL8, JSON, is_bytes_type, is_list_type, is_text_type, is_uuid

Convert = Callable[[Any], Any]

_MISSING_FLOATS = (pa.types.is_floating, pa.types.is_null)
_BYTES = (bytes, bytearray, memoryview)
_NEVER_MISSING = frozenset({str, int, bool, bytes, list, dict, tuple})
_EPOCH = datetime.datetime(1970, 1, 1)


class _WrongType(TypeError):
    """A value that its column cannot hold."""

    def __init__(self, value: Any, kind: pa.DataType, reason: str = "") -> None:
        super().__init__(f"{type(value).__name__} is no {kind}" + (f": {reason}" if reason else ""))


def value_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return Python values as an Arrow array.

    NumPy's scalars count as Python's; `NaT` and `NA` of pandas are nulls, and so is NaN where the type has none.

    Raises:
        TypeError: If the type cannot hold a value.
        ValueError: If it cannot hold it without loss; `pyarrow.ArrowException` too.
        OverflowError: The same.
    """
    plain = _plain(kind)
    if plain is None or not plain.issuperset(map(type, values)):
        convert = converter(kind)
        values = [convert(value) for value in values]
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    try:
        return pa.array(values, kind)
    except pa.ArrowNotImplementedError:
        if any(value is not None for value in values):
            raise
        return pa.nulls(len(values), kind)  # of extensions inside lists, for example


def _plain(kind: pa.DataType) -> frozenset[type] | None:
    return None if isinstance(kind, pa.BaseExtensionType) else _PLAIN.get(kind)  # a user's own types may have no hash


def converter(kind: pa.DataType) -> Convert:
    """Return a function that returns a value as pyarrow takes it for a type, or raises as `value_array` does."""
    inner = _converter(kind)
    nan_is_null = not any(one(kind) for one in _MISSING_FLOATS)

    def convert(value: Any) -> Any:
        if value is None:
            return None
        if type(value) in _NEVER_MISSING:
            return inner(value)
        if isinstance(value, np.generic) and not isinstance(value, np.datetime64 | np.timedelta64):
            value = value.item()
        if is_missing(value) or (nan_is_null and isinstance(value, float) and math.isnan(value)):
            return None
        return inner(value)

    return convert


def _converter(kind: pa.DataType) -> Convert:
    for is_kind, make in _MAKERS:
        if is_kind(kind):
            return make(kind)

    def refuse(value: Any) -> Any:
        raise _WrongType(value, kind, "Python values are not converted to this type")

    return refuse


def _of_types(types: tuple[type, ...], refused: tuple[type, ...] = ()) -> Callable[[pa.DataType], Convert]:
    """Return a maker for types whose values pyarrow converts without loss, or refuses."""

    def make(kind: pa.DataType) -> Convert:
        def convert(value: Any) -> Any:
            if not isinstance(value, types) or isinstance(value, refused):
                raise _WrongType(value, kind)
            return value

        return convert

    return make


def _byte_of_bool(kind: pa.DataType) -> Convert:
    of_bool = _of_types((bool,))(kind)
    return lambda value: int(of_bool(value))


def _integer(kind: pa.DataType) -> Convert:
    def convert(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():  # as pandas has integers with nulls
            return int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            reason = "it has a fraction" if isinstance(value, float) else ""
            raise _WrongType(value, kind, reason)
        return int(value)

    return convert


def _float(kind: pa.DataType) -> Convert:
    largest = float(np.finfo(kind.to_pandas_dtype()).max)

    def convert(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _WrongType(value, kind)
        if isinstance(value, int) and int(float(value)) != value:
            raise _WrongType(value, kind, "it has too many digits")
        if math.isfinite(value) and abs(value) > largest:
            raise _WrongType(value, kind, f"it is beyond {largest:.6g}")
        return float(value)

    return convert


def _text(kind: pa.DataType) -> Convert:
    def convert(value: Any) -> str:
        if isinstance(value, str):
            return clean_text(str(value))
        if isinstance(value, bool | int | float | list | tuple | Mapping):
            return exact_json(value)  # JSON lines may hold them in any column
        if (text := usual_text(value)) is None:
            raise TypeError(f"{type(value).__name__} is no text; convert it, or drop the column")
        return text

    return convert


def _binary(kind: pa.DataType) -> Convert:
    def convert(value: Any) -> bytes:
        if not isinstance(value, _BYTES):
            raise _WrongType(value, kind)
        return bytes(value)

    return convert


def _date(kind: pa.DataType) -> Convert:
    def convert(value: Any) -> datetime.date:
        if isinstance(value, np.datetime64 | datetime.datetime):
            is_day = value.astype("datetime64[D]") == value if isinstance(value, np.datetime64) else _is_midnight(value)
            if not is_day:
                raise _WrongType(value, kind, "it has a time of day or a time zone")
            value = value.astype("datetime64[D]").item() if isinstance(value, np.datetime64) else value.date()
        if not isinstance(value, datetime.date):
            raise _WrongType(value, kind)
        return value

    return convert


def _is_midnight(value: datetime.datetime) -> bool:
    nanoseconds = getattr(value, "nanosecond", 0)  # of pandas
    return value.tzinfo is None and value.time() == datetime.time() and not nanoseconds


def _time(kind: pa.DataType) -> Convert:
    def convert(value: Any) -> datetime.time:
        if not isinstance(value, datetime.time):
            raise _WrongType(value, kind)
        if value.tzinfo is not None:
            raise _WrongType(value, kind, "it has a time zone")
        _in_units(value.microsecond * 1000, value, kind)
        return value

    return convert


def _moment(kind: pa.TimestampType) -> Convert:
    def convert(value: Any) -> int:
        if isinstance(value, np.datetime64):
            zone, nanoseconds = None, nanoseconds_of(value)
        elif isinstance(value, datetime.date):
            day = value
            moment = day if isinstance(day, datetime.datetime) else datetime.datetime.combine(day, datetime.time())
            zone = moment.tzinfo
            if zone is not None:
                moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
            nanoseconds = nanoseconds_of(moment - _EPOCH)
        else:
            raise _WrongType(value, kind)
        if (zone is None) != (kind.tz is None):
            which = "it has no time zone, and the column has" if zone is None else "the column has no time zone"
            raise _WrongType(value, kind, which)
        return _in_units(nanoseconds, value, kind)

    return convert


def _duration(kind: pa.DurationType) -> Convert:
    def convert(value: Any) -> int:
        if not isinstance(value, datetime.timedelta | np.timedelta64):
            raise _WrongType(value, kind)
        return _in_units(nanoseconds_of(value), value, kind)

    return convert


def _in_units(nanoseconds: int | None, value: Any, kind: Any) -> int:
    if nanoseconds is None:
        raise _WrongType(value, kind, "it is no whole number of nanoseconds")
    count, rest = divmod(nanoseconds, 10**9 // PER_SECOND[kind.unit])
    if rest:
        raise _WrongType(value, kind, f"it has fractions of {kind.unit}")
    return count


def _list(kind: Any) -> Convert:
    convert_one, plain = converter(kind.value_type), _plain(kind.value_type)
    is_number = pa.types.is_floating(kind.value_type)

    def convert(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            if (
                is_number
                and value.ndim == 1
                and value.dtype.kind == "f"
                and value.itemsize * 8 <= kind.value_type.bit_width
            ):
                return value
            value = list(value)
        if not isinstance(value, collections.abc.Sequence | collections.deque) or isinstance(value, (str, *_BYTES)):
            raise _WrongType(value, kind)
        if plain is not None and plain.issuperset(map(type, value)):
            items = list(value)
        else:
            items = [convert_one(one) for one in value]
        if not kind.value_field.nullable and any(one is None for one in items):
            raise _WrongType(value, kind, "an item is null")
        return items

    return convert


def _struct(kind: pa.StructType) -> Convert:
    inner = {field.name: converter(field.type) for field in kind}
    required = [field.name for field in kind if not field.nullable]

    def convert(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _WrongType(value, kind)
        if unknown := [name for name in value if name not in inner]:
            raise _WrongType(value, kind, f"it has {unknown[0]!r}")
        found = {name: convert_one(value.get(name)) for name, convert_one in inner.items()}
        if missing := [name for name in required if found[name] is None]:
            raise _WrongType(value, kind, f"{missing[0]!r} is null")
        return found

    return convert


def _map(kind: pa.MapType) -> Convert:
    key_of, item_of = converter(kind.key_type), converter(kind.item_type)

    def convert(value: Any) -> list[tuple[Any, Any]]:
        pairs = list(value.items()) if isinstance(value, Mapping) else value
        if not isinstance(pairs, list | tuple) or not all(
            isinstance(one, list | tuple) and len(one) == 2 for one in pairs
        ):
            raise _WrongType(value, kind)
        entries = [(key_of(key), item_of(item)) for key, item in pairs]
        nullable = kind.item_field.nullable
        if any(key is None or (item is None and not nullable) for key, item in entries):
            raise _WrongType(value, kind, "a key or value is null")
        return entries

    return convert


def _uuid(kind: pa.DataType) -> Convert:
    def convert(value: Any) -> bytes:
        if isinstance(value, uuid.UUID):
            return value.bytes
        if not isinstance(value, _BYTES):
            raise _WrongType(value, kind)
        return bytes(value)

    return convert


_TYPES = pa.types
_MAKERS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], Convert]], ...] = (
    (is_uuid, _uuid),
    (lambda kind: is_text_type(kind) or isinstance(kind, JSON), _text),
    (lambda kind: isinstance(kind, BOOL8), _byte_of_bool),
    (lambda kind: isinstance(kind, pa.BaseExtensionType), lambda kind: _converter(kind.storage_type)),
    (_TYPES.is_boolean, _of_types((bool,))),
    (_TYPES.is_integer, _integer),
    (_TYPES.is_floating, _float),
    (_TYPES.is_decimal, _of_types((decimal.Decimal, int), (bool,))),
    (is_bytes_type, _binary),
    (_TYPES.is_date, _date),
    (_TYPES.is_time, _time),
    (_TYPES.is_timestamp, _moment),
    (_TYPES.is_duration, _duration),
    (_TYPES.is_map, _map),
    (is_list_type, _list),
    (_TYPES.is_struct, _struct),
    (_TYPES.is_dictionary, lambda kind: converter(kind.value_type)),
    (_TYPES.is_null, _of_types(())),
)
"""How values of each type are converted: the first that applies."""

_PLAIN: dict[pa.DataType, frozenset[type]] = {
    pa.bool_(): frozenset({bool, type(None)}),
    **{kind: frozenset({int, type(None)}) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{kind: frozenset({int, type(None)}) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    pa.float64(): frozenset({float, type(None)}),
    pa.binary(): frozenset({bytes, type(None)}),
    pa.large_binary(): frozenset({bytes, type(None)}),
}
"""Types of Python whose values need no conversion, as in most columns."""
