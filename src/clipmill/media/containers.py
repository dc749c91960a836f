"""Removes the parts of image files that hold no pixels, before a decoder sees them.

Decoders read comments, texts, profiles and padding with loops that are slow, some even quadratic: Pillow 12.3 takes 6 s
for a GIF with a comment of 8 MiB, and 39 s for one of 16 MiB. They also refuse whole images for a text of over 1 MiB.
None of these parts changes the pixels, so they are dropped, in time that grows with the file's size only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..failures import Code, RowError, Stage

_MOST_PARTS = 250_000
"""Parts of a file. A PNG of 64 MiB in pieces of 1 KiB has 65,000, and other files have a few dozen."""

_JPEG, _PNG, _GIF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", (b"GIF87a", b"GIF89a")
_NO_FILL = re.compile(rb"[^\xff]")
SCAN, _END, _ESCAPED = 0xDA, 0xD9, 0x00
_LENGTH_BYTES = 2
_STANDALONE = frozenset([0x01, *range(0xD0, 0xD8)])
"""Markers of scans, of the end, escaped bytes, and markers without a length (ITU-T T.81, table B.1)."""
_JFIF, _EXIF, _ADOBE, _COMMENT = 0xE0, 0xE1, 0xEE, 0xFE
_APPLICATION = range(0xE0, 0xF0)
_MOST_EXIF = 16
"""Segments of EXIF data, which continue each other; the orientation is in the first."""
_PNG_KEPT = frozenset(b"tRNS gAMA cHRM sRGB sBIT bKGD pHYs eXIf acTL fcTL fdAT".split())
"""Ancillary chunks that decoders use (PNG specification, section 11.3); critical chunks begin with a capital."""
_GIF_BLOCK = re.compile(rb"[\x21\x2c\x3b]")
_EXTENSION, _GRAPHIC_CONTROL = 0x21, 0xF9


def without_metadata(data: bytes) -> bytes:
    """Return a JPEG, PNG or GIF file without parts that hold no pixels; other files unchanged.

    The orientation and the colour transform of a JPEG file stay; of an animated GIF, all frames do. Of a damaged file,
    everything from the damage on stays, for the decoder to judge, unless no image can follow.

    Raises:
        RowError: `too_large` if the file has more parts than any real file.
    """
    if data.startswith(_JPEG):
        return _jpeg(data)
    if data.startswith(_PNG):
        return _png(data)
    return _gif(data) if data.startswith(_GIF) else data


def _counted(number: int) -> int:
    if number > _MOST_PARTS:
        message = f"the image file has over {_MOST_PARTS:,} parts, more than any real one"
        raise RowError(Stage.DECODE, Code.TOO_LARGE, message)
    return number + 1


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
        parts = _counted(parts)
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


def _jpeg(data: bytes) -> bytes:
    """Keep the segments without comments and other programs' data."""
    kept = [(0, 2)]
    seen = dict.fromkeys((_JFIF, _EXIF, _ADOBE), 0)
    for marker, start, stop in jpeg_segments(data):
        is_kept = marker is None or (marker not in (_COMMENT, _ESCAPED) and marker not in _APPLICATION)
        if marker in seen and (marker != _EXIF or data[start + 4 : start + 10] == b"Exif\0\0"):
            seen[marker] += 1
            is_kept = seen[marker] <= (_MOST_EXIF if marker == _EXIF else 1)
        if is_kept:
            kept.append((start, stop))
    return _of_parts(data, kept)


def _png(data: bytes) -> bytes:
    """Keep critical chunks that are not empty, and ancillary ones that decoders use."""
    kept, at, parts = [(0, 8)], 8, 0
    while at + 12 <= len(data):
        parts = _counted(parts)
        length, name = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        stop = at + 12 + length
        if stop > len(data):
            break
        if (name in _PNG_KEPT or name[:1].isupper()) and (length or name != b"IDAT"):
            kept.append((at, stop))
        at = stop
        if name == b"IEND":
            break
    return _of_parts(data, [*kept, (at, len(data))])


def _gif(data: bytes) -> bytes:
    """Keep the header, the graphic controls before the first image, and everything from that image on."""
    at = 13 + (3 * 2 ** ((data[10] & 7) + 1) if len(data) > 10 and data[10] & 0x80 else 0)
    kept, parts = [(0, at)], 0
    while found := _GIF_BLOCK.search(data, at):
        parts = _counted(parts)
        start = found.start()
        if data[start] != _EXTENSION:
            kept.append((start, len(data)))
            break
        at = start + 2
        for end in _sub_blocks(data, at):
            parts, at = _counted(parts), end
        if data[start + 1 : start + 2] == bytes([_GRAPHIC_CONTROL]):
            kept.append((start, at))
    return _of_parts(data, kept)


def _of_parts(data: bytes, parts: Sequence[tuple[int, int]]) -> bytes:
    """Return the parts of a file between positions; the file itself if they are all of it."""
    if sum(stop - start for start, stop in parts) >= len(data):
        return data
    view = memoryview(data)
    return b"".join([view[start:stop] for start, stop in parts])


def _sub_blocks(data: bytes, at: int) -> Iterator[int]:
    """Yield the end of each sub-block, the last of which is empty."""
    while at < len(data):
        length = data[at]
        at += 1 + length
        yield min(at, len(data))
        if not length:
            return
