"""TIFF files, and EXIF data, which has their structure: what their tags name must fit into the file (TIFF 6.0)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .parts import MOST_PARTS, too_large

_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_NUMBERS = {3: "u2", 4: "u4", 13: "u4", 16: "u8"}
_BIG_TIFF = 43
_MOST_TAGS = 65_535
"""Tags of a directory: what the counter of TIFF can hold. BigTIFF has a longer counter for its few tags."""
_SUB_DIRECTORIES = frozenset([34665, 34853, 40965])
"""Tags that name directories which Pillow reads as well: EXIF, GPS, interoperability."""
_WIDTH, _HEIGHT, _SAMPLES, _ROWS, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 277, 278, 322, 323
_OFFSETS, _COUNTS = {273: "strips", 324: "tiles"}, (279, 325)
_MOST_SAMPLES = 6
"""Samples of a pixel that Pillow decodes."""
_SPARE = 65_536
"""Bytes that tags may name beyond the file's size, so that small files are never refused."""


class _Tag(NamedTuple):
    number: int
    kind: int
    values: int
    start: int
    stop: int


def check_tiff(data: bytes) -> None:
    """Check the first directory of a TIFF file, which holds the page that is decoded; other files are not looked at.

    Raises:
        RowError: `too_large` if its tags, strips or tiles hold more than the file, or there are more than any real
            file has: decoders read each of them.
    """
    if not (layout := _Layout.of(data)):
        return
    pieces, bytes_of_pieces = {}, 0
    values = {_SAMPLES: 1, _ROWS: 2**32}
    for tag in _tags(data, layout):
        if tag.number in _OFFSETS:
            pieces[tag.number] = tag.values
        elif tag.number in _COUNTS:
            counts = layout.numbers(data, tag).astype(np.uint64)
            bytes_of_pieces += int(np.minimum(counts, len(data)).sum())
        elif tag.number in (_WIDTH, _HEIGHT, _SAMPLES, _ROWS, _TILE_WIDTH, _TILE_HEIGHT):
            values.update((tag.number, max(int(value), 1)) for value in layout.numbers(data, tag)[:1])
    if bytes_of_pieces > 2 * len(data) + _SPARE:
        raise too_large(f"the strips or tiles of the TIFF file hold {bytes_of_pieces:,} bytes, the file {len(data):,}")
    width, height = values.get(_WIDTH, 1), values.get(_HEIGHT, 1)
    for number, count in pieces.items():
        is_tiled = _OFFSETS[number] == "tiles"
        piece_width = values.get(_TILE_WIDTH, width) if is_tiled else width
        piece_height = values.get(_TILE_HEIGHT, height) if is_tiled else values[_ROWS]
        most = -(-width // piece_width) * -(-height // piece_height) * min(values[_SAMPLES], _MOST_SAMPLES)
        if count > min(most, MOST_PARTS):
            raise too_large(
                f"the TIFF file has {count:,} {_OFFSETS[number]}, an image of {width} x {height} pixels has up to"
                f" {min(most, MOST_PARTS):,}"
            )


def check_exif(data: bytes) -> None:
    """Check the tags of EXIF data.

    Raises:
        RowError: `too_large` if they hold more than the data.
    """
    while data.startswith(b"Exif\0\0"):
        data = data[6:]
    if layout := _Layout.of(data):
        for _ in _tags(data, layout):
            pass


class _Layout(NamedTuple):
    """How the directories of a file are laid out: TIFF or BigTIFF, in either order of bytes."""

    order: str
    counter: str
    entry: str
    inline: int
    first: int

    @classmethod
    def of(cls, data: bytes) -> _Layout | None:
        """Return the layout by the first bytes; None if they are not those of a TIFF file."""
        order = {b"II": "<", b"MM": ">"}.get(data[:2])
        if order is None or len(data) < 16:
            return None
        if data[2] == _BIG_TIFF:
            return cls(order, order + "Q", order + "HHQQ", 8, *struct.unpack(order + "Q", data[8:16]))
        return cls(order, order + "H", order + "HHII", 4, *struct.unpack(order + "I", data[4:8]))

    def numbers(self, data: bytes, tag: _Tag) -> np.ndarray:
        """Return the values of a tag; none if they are no whole numbers."""
        if tag.kind not in _NUMBERS:
            return np.zeros(0, np.uint8)
        return np.frombuffer(data[tag.start : tag.stop], self.order + _NUMBERS[tag.kind])


def _tags(data: bytes, layout: _Layout) -> Iterator[_Tag]:
    """Yield the tags of the first directory that lie in the file; count those of the directories in it as well."""
    named, pending = 0, [layout.first]
    seen: set[int] = set()
    counter, length = struct.calcsize(layout.counter), struct.calcsize(layout.entry)
    while pending:
        first = pending.pop()
        if first in seen or first + counter > len(data):
            continue
        is_outer = not seen
        seen.add(first)
        (count,) = struct.unpack_from(layout.counter, data, first)
        if count > _MOST_TAGS:
            raise too_large(f"the image file has {count:,} tags, more than any real one")
        at = first + counter
        whole = min(count, (len(data) - at) // length)
        for number, kind, values, offset in struct.iter_unpack(layout.entry, data[at : at + whole * length]):
            at += length
            size = values * _VALUE_BYTES.get(kind, 0)
            start = at - layout.inline if size <= layout.inline else offset
            if start + size > len(data):
                continue
            named += size
            if named > 2 * len(data) + _SPARE:
                raise too_large(f"tags in the image file name over {named:,} bytes, of {len(data):,} that there are")
            if number in _SUB_DIRECTORIES and values == 1:
                pending.append(offset)
            if is_outer:
                yield _Tag(number, kind, values, start, start + size)
