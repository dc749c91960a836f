"""Values as JSON, strings that UTF-8 can encode, and lists of names in messages.

These functions accept any value: untrusted records and damaged files must not stop a shard.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import pathlib
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .times import duration_text, nanoseconds_of

_MAX_NAMES = 3
_BYTES = {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}
"""The surrogates that Python uses for bytes of file names that are not UTF-8, and the escapes they are written as."""


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return a value as strict JSON that UTF-8 can encode; it never raises.

    NaN, infinities, and `NaT` and `NA` of pandas become null. Dates, times, decimals, UUIDs and paths become their
    usual text, and sets become lists. Bytes and arrays become a string with their size, and other types that JSON lacks
    become their `str`.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except (ValueError, TypeError, RecursionError):
        text = json.dumps(_jsonable(value, _noted), ensure_ascii=False, allow_nan=False, indent=indent)
    return _encodable(text)


def exact_json(value: Any) -> str:
    """Return a value as `json_text` does, or raise `TypeError` for one that JSON cannot hold.

    Arrays become lists here. Bytes, objects of unknown types, and two keys with the same text are refused.
    """
    return _encodable(json.dumps(_jsonable(value, _refused), ensure_ascii=False, allow_nan=False))


def _encodable(text: str) -> str:
    """Write lone surrogates as JSON's own escapes, so that file names survive the round trip."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def parse_json(content: bytes | str) -> Any:
    """Parse JSON of any origin. Raise `ValueError` if it is not valid, or is nested deeper than Python can follow."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def json_object(content: bytes | str) -> dict[str, Any] | None:
    """Parse a file's content as a JSON object. Return None if it is not one, for instance because it is damaged."""
    try:
        found = parse_json(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def some_of(names: Sequence[str], count: int | None = None) -> str:
    """Return the first few names, and how many more there are; `count` is how many there are if not all are given."""
    more = (len(names) if count is None else count) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def clean_text(text: str) -> str:
    r"""Return a string that UTF-8 can encode.

    Bytes of file names that are not UTF-8 become escapes that shells understand, such as `\xe4`. Other lone surrogates
    become escapes such as `\ud800`.
    """
    if text.isascii():
        return text
    return text.translate(_BYTES).encode("utf-8", "backslashreplace").decode("utf-8")


def key_text(value: Any) -> str | None:
    """Return a row's key as text, as it is read back from a dataset; None for a missing one: null, "" or NaN.

    Numbers and texts are their `str`; dates, times, decimals, UUIDs and paths have their usual text; bytes are
    hexadecimal; and structs, lists and truth values are JSON.
    """
    if isinstance(value, str):
        return clean_text(str(value)) or None
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else str(float(value))
    named = _jsonable(value, _named)
    if named is None or isinstance(named, str):
        return named or None
    return json_text(named) if isinstance(named, bool | list | dict) else str(named)


def usual_text(value: Any) -> str | None:
    """Return the usual text of a date, time, decimal, UUID or path, or of a duration in seconds; None for others."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID | decimal.Decimal | pathlib.PurePath):
        return clean_text(str(value))
    if isinstance(value, datetime.timedelta | np.timedelta64):
        nanoseconds = nanoseconds_of(value)
        return str(value) if nanoseconds is None else duration_text(nanoseconds)
    return str(value) if isinstance(value, np.datetime64) else None


def is_missing(value: Any) -> bool:
    """Return whether a value stands for a missing one: None, or `NaT` or `NA` of NumPy or pandas."""
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return value is None or (
        type(value).__name__ in ("NaTType", "NAType") and type(value).__module__.startswith("pandas")
    )


_MAX_DEPTH = 200
"""Lists and objects inside each other; more would exhaust Python's stack."""


def _jsonable(value: Any, other: Callable[[Any], Any], depth: int = 0) -> Any:
    """Return a value as JSON has it; `other` is called for what JSON lacks."""
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64 | np.timedelta64):
        value = value.item()
    if isinstance(value, bool):
        return bool(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        limit = sys.get_int_max_str_digits()  # which Python does not write out, as that takes long
        return int(value) if not limit or value.bit_length() < 3 * limit else other(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_missing(value):
        return None
    if isinstance(value, np.ndarray) and other is _refused:
        value = value.tolist()
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        if depth >= _MAX_DEPTH:
            return other(value)
        if isinstance(value, Mapping):
            return _object(value, other, depth)
        return [_jsonable(inner, other, depth + 1) for inner in value]
    text = usual_text(value)
    return other(value) if text is None else text


def _object(value: Mapping[Any, Any], other: Callable[[Any], Any], depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in value.items():
        named = key if isinstance(key, str) else _jsonable(key, other, depth + 1)
        name = named if isinstance(named, str) else json.dumps(named)
        if name in found and other is _refused:
            raise TypeError(f"two keys have the text {name!r}")
        try:
            found[name] = _jsonable(inner, other, depth + 1)
        except TypeError as err:
            raise TypeError(f"{name!r}: {err}") from err
    return found


def _noted(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, np.ndarray):
        return f"<array of {' × '.join(map(str, value.shape))} {value.dtype}>"
    if isinstance(value, int):
        return f"<integer of {value.bit_length()} bits>"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return "<nested too deeply>"
    try:
        return str(value)
    except Exception:  # of a class of the user's
        return f"<{type(value).__name__}>"


def _refused(value: Any) -> Any:
    problem = "is no JSON"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        problem = "is nested too deeply"
    elif isinstance(value, int):
        problem = "has too many digits"
    raise TypeError(f"{type(value).__name__} {problem}")


def _named(value: Any) -> str:
    return bytes(value).hex() if isinstance(value, bytes | bytearray | memoryview) else _noted(value)
