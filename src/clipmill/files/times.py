"""Durations and moments of Python, NumPy and pandas in nanoseconds, without loss."""

from __future__ import annotations

import datetime

import numpy as np

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Units of Arrow's times."""
_NANOSECONDS = {
    **{unit: 10**9 // count for unit, count in PER_SECOND.items()},
    **{"W": 604_800 * 10**9, "D": 86_400 * 10**9, "h": 3_600 * 10**9, "m": 60 * 10**9},
}
_PER_NANOSECOND = {"ps": 10**3, "fs": 10**6, "as": 10**9}


def nanoseconds_of(value: datetime.timedelta | np.timedelta64 | np.datetime64) -> int | None:
    """Return a duration, or NumPy's moment since 1970, in nanoseconds.

    Returns:
        None if it is no whole number of nanoseconds, or not known: months differ in length.
    """
    if isinstance(value, np.datetime64 | np.timedelta64):
        return _of_numpy(value)
    nanoseconds = int(getattr(value, "nanoseconds", 0))  # of pandas
    return ((value.days * 86_400 + value.seconds) * 10**6 + value.microseconds) * 1000 + nanoseconds


def _of_numpy(value: np.datetime64 | np.timedelta64) -> int | None:
    if isinstance(value, np.datetime64) and np.datetime_data(value)[0] in ("Y", "M"):
        value = value.astype("datetime64[D]")
    unit, step = np.datetime_data(value)
    count = int(value.astype(np.int64)) * step
    if unit in _PER_NANOSECOND:
        whole, rest = divmod(count, _PER_NANOSECOND[unit])
        return None if rest else whole
    return count * _NANOSECONDS[unit] if unit in _NANOSECONDS else None


def duration_text(nanoseconds: int) -> str:
    """Return a duration in seconds as text, such as `1.5 s`."""
    whole, rest = divmod(abs(nanoseconds), 10**9)
    seconds = f"{whole}.{rest:09d}".rstrip("0").rstrip(".")
    return f"{'-' if nanoseconds < 0 else ''}{seconds} s"
