"""Any value as JSON, and any string as Arrow takes it: what a stranger's record holds must not stop a shard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return a value as JSON that any reader takes and UTF-8 can hold.

    NaN and infinities become null, bytes and arrays a word on their size, what JSON does not know its string.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except (ValueError, TypeError):
        text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return clean_text(text)


def clean_text(text: str) -> str:
    r"""Return a string that UTF-8 can hold: lone surrogates (of undecodable file names) become `\udc..` escapes."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


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
