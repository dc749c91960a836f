"""Sizes in bytes, as text."""

from __future__ import annotations

import re

from ..errors import SpecError

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def bytes_of(text: str) -> int:
    """Parse a size such as `2GB`, `512MiB` or `2000000000`; raise `SpecError` if it is not a size."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if match is None or match.group(2) not in _UNITS:
        raise SpecError(f"{text!r} is not a size; give one such as 2GB, 512MiB or 2000000000")
    return int(float(match.group(1)) * _UNITS[match.group(2)])
