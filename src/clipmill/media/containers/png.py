"""PNG files: texts, profiles and empty pixels are dropped (PNG specification, section 11)."""

from __future__ import annotations

from .parts import counted, of_parts
from .tiff import check_exif

_MAGIC = b"\x89PNG\r\n\x1a\n"
_KEPT = frozenset(b"tRNS gAMA cHRM sRGB sBIT bKGD pHYs eXIf acTL fcTL fdAT".split())
"""Ancillary chunks that decoders use (PNG specification, section 11.3); critical chunks begin with a capital."""


def png_pixels(data: bytes) -> bytes:
    """Return a PNG file of critical chunks that are not empty, and ancillary ones that decoders use.

    Raises:
        RowError: `too_large`.
    """
    if not data.startswith(_MAGIC):
        return data
    kept, at, parts = [(0, 8)], 8, 0
    while at + 12 <= len(data):
        parts = counted(parts)
        length, name = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        stop = at + 12 + length
        if stop > len(data):
            break
        if name == b"eXIf":
            check_exif(data[at + 8 : stop - 4])
        if (name in _KEPT or name[:1].isupper()) and (length or name != b"IDAT"):
            kept.append((at, stop))
        at = stop
        if name == b"IEND":
            break
    return of_parts(data, [*kept, (at, len(data))])
