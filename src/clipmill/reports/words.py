"""Numbers, plurals and times as readable text."""

from __future__ import annotations

import datetime
import math


def many(number: float, noun: str) -> str:
    """Return a number with its noun, in the plural where it belongs."""
    return f"{number:,.0f} {noun}" + ("" if number == 1 else "s")


def count(number: float | None) -> str:
    """Return a whole number with its thousands apart; a dash for none."""
    return "–" if number is None else f"{number:,.0f}"


def share(part: float, whole: float) -> str:
    """Return a share as a percentage; only exact 0 and 1 are shown as 0 % and 100 %."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %" if percent % 1 else f"{percent:.0f} %"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with some significant digits; a dash for none."""
    if value is None or math.isnan(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    """Return a time as its two largest units."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def moment(seconds: float | None) -> str:
    """Return a time of day, in UTC; a dash for none."""
    if seconds is None:
        return "–"
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
