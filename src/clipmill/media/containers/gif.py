"""GIF files: comments, other extensions and padding before the first image are dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .parts import counted, of_parts

_MAGIC = (b"GIF87a", b"GIF89a")
_BLOCK = re.compile(rb"[\x21\x2c\x3b]")
_EXTENSION, _GRAPHIC_CONTROL = 0x21, 0xF9


def gif_pixels(data: bytes) -> bytes:
    """Return the header, the graphic controls before the first image, and everything from that image on.

    Raises:
        RowError: `too_large`.
    """
    if not data.startswith(_MAGIC):
        return data
    at = 13 + (3 * 2 ** ((data[10] & 7) + 1) if len(data) > 10 and data[10] & 0x80 else 0)
    kept, parts = [(0, at)], 0
    while found := _BLOCK.search(data, at):
        parts = counted(parts)
        start = found.start()
        if data[start] != _EXTENSION:
            kept.append((start, len(data)))
            break
        at = start + 2
        for end in _sub_blocks(data, at):
            parts, at = counted(parts), end
        if data[start + 1 : start + 2] == bytes([_GRAPHIC_CONTROL]):
            kept.append((start, at))
    return of_parts(data, kept)


def _sub_blocks(data: bytes, at: int) -> Iterator[int]:
    """Yield the end of each sub-block, the last of which is empty."""
    while at < len(data):
        length = data[at]
        at += 1 + length
        yield min(at, len(data))
        if not length:
            return
