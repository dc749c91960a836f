"""AVIF, HEIF and JPEG XL files in which one part is repeated."""

from __future__ import annotations

import struct
from collections.abc import Callable

from file_parts import PICTURE, box, overlapping_tags, saved

JXL = saved(PICTURE, "JXL", use_container=False)
Boxes = list[tuple[bytes, bytes]]


def boxes_of(data: bytes) -> Boxes:
    """The boxes of a file or a box, by name and content."""
    found, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : at + length]))
        at += length
    return found


def with_tables(data: bytes, **changes: Callable[[bytes], bytes]) -> bytes:
    """An AVIF or HEIF file whose tables are changed, by name; they move to its end, so that its images stay."""

    def changed(content: bytes, skipped: int) -> bytes:
        parts = b""
        for name, inner in boxes_of(content[skipped:]):
            if name == b"iprp":
                inner = changed(inner, 0)
            parts += box(name, changes.get(name.decode(), lambda same: same)(inner))
        return content[:skipped] + parts

    found = boxes_of(data)
    tables = next(content for name, content in found if name == b"meta")
    kept = b"".join(box(b"free" if name == b"meta" else name, content) for name, content in found)
    return kept + box(b"meta", changed(tables, 4))


def _items(content: bytes, count: int, kind: bytes = b"mime") -> bytes:
    (there,) = struct.unpack(">H", content[4:6])
    more = b"".join(
        box(b"infe", struct.pack(">IHH", 0x2000000, 100 + number, 0) + kind + b"\0") for number in range(count)
    )
    return content[:4] + struct.pack(">H", there + count) + content[6:] + more


def _associations(content: bytes, count: int) -> bytes:
    (there,) = struct.unpack(">I", content[4:8])
    more = b"".join(struct.pack(">HBB", number % 65_000 + 100, 1, 1) for number in range(count))
    return content[:4] + struct.pack(">I", there + count) + content[8:] + more


def _locations(content: bytes, count: int, length: int) -> bytes:
    """Items that are all the first bytes of the file; of a table with offsets and lengths of four bytes."""
    version, (there,) = content[0], struct.unpack(">H", content[6:8])
    base = content[5] >> 4
    middle = b"\0\0" if version else b""
    more = b"".join(
        struct.pack(">H", 100 + number) + middle + bytes(2 + base) + struct.pack(">HII", 1, 0, length)
        for number in range(count)
    )
    return content[:6] + struct.pack(">H", there + count) + content[8:] + more


def _references(count: int) -> bytes:
    whole = min(count, 60_000)
    one = box(
        b"cdsc", struct.pack(">HH", 1, whole) + b"".join(struct.pack(">H", number + 100) for number in range(whole))
    )
    return box(b"iref", bytes(4) + one * max(1, count // whole))


def _of_boxes(kind: str) -> dict[str, Callable[[int], bytes]]:
    file = saved(PICTURE, kind)

    def shared(size: int) -> bytes:
        count = min(size // 50, 900)
        whole = with_tables(
            file, iinf=lambda old: _items(old, count), iloc=lambda old: _locations(old, count, size // 2)
        )
        return whole + box(b"free", bytes(size - 50 * count))

    return {
        f"{kind} boxes": lambda n: file + box(b"free") * (n // 8),
        f"{kind} boxes before": lambda n: box(b"free") * (n // 8) + file,
        f"{kind} boxes in boxes": lambda n: (
            file + b"".join(box(b"moov", bytes(8 * number))[:8] for number in range(n // 8, 0, -1))
        ),
        f"{kind} brands": lambda n: _with_brands(file, n),
        f"{kind} properties": lambda n: with_tables(file, ipco=lambda old: old + box(b"abcd") * (n // 8)),
        f"{kind} profiles": lambda n: with_tables(
            file, ipco=lambda old: old + box(b"colr", b"nclx" + bytes(7)) * (n // 19)
        ),
        f"{kind} items": lambda n: with_tables(file, iinf=lambda old: _items(old, min(n // 21, 65_000))),
        f"{kind} associations": lambda n: with_tables(file, ipma=lambda old: _associations(old, n // 4)),
        f"{kind} references": lambda n: (
            with_tables(file, iinf=lambda old: old + b"") and _with_table(file, _references(n // 2))
        ),
        f"{kind} items of the same bytes": shared,
        f"{kind} overlapping EXIF": lambda n: saved(PICTURE, kind, exif=overlapping_tags(n)),
    }


def _with_brands(file: bytes, size: int) -> bytes:
    moved = with_tables(file)
    (_, brands), *others = boxes_of(moved)
    return box(b"ftyp", brands + b"abcd" * (size // 4)) + b"".join(box(*one) for one in others)


def _with_table(file: bytes, table: bytes) -> bytes:
    *kept, (name, content) = boxes_of(with_tables(file))
    return b"".join(box(*one) for one in kept) + box(name, content + table)


def _sequence(size: int) -> bytes:
    """An AVIF sequence with a line of its table for each of its many chunks."""
    count = size // 20
    frames = [PICTURE, PICTURE.rotate(180)]
    file = saved(frames[0], "AVIF", save_all=True, append_images=frames[1:])
    tables: dict[bytes, Callable[[bytes], bytes]] = {
        b"stsc": lambda old: (
            old[:4]
            + struct.pack(">I", count)
            + b"".join(struct.pack(">III", number + 1, 1, 1) for number in range(count))
        ),
        b"stco": lambda old: old[:4] + struct.pack(">I", count) + old[8:12] * count,
        b"stsz": lambda old: old[:4] + struct.pack(">II", 4, count),
    }

    def changed(content: bytes) -> bytes:
        inside = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
        made = ((name, changed(inner) if name in inside else inner) for name, inner in boxes_of(content))
        return b"".join(box(name, tables.get(name, lambda same: same)(inner)) for name, inner in made)

    return changed(file)


def _jxl_container(boxes: bytes, after: bytes = b"") -> bytes:
    return box(b"JXL ", b"\r\n\x87\n") + box(b"ftyp", b"jxl \0\0\0\0jxl ") + boxes + box(b"jxlc", JXL) + after


def _jxl_parts(size: int) -> bytes:
    """A picture in a part, after empty parts."""
    empty = b"".join(box(b"jxlp", struct.pack(">I", number)) for number in range(size // 12))
    return _jxl_container(b"", b"")[:32] + empty + box(b"jxlp", struct.pack(">I", size // 12 | 1 << 31) + JXL)


BOX_FILES: dict[str, Callable[[int], bytes]] = {
    **_of_boxes("AVIF"),
    **_of_boxes("HEIF"),
    "AVIF chunks of a sequence": _sequence,
    "JXL boxes": lambda n: _jxl_container(box(b"abcd") * (n // 8)),
    "JXL boxes after": lambda n: _jxl_container(b"", box(b"abcd") * (n // 8)),
    "JXL parts": _jxl_parts,
    "JXL rest": lambda n: JXL + bytes(n),
    "JXL overlapping EXIF": lambda n: _jxl_container(box(b"Exif", bytes(4) + overlapping_tags(n))),
}
