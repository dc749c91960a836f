"""Parts of files of many formats, to build files that no encoder writes."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401  (it registers itself)
from PIL import Image

pillow_heif.register_heif_opener()

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
PICTURE = Image.fromarray(PIXELS)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def segment(marker: int, data: bytes) -> bytes:
    """A segment of a JPEG file."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def riff(form: bytes, chunks: bytes) -> bytes:
    """A RIFF file: WebP or WAV."""
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + form + chunks


def riff_chunk(name: bytes, data: bytes = b"") -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def box(name: bytes, data: bytes = b"") -> bytes:
    """A box of an AVIF, HEIF or JPEG XL file."""
    return struct.pack(">I", len(data) + 8) + name + data


def with_segments(jpeg: bytes, segments: bytes) -> bytes:
    return jpeg[:2] + segments + jpeg[2:]


def with_chunks(png: bytes, chunks: bytes) -> bytes:
    return png[:33] + chunks + png[33:]  # behind the header


def with_blocks(gif: bytes, blocks: bytes) -> bytes:
    start = 13 + 3 * 2 ** ((gif[10] & 7) + 1)
    return gif[:start] + blocks + gif[start:]


def comment(size: int, block: int = 255) -> bytes:
    """A comment of a GIF file."""
    whole = b"".join(bytes([block]) + b"x" * block for _ in range(size // block))
    return b"\x21\xfe" + whole + b"\0"


def overlapping_tags(size: int, tag: int = 0x9000) -> bytes:
    """A TIFF structure, as EXIF data has, in which every tag names the same bytes, about half of the whole."""
    count = min(65_000, size // 2 // 12)
    start = 8 + 2 + 12 * count + 4
    length = max(size - start, 8)
    tags = b"".join(struct.pack("<HHII", tag + number % 1000, 7, length, start) for number in range(count))
    return b"II*\0" + struct.pack("<IH", 8, count) + tags + bytes(4) + bytes(length)


JPEG, PNG, GIF, WEBP = (
    saved(PICTURE, "JPEG"),
    saved(PICTURE, "PNG"),
    saved(PICTURE.convert("P"), "GIF"),
    saved(PICTURE, "WEBP"),
)
