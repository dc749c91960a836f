"""JPEG files: segments without pixels are dropped, and scans are counted (ITU-T T.81)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from .parts import counted, of_parts, too_large
from .tiff import check_exif

_MAGIC = b"\xff\xd8\xff"
_NO_FILL = re.compile(rb"[^\xff]")
SCAN, _END, _ESCAPED = 0xDA, 0xD9, 0x00
_LENGTH_BYTES = 2
_STANDALONE = frozenset([0x01, *range(0xD0, 0xD8)])
"""Markers of scans, of the end, escaped bytes, and markers without a length (ITU-T T.81, table B.1)."""
_JFIF, _EXIF, _ADOBE, _COMMENT = 0xE0, 0xE1, 0xEE, 0xFE
_APPLICATION = range(0xE0, 0xF0)
_MOST_EACH = 16
"""Segments of each of these kinds. Those of EXIF data continue each other, and decoders follow the last Adobe one."""
_MOST_SCANS = 100
"""Scans of a file, each of which decoders apply to all pixels: libtiff's limit. Encoders write 10, or 18 for CMYK."""
_AFTER_SCAN = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")


class Segment(NamedTuple):
    """A segment of a JPEG file, with its marker; the last one holds the rest of the file.

    Attributes:
        marker: The second byte of the marker; None for the rest of a damaged file.
        start: Where its marker begins.
        stop: Where it ends.
    """

    marker: int | None
    start: int
    stop: int


def jpeg_segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments of a JPEG file up to its first scan, which includes the rest, or up to damage.

    Fill bytes and bytes between segments, which decoders skip, are in none of them.

    Raises:
        RowError: `too_large` if there are more than any real file has.
    """
    at, parts = 2, 0
    while (first := data.find(b"\xff", at)) >= 0 and (found := _NO_FILL.search(data, first)):
        parts = counted(parts)
        marker, at = data[found.start()], found.start() - 1
        if marker in (SCAN, _END):
            yield Segment(marker, at, len(data))
            return
        has_length = marker not in _STANDALONE and marker != _ESCAPED
        length = int.from_bytes(data[at + 2 : at + 4]) if has_length else 0
        start, at = at, at + 2 + length
        if at > len(data) or (has_length and length < _LENGTH_BYTES):
            yield Segment(None, start, len(data))
            return
        yield Segment(marker, start, at)


def jpeg_pixels(data: bytes) -> bytes:
    """Return a JPEG file without comments and other programs' data; other files unchanged.

    Raises:
        RowError: `too_large`.
    """
    if not data.startswith(_MAGIC):
        return data
    kept, exif = [(0, 2)], []
    seen = dict.fromkeys((_JFIF, _EXIF, _ADOBE), 0)
    for marker, start, stop in jpeg_segments(data):
        is_kept = marker is None or (marker not in (_COMMENT, _ESCAPED) and marker not in _APPLICATION)
        if marker in seen and (marker != _EXIF or data.startswith(b"Exif\0\0", start + 4, stop)):
            seen[marker] += 1
            is_kept = seen[marker] <= _MOST_EACH
            if is_kept and marker == _EXIF:
                exif.append(data[start + 10 : stop])
        if is_kept:
            kept.append((start, stop))
        if marker == SCAN:
            _check_scans(data, start)
    check_exif(b"".join(exif))
    return of_parts(data, kept)


def _check_scans(data: bytes, at: int) -> None:
    """Count the scans from the first one on, in files that may have too many."""
    if data.count(b"\xff\xda", at) <= _MOST_SCANS:  # bytes of pixels are escaped, so that most files end here
        return
    parts = scans = 0
    while (found := _AFTER_SCAN.search(data, at)) and (marker := found[1][0]) != _END:
        parts = counted(parts)
        scans += marker == SCAN
        if scans > _MOST_SCANS:
            raise too_large(f"the JPEG file has over {_MOST_SCANS} scans, more than any real one")
        at = found.end()
        if marker not in _STANDALONE:
            at += max(int.from_bytes(data[at : at + 2]), _LENGTH_BYTES)
