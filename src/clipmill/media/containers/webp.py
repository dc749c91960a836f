"""WebP files: libwebp reads any number of chunks quickly; their EXIF data is checked."""

from __future__ import annotations

from .parts import counted
from .tiff import check_exif


def check_webp(data: bytes) -> None:
    """Check the chunks of a WebP file; other files are not looked at.

    Raises:
        RowError: `too_large`.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return
    at, parts = 12, 0
    while at + 8 <= len(data):
        parts = counted(parts)
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF":
            check_exif(data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
