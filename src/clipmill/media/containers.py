"""Removes the parts of image files that hold no pixels, before a decoder sees them.

Decoders read comments, texts, profiles and padding with loops that are slow, some even quadratic: Pillow 12.3 takes 6 s
for a GIF with a comment of 8 MiB, and 39 s for one of 16 MiB. They also refuse whole images for a text of over 1 MiB.
None of these parts changes the pixels, so they are dropped, in time that grows with the file's size only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..failures import Code, RowError, Stage

_MOST_PARTS = 250_000
"""Parts of a file. A PNG of 64 MiB in pieces of 1 KiB has 65,000, and other files have a few dozen."""

_JPEG, _PNG, _GIF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", (b"GIF87a", b"GIF89a")
_NO_FILL = re.compile(rb"[^\xff]")
_SCAN, _END, _ESCAPED = 0xDA, 0xD9, 0x00
_LENGTH_BYTES = 2
_STANDALONE = frozenset([0x01, *range(0xD0, 0xD8)])
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


def _jpeg(data: bytes) -> bytes:
    """Keep the segments up to the first scan, without comments, other programs' data and fill bytes."""
    kept, at, parts, dropped = [data[:2]], 2, 0, 0
    seen = dict.fromkeys((_JFIF, _EXIF, _ADOBE), 0)
    while (first := data.find(b"\xff", at)) >= 0 and (found := _NO_FILL.search(data, first)):
        parts = _counted(parts)
        marker, start = data[found.start()], found.start() - 1
        dropped += start - at  # fill bytes, and bytes between segments, which decoders skip
        at = start
        has_length = marker not in _STANDALONE and marker != _ESCAPED
        length = int.from_bytes(data[start + 2 : start + 4]) if has_length else 0
        stop = start + 2 + length
        if marker in (_SCAN, _END) or stop > len(data) or (has_length and length < _LENGTH_BYTES):
            break
        is_kept = marker not in (_COMMENT, _ESCAPED) and marker not in _APPLICATION
        if marker in seen and (marker != _EXIF or data[start + 4 : start + 10] == b"Exif\0\0"):
            seen[marker] += 1
            is_kept = seen[marker] <= (_MOST_EXIF if marker == _EXIF else 1)
        if is_kept:
            kept.append(data[start:stop])
        else:
            dropped += stop - start
        at = stop
    else:  # no marker follows, and nothing that could be decoded
        return b"".join(kept)
    return b"".join([*kept, data[at:]]) if dropped else data


def _png(data: bytes) -> bytes:
    """Keep critical chunks that are not empty, and ancillary ones that decoders use."""
    kept, at, parts, dropped = [data[:8]], 8, 0, 0
    while at + 12 <= len(data):
        parts = _counted(parts)
        length, name = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        stop = at + 12 + length
        if stop > len(data):
            break
        if (name in _PNG_KEPT or name[:1].isupper()) and (length or name != b"IDAT"):
            kept.append(data[at:stop])
        else:
            dropped += stop - at
        at = stop
        if name == b"IEND":
            break
    return b"".join([*kept, data[at:]]) if dropped else data


def _gif(data: bytes) -> bytes:
    """Keep the header, the graphic controls before the first image, and everything from that image on."""
    start = 13 + (3 * 2 ** ((data[10] & 7) + 1) if len(data) > 10 and data[10] & 0x80 else 0)
    kept, at = [data[:start]], start
    parts, dropped = 0, 0
    while found := _GIF_BLOCK.search(data, at):
        parts = _counted(parts)
        dropped += found.start() - at
        at = found.start()
        if data[at] != _EXTENSION:
            break
        stop = at + 2
        for end in _sub_blocks(data, stop):
            parts, stop = _counted(parts), end
        if data[at + 1 : at + 2] == bytes([_GRAPHIC_CONTROL]):
            kept.append(data[at:stop])
        else:
            dropped += stop - at
        at = stop
    else:  # no block follows, and nothing that could be decoded
        return b"".join(kept)
    return b"".join([*kept, data[at:]]) if dropped else data


def _sub_blocks(data: bytes, at: int) -> Iterator[int]:
    """Yield the end of each sub-block, the last of which is empty."""
    while at < len(data):
        length = data[at]
        at += 1 + length
        yield min(at, len(data))
        if not length:
            return
