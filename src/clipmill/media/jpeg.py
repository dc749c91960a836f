"""Decode JPEG files with libjpeg-turbo directly: to the same pixels as Pillow, but faster, or at a reduced scale."""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from .containers import SCAN, jpeg_segments
from .images import check_pixels

try:
    import simplejpeg
except ImportError:  # a minimal installation that only runs exported directories: Pillow decodes
    simplejpeg = None

_MAGIC = b"\xff\xd8\xff"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)
"""Markers of frames, and of sequential frames (ITU-T T.81, table B.1)."""
_ORIENTATION, _FIRST_TRANSPOSED = 0x0112, 5
"""EXIF tag of the orientation, and the first of its values that swap width and height."""
_REDUCTIONS = (8, 4, 2)
"""Scales at which libjpeg-turbo decodes smaller blocks, without extra cost."""


def reduction(width: int, height: int, at_least: int) -> int:
    """Return the largest reduction of an image (8, 4, 2 or 1) that leaves both sides at least `at_least` pixels."""
    shorter = min(width, height)
    return next((times for times in _REDUCTIONS if math.ceil(shorter / times) >= at_least), 1)


def is_single_scan(data: bytes) -> bool:
    """Return whether a JPEG file has a single scan, which is decoded row by row while it is read.

    Files with several scans (progressive ones, and those with a scan for each colour) are in memory as a whole before
    decoding starts, whatever the scale. A file that cannot be parsed counts as one of those.
    """
    colours = None
    for marker, start, _ in jpeg_segments(data):
        if marker in _FRAMES:
            if marker not in _SEQUENTIAL or start + 10 > len(data):
                return False
            colours = data[start + 9]
        if marker == SCAN:
            return colours is not None and data[start + 4 : start + 5] == bytes([colours])
    return False


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return the width and height of an ordinary colour JPEG; None for other files and unreadable headers."""
    if simplejpeg is None or not data.startswith(_MAGIC):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (width, height) if colours == "YCbCr" else None


class Pixels(NamedTuple):
    """A decoded image.

    Attributes:
        array: RGB, (height, width, 3) uint8.
        size: Width and height of the whole image, of which `array` may be a reduction.
    """

    array: np.ndarray
    size: tuple[int, int]


def decode_jpeg(data: bytes, *, at_least: int, max_pixels: int, apply_exif: bool = False) -> Pixels | None:
    """Decode an ordinary colour JPEG.

    Args:
        data: The file.
        at_least: The least pixels of each side; larger images are reduced while they are decoded.
        max_pixels: Images that are larger before the reduction are refused.
        apply_exif: Rotate the image by its EXIF orientation.

    Returns:
        The image, with the same pixels as from Pillow if it was not reduced. None for anything but an ordinary colour
        JPEG (other formats, CMYK, grey) and for damaged files: Pillow handles more of them.

    Raises:
        RowError: `too_large`.
    """
    size = jpeg_size(data)
    if size is None:
        return None
    check_pixels(size, max_pixels)
    times = reduction(*size, at_least)
    wanted = {"min_height": math.ceil(size[1] / times), "min_width": math.ceil(size[0] / times)} if times > 1 else {}
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, "RGB", **wanted, min_factor=2 if times > 1 else 1)
    except ValueError:  # truncated or damaged: Pillow reports what is wrong, or decodes the rest
        return None
    return _apply_orientation(pixels, size, data) if apply_exif else Pixels(pixels, size)


_TURNS = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels.transpose(1, 0, 2)[:, ::-1],
    7: lambda pixels: pixels.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda pixels: pixels.transpose(1, 0, 2)[::-1],
}
"""How to turn an image upright for each EXIF orientation."""


def _apply_orientation(pixels: np.ndarray, size: tuple[int, int], data: bytes) -> Pixels:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            orientation = image.getexif().get(_ORIENTATION)
    except MemoryError:
        raise
    except Exception:  # damaged EXIF data, as in `images.upright`
        orientation = None
    if orientation not in _TURNS:
        return Pixels(pixels, size)
    upright = np.array(_TURNS[orientation](pixels), order="C", copy=True)  # torch needs positive strides
    return Pixels(upright, size if orientation < _FIRST_TRANSPOSED else size[::-1])
