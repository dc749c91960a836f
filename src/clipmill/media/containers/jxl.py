"""JPEG XL files: boxes without pixels are dropped, and the size is read from the header (ISO/IEC 18181-1 and -2)."""

from __future__ import annotations

from collections.abc import Callable

from .boxes import boxes
from .parts import of_parts

_FILE, _STREAM = b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a"
_KEPT = frozenset([b"JXL ", b"ftyp", b"jxll", b"jxlc", b"jxlp"])
"""Boxes of the pixels. Others hold metadata, some compressed, and what it takes to make a JPEG file of it again."""
_RATIOS = ((1, 1), (6, 5), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_BITS = (9, 13, 18, 30)
_HEADER_BYTES = 12
"""Bytes that hold the size, whatever it is; no image is shorter."""


def is_jxl(data: bytes) -> bool:
    """Return whether these are the first bytes of a JPEG XL file."""
    return data.startswith((_FILE, _STREAM))


def jxl_pixels(data: bytes) -> bytes:
    """Return a file of the boxes that hold pixels. Those are upright; EXIF data would turn them once more.

    Raises:
        RowError: `too_large`.
    """
    if data.startswith(_STREAM):
        return data
    found = list(boxes(data))
    kept = [(box.start, box.stop) for box in found if box.name in _KEPT]
    return of_parts(data, [*kept, (found[-1].stop if found else 0, len(data))])


def jxl_size(data: bytes) -> tuple[int, int] | None:
    """Return the width and height in the header of a JPEG XL file; None if there is none."""
    stream = data[:_HEADER_BYTES] if data.startswith(_STREAM) else b""
    for box in boxes(data) if not stream else ():
        if box.name in (b"jxlc", b"jxlp"):
            start = box.inner + 4 * (box.name == b"jxlp")  # behind the number of the part
            stream += data[start : min(box.stop, start + _HEADER_BYTES)]
        if len(stream) >= _HEADER_BYTES:
            break
    if not stream.startswith(_STREAM) or len(stream) < _HEADER_BYTES:
        return None
    read = _bits(stream[2:])

    def side(is_small: int) -> int:
        return 8 * (read(5) + 1) if is_small else read(_BITS[read(2)]) + 1

    is_small = read(1)
    height = side(is_small)
    ratio = read(3)
    if ratio == 0:
        return side(is_small), height
    times, by = _RATIOS[ratio - 1]
    return height * times // by, height


def _bits(data: bytes) -> Callable[[int], int]:
    """Return a function that reads so many bits, the lowest of each byte first."""
    value, at = int.from_bytes(data, "little"), 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return value >> (at - count) & ((1 << count) - 1)

    return read
