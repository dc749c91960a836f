"""Any value as JSON and back, any string as Arrow takes it, names in a message.

What a stranger's record or a damaged file holds must not stop a shard.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_NAMED = 3
_BYTES = {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}
"""How Python holds bytes of names that are not UTF-8, and how they are written."""


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return a value as JSON that any reader takes and UTF-8 can hold.

    NaN and infinities become null, bytes and arrays a word on their size, what JSON does not know its string.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except (ValueError, TypeError):
        text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=indent)
    # Lone surrogates become JSON's own escapes, so that names of files come back as they were.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def json_object(content: bytes | str) -> dict[str, Any] | None:
    """Return the JSON object that a file holds; None where it holds none, as one that is damaged."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def some_of(names: Sequence[str]) -> str:
    """Return a few of some names, and how many more there are."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def clean_text(text: str) -> str:
    r"""Return a string that UTF-8 can hold: what is no UTF-8 in a file's name becomes `\xe4`, as shells take it.

    Other lone surrogates become `\ud800`.
    """
    if text.isascii():
        return text
    return text.translate(_BYTES).encode("utf-8", "backslashreplace").decode("utf-8")


def key_text(value: Any) -> str | None:
    """Return a row's key as text, as a dataset's files give it back; None for null, "" and NaN, which name nothing."""
    if value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and math.isnan(value)):
        return None
    return json_text(value) if isinstance(value, bool | list | dict) else clean_text(str(value))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, np.ndarray):
        return f"<array of {' × '.join(map(str, value.shape))} {value.dtype}>"
    return str(value)
