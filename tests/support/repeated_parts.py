"""Files in which one part is repeated: of every format that is read, and of about any size."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
from file_parts import (
    GIF,
    JPEG,
    PIXELS,
    PNG,
    WEBP,
    chunk,
    comment,
    overlapping_tags,
    riff,
    riff_chunk,
    saved,
    segment,
    with_blocks,
    with_chunks,
    with_segments,
)
from PIL import Image
from repeated_boxes import BOX_FILES
from repeated_sounds import SOUNDS
from repeated_tiff import TIFF_FILES


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _progressive_scans(size: int) -> bytes:
    """A progressive JPEG of 1,000 x 1,000 pixels whose last scan is repeated."""
    whole = saved(Image.new("L", (1000, 1000)), "JPEG", progressive=True)
    start = whole.rindex(b"\xff\xc4")  # the tables and the scan at the end
    return whole[:-2] + whole[start:-2] * (size // len(whole[start:-2])) + whole[-2:]


def _deflate_blocks(size: int) -> bytes:
    """A PNG whose pixels follow after empty blocks."""
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS)
    packed = zlib.compress(rows)
    data = packed[:2] + b"\0\0\0\xff\xff" * (size // 5) + packed[2:]
    return PNG[:33] + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _one_byte_idats(size: int) -> bytes:
    rows = zlib.compress(PIXELS.repeat(4, 0).tobytes())[: size // 13]
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2000, 2000, 8, 2, 0, 0, 0))
    rows = zlib.compress(np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes(), 0)[: size // 13]
    return head + b"".join(chunk(b"IDAT", rows[at : at + 1]) for at in range(len(rows))) + chunk(b"IEND", b"")


def _gif_codes(size: int, block: int = 255) -> bytes:
    """A GIF whose pixels follow after clear codes, in blocks of a size."""
    start = GIF.index(b"\x2c", 781) + 11
    codes = _clear_codes(size)
    blocks = (codes[at : at + block] for at in range(0, len(codes), block))
    return GIF[:start] + b"".join(bytes([len(part)]) + part for part in blocks) + GIF[start:]


def _clear_codes(size: int) -> bytes:
    value, bits = 0, 0
    for _ in range(8):
        value |= 0x100 << bits
        bits += 9
    return value.to_bytes(9, "little") * (size // 9)


def _bmp(codes: bytes, size: tuple[int, int] = (1000, 1000)) -> bytes:
    """A BMP compressed by run lengths."""
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, 8, 1, len(codes), 0, 0, 256, 0)
    palette = bytes(range(256)) * 4
    return b"BM" + struct.pack("<IHHI", 14 + 40 + 1024 + len(codes), 0, 0, 14 + 40 + 1024) + header + palette + codes


def animated(count: int, kind: str = "WEBP") -> bytes:
    frames = [Image.new("RGB", (8, 8), (200 * (n % 2), 99, 9)) for n in range(count)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=10)


def _webp_frames(size: int) -> bytes:
    whole = animated(2)
    start = whole.index(b"ANMF")
    (length,) = struct.unpack("<I", whole[start + 4 : start + 8])
    frame = whole[start : start + 8 + length]
    return riff(b"WEBP", whole[12:start] + frame * (size // len(frame)))


def _webp_extended(flags: int, chunks: bytes, before: bool = False) -> bytes:
    image = WEBP[12:]
    head = riff_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + (59).to_bytes(3, "little") + (39).to_bytes(3, "little"))
    return riff(b"WEBP", head + (chunks + image if before else image + chunks))


IMAGES: dict[str, Callable[[int], bytes]] = {
    "JPEG comments": lambda n: with_segments(JPEG, segment(0xFE, b"") * (n // 4)),
    "JPEG EXIF segments": lambda n: with_segments(JPEG, segment(0xE1, b"Exif\0\0") * (n // 10)),
    "JPEG fill bytes": lambda n: with_segments(JPEG, b"\xff" * n),
    "JPEG quantisation tables": lambda n: with_segments(JPEG, segment(0xDB, bytes(1) + b"\1" * 64) * (n // 69)),
    "JPEG empty tables": lambda n: with_segments(JPEG, segment(0xDB, b"") * (n // 4)),
    "JPEG Huffman tables": lambda n: with_segments(JPEG, segment(0xC4, b"\0\1" + bytes(15) + b"\0") * (n // 22)),
    "JPEG restart intervals": lambda n: with_segments(JPEG, segment(0xDD, b"\0\0") * (n // 6)),
    "JPEG overlapping EXIF": lambda n: with_segments(
        JPEG, b"".join(segment(0xE1, b"Exif\0\0" + part) for part in _cut(overlapping_tags(min(n, 1_000_000)), 65_000))
    ),
    "JPEG scans": _progressive_scans,
    "JPEG restarts": lambda n: JPEG[:-2] + b"\xff\xd0" * (n // 2) + JPEG[-2:],
    "JPEG rest": lambda n: JPEG + b"\xff\xd8\xff" * (n // 3),
    "PNG texts": lambda n: with_chunks(PNG, chunk(b"tEXt", b"") * (n // 12)),
    "PNG empty pixels": lambda n: with_chunks(PNG, chunk(b"IDAT", b"") * (n // 12)),
    "PNG single pixels": _one_byte_idats,
    "PNG palettes": lambda n: with_chunks(PNG, chunk(b"PLTE", b"abc") * (n // 15)),
    "PNG transparencies": lambda n: with_chunks(PNG, chunk(b"tRNS", bytes(6)) * (n // 18)),
    "PNG frame controls": lambda n: with_chunks(
        PNG, chunk(b"acTL", bytes([0, 0, 0, 2, 0, 0, 0, 0])) + chunk(b"fcTL", bytes(26)) * (n // 38)
    ),
    "PNG overlapping EXIF": lambda n: with_chunks(PNG, chunk(b"eXIf", overlapping_tags(n))),
    "PNG empty deflate blocks": _deflate_blocks,
    "PNG rest": lambda n: PNG + chunk(b"IDAT", b"") * (n // 12),
    "GIF comment": lambda n: with_blocks(GIF, comment(n)),
    "GIF comments": lambda n: with_blocks(GIF, b"\x21\xfe\0" * (n // 3)),
    "GIF comment of single bytes": lambda n: with_blocks(GIF, comment(n // 2, 1)),
    "GIF graphic controls": lambda n: with_blocks(GIF, b"\x21\xf9\4\0\0\0\0\0" * (n // 8)),
    "GIF padding": lambda n: with_blocks(GIF, bytes(n)),
    "GIF clear codes": _gif_codes,
    "GIF clear codes in small blocks": lambda n: _gif_codes(n // 2, 1),
    "WebP chunks": lambda n: _webp_extended(0, riff_chunk(b"abcd") * (n // 8)),
    "WebP chunks before": lambda n: _webp_extended(0, riff_chunk(b"abcd") * (n // 8), before=True),
    "WebP frames": _webp_frames,
    "WebP profiles": lambda n: _webp_extended(0x20, riff_chunk(b"ICCP", b"ab") * (n // 10), before=True),
    "WebP overlapping EXIF": lambda n: _webp_extended(8, riff_chunk(b"EXIF", overlapping_tags(n))),
    "BMP empty moves": lambda n: _bmp(b"\0\2\0\0" * (n // 4)),
    "BMP ends of lines": lambda n: _bmp(b"\0\0" * (n // 2), (50, 4_000_000 // 50)),
    "BMP long lines": lambda n: _bmp(b"\1a\0\0" * (n // 4), (1000, 4000)),
    "BMP empty runs": lambda n: _bmp(b"\xff\0" * 4 + b"\xff\0" * (n // 2)),
    "PPM comments": lambda n: b"P6 #" + b"a" * n + b"\n60 40 255 " + PIXELS.tobytes(),
    "PPM short comments": lambda n: b"P6 " + b"#\n" * (n // 2) + b"60 40 255 " + PIXELS.tobytes(),
    "PPM spaces": lambda n: b"P6 " + b" " * n + b"60 40 255 " + PIXELS.tobytes(),
    "PPM plain comments": lambda n: (
        b"P3 60 40 255 " + b"#\n" * (n // 2) + b" ".join(b"%d" % value for value in PIXELS.flat)
    ),
    "PPM plain spaces": lambda n: b"P3 60 40 255 " + b" " * n + b" ".join(b"%d" % value for value in PIXELS.flat),
    "PPM bits in comments": lambda n: b"P1 60 40 " + b"#\n" * (n // 2) + b"1" * 2400,
    "PPM numbers": lambda n: b"P2 1000 %d 255 " % (n // 2000) + b"1 " * (n // 2),
    "PPM other range": lambda n: b"P5 1000 %d 200 " % (n // 1000) + b"1" * n,
    **TIFF_FILES,
    **BOX_FILES,
}
"""By format and part: a file of about so many bytes."""
FILES = {**IMAGES, **SOUNDS}
