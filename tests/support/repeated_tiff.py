"""TIFF files in which one part is repeated."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from file_parts import overlapping_tags


def tiff(
    width: int, height: int, tags: list[tuple[int, int, int, bytes]], pixels: bytes = b"", following: int = 0
) -> bytes:
    """A grey TIFF file with pixels at byte 8, and these tags besides those of its size: (tag, type, count, values)."""
    every = [
        (256, 4, 1, struct.pack("<I", width)),
        (257, 4, 1, struct.pack("<I", height)),
        (258, 3, 1, b"\x08\0"),
        (262, 3, 1, b"\1\0"),
        (277, 3, 1, b"\1\0"),
        *tags,
    ]
    if not any(tag == 259 for tag, *_ in tags):
        every.append((259, 3, 1, b"\1\0"))
    start = 8 + len(pixels)
    after, values, entries = start + 2 + 12 * len(every) + 4, b"", b""
    for tag, kind, count, data in sorted(every):
        if len(data) > 4:
            entries += struct.pack("<HHII", tag, kind, count, after + len(values))
            values += data
        else:
            entries += struct.pack("<HHI", tag, kind, count) + data.ljust(4, b"\0")
    return (
        b"II*\0"
        + struct.pack("<I", start)
        + pixels
        + struct.pack("<H", len(every))
        + entries
        + struct.pack("<I", following)
        + values
    )


def _longs(values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def _strips(size: int) -> bytes:
    count = size // 8
    return tiff(
        8,
        8,
        [(273, 4, count, _longs([8] * count)), (278, 4, 1, _longs([1])), (279, 4, count, _longs([8] * count))],
        bytes(64),
    )


def _tiles(size: int) -> bytes:
    count = size // 8
    tags = [
        (322, 4, 1, _longs([16])),
        (323, 4, 1, _longs([16])),
        (324, 4, count, _longs([8] * count)),
        (325, 4, count, _longs([256] * count)),
    ]
    return tiff(64, 64, tags, bytes(256))


def _real_strips(size: int) -> bytes:
    """As many rows of one pixel as the size holds, each a strip."""
    count = size // 8
    return tiff(
        1,
        count,
        [(273, 4, count, _longs([8] * count)), (278, 4, 1, _longs([1])), (279, 4, count, _longs([1] * count))],
        bytes(64),
    )


def _shared_strips(size: int, fill_order: int = 2) -> bytes:
    """Rows whose strips are all the same bytes, half of the file, with its bits in the order that is turned around."""
    count = min(20_000, size // 16)
    row = zlib.compress(bytes(64))
    if fill_order == 2:
        row = bytes(int(f"{byte:08b}"[::-1], 2) for byte in row)
    pixels = row + bytes(size - 8 * count)
    tags = [
        (259, 3, 1, b"\x08\0"),
        (266, 3, 1, bytes([fill_order, 0])),
        (273, 4, count, _longs([8] * count)),
        (278, 4, 1, _longs([1])),
        (279, 4, count, _longs([len(pixels)] * count)),
    ]
    return tiff(64, count, tags, pixels)


def _tiff_exif(size: int) -> bytes:
    """A file whose EXIF directory is full of tags for the same bytes."""
    count = min(65_000, size // 2 // 12)
    start = 8 + 64 + 2 + 12 * count + 4
    tags = b"".join(struct.pack("<HHII", 0x9000 + number % 1000, 7, size // 2, start) for number in range(count))
    exif = struct.pack("<H", count) + tags + bytes(4) + bytes(size // 2)
    return tiff(
        8, 8, [(273, 4, 1, _longs([8])), (279, 4, 1, _longs([64])), (34665, 4, 1, _longs([72]))], bytes(64) + exif
    )


def _shared_raw_strips(size: int) -> bytes:
    """Strips without compression that all cover an image of half of the file, but for its last row."""
    count, height = size // 8, max(size // 2 // 1000, 2)
    tags = [
        (273, 4, count, _longs([8] * count)),
        (278, 4, 1, _longs([height - 1])),
        (279, 4, count, _longs([1] * count)),
    ]
    return tiff(1000, height, tags, bytes(1000 * height))


def _directories(size: int, loops: bool = False) -> bytes:
    """A chain of directories without images behind the first."""
    first = tiff(8, 8, [(273, 4, 1, _longs([8])), (279, 4, 1, _longs([64]))], bytes(64))
    count = size // 18
    chain = b"".join(struct.pack("<HHHIII", 1, 305, 2, 1, 0, len(first) + 18 * (number + 1)) for number in range(count))
    end = len(first) if loops else 0
    chain = chain[:-4] + struct.pack("<I", end)
    at = 8 + 64 + 2 + 12 * 8
    at = first.index(struct.pack("<I", 0), at - 12)
    entries = struct.unpack("<H", first[72:74])[0]
    where = 74 + 12 * entries
    return first[:where] + struct.pack("<I", len(first)) + first[where + 4 :] + chain


TIFF_FILES: dict[str, Callable[[int], bytes]] = {
    "TIFF strips": _strips,
    "TIFF strips of a pixel": _real_strips,
    "TIFF strips of the same bytes": _shared_strips,
    "TIFF strips of the same bytes, mapped": lambda n: _shared_strips(n, 1),
    "TIFF strips that cover each other": _shared_raw_strips,
    "TIFF tiles": _tiles,
    "TIFF directories": _directories,
    "TIFF directories in a circle": lambda n: _directories(n, loops=True),
    "TIFF overlapping tags": overlapping_tags,
    "TIFF overlapping EXIF": _tiff_exif,
    "TIFF huge tag": lambda n: tiff(
        8, 8, [(273, 4, 1, _longs([8])), (279, 4, 1, _longs([64])), (339, 3, n // 2, b"\1\0" * (n // 2))], bytes(64)
    ),
    "TIFF rationals": lambda n: tiff(
        8, 8, [(273, 4, 1, _longs([8])), (279, 4, 1, _longs([64])), (282, 5, n // 8, _longs([1] * (n // 4)))], bytes(64)
    ),
}
