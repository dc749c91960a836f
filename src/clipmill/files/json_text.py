"""Values as JSON, strings that UTF-8 can encode, and lists of names in messages.

These functions accept any value: untrusted records and damaged files must not stop a shard.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_MAX_NAMES = 3
_BYTES = {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}
"""The surrogates that Python uses for bytes of file names that are not UTF-8, and the escapes they are written as."""


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return a value as strict JSON that UTF-8 can encode.

    NaN and infinities become null. Bytes and arrays become a string with their size, and other types that JSON lacks
    become their `str`.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except (ValueError, TypeError):
        text = json.dumps(_jsonable(value), ensure_ascii=False, allow_nan=False, indent=indent)
    # Lone surrogates become JSON's own escapes, so that file names survive the round trip.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def json_object(content: bytes | str) -> dict[str, Any] | None:
    """Parse a file's content as a JSON object. Return None if it is not one, for instance because it is damaged."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def some_of(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    return ", ".join(names[:_MAX_NAMES]) + (f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else "")


def clean_text(text: str) -> str:
    r"""Return a string that UTF-8 can encode.

    Bytes of file names that are not UTF-8 become escapes that shells understand, such as `\xe4`. Other lone surrogates
    become escapes such as `\ud800`.
    """
    if text.isascii():
        return text
    return text.translate(_BYTES).encode("utf-8", "backslashreplace").decode("utf-8")


def key_text(value: Any) -> str | None:
    """Return a row's key as text, as it is read back from a dataset. None for a missing key: null, "" or NaN."""
    if value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and math.isnan(value)):
        return None
    return json_text(value) if isinstance(value, bool | list | dict) else clean_text(str(value))


def _jsonable(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.generic):
        return _jsonable(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(inner) for inner in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, np.ndarray):
        return f"<array of {' × '.join(map(str, value.shape))} {value.dtype}>"
    return str(value)
