"""AVIF and HEIF files (ISO/IEC 23008-12), which their brands tell apart.

The tables of their images are bounded, and their EXIF data is checked.
"""

from __future__ import annotations

from collections.abc import Iterator

from .boxes import Box, boxes
from .parts import too_large
from .tiff import check_exif

_HEIC_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs".split())
_AVIF_BRANDS = frozenset([b"avif", b"avis"])
_SHARED_BRANDS = frozenset([b"mif1", b"msf1", b"mif2", b"miaf", b"MiHE", b"MiHB", b"1pic", b"heif"])
"""Brands of files of boxes, at their bytes 8 to 12 and from 16 on (ISO/IEC 23008-12); the last have any coding."""
_MOST_BYTES = 65_536
"""Bytes of a table. The 1,000 images that libheif allows in a file take 21,000; decoders search tables line by line."""
_TABLES = frozenset(b"iinf iloc iref ipma grpl stsc stco co64 stsz stts ctts stss".split())
_INSIDE = {b"meta": 4, **dict.fromkeys(b"iprp ipco moov trak mdia minf stbl".split(), 0)}
_MOST_PROPERTIES = 4_096
_SPARE = 65_536


def is_avif(data: bytes) -> bool:
    """Return whether these are the first bytes of an AVIF file, by its brands."""
    brands = _brands(data)
    return bool(brands) and (
        brands[0] in _AVIF_BRANDS or (brands[0] in _SHARED_BRANDS and not _AVIF_BRANDS.isdisjoint(brands))
    )


def is_heif(data: bytes) -> bool:
    """Return whether these are the first bytes of an HEIF file that is no AVIF file, by its brands."""
    brands = _brands(data)
    return bool(brands) and not is_avif(data) and (brands[0] in _HEIC_BRANDS or brands[0] in _SHARED_BRANDS)


def _brands(data: bytes) -> list[bytes]:
    """Return the brands of a file of boxes, the major one first."""
    if data[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(data[:4]), 256)
    return [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]


def check_heif(data: bytes) -> None:
    """Check the tables of an AVIF or HEIF file.

    Raises:
        RowError: `too_large` if they have more entries than any real file, or name more bytes than the file has.
    """
    tables: dict[bytes, Box] = {}
    number = 0
    for box in boxes(data, _INSIDE):
        number += box.name not in (b"free", b"skip", b"mdat")
        if (box.name in _TABLES and box.stop - box.start > _MOST_BYTES) or number > _MOST_PROPERTIES:
            what = "boxes" if number > _MOST_PROPERTIES else f"entries of {box.name.decode()}"
            raise too_large(f"the image file has more {what} than any real one")
        tables.setdefault(box.name, box)
    if b"iloc" not in tables:
        return
    exif = _items_of_exif(data, tables[b"iinf"]) if b"iinf" in tables else set()
    base = tables[b"idat"].inner if b"idat" in tables else 0
    named = 0
    for item, start, length in _extents(data, tables[b"iloc"], base):
        named += length or len(data)
        if named > 2 * len(data) + _SPARE:
            raise too_large(f"the images and metadata of the file hold more bytes than the file, {len(data):,}")
        if item in exif:
            block = data[start : start + (length or len(data))]
            check_exif(block[4:])
            check_exif(block[4 + int.from_bytes(block[:4]) :])


def _items_of_exif(data: bytes, table: Box) -> set[int]:
    """Return the numbers of the items that hold EXIF data."""
    found, at = set(), table.inner
    while (at := data.find(b"infe", at, table.stop)) >= 0:
        wide = 4 if data[at + 4 : at + 5] == b"\3" else 2
        item = at + 8
        if data[item + wide + 2 : item + wide + 6] == b"Exif":
            found.add(int.from_bytes(data[item : item + wide]))
        at += 4
    return found


def _extents(data: bytes, table: Box, base: int) -> Iterator[tuple[int, int, int]]:
    """Yield the number of an item, and the start and length of each of its parts in the file; length 0 is all of it."""
    at = table.inner

    def read(size: int) -> int:
        nonlocal at
        at += size
        return int.from_bytes(data[at - size : min(at, table.stop)])

    version, _, sizes = read(1), read(3), read(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    for _ in range(read(wide)):
        item = read(wide)
        method = read(2) & 15 if version in (1, 2) else 0
        read(2)
        first = read(base_size) + (base if method == 1 else 0)
        for _ in range(read(2)):
            read(index_size if version in (1, 2) else 0)
            start = first + read(offset_size)
            yield item, start, read(length_size)
            if at > table.stop:
                return
        if at > table.stop:
            return
