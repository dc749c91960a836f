"""Chooses the walk of a file by its first bytes."""

from __future__ import annotations

from .gif import gif_pixels
from .heif import check_heif
from .jpeg import jpeg_pixels
from .jxl import is_jxl, jxl_pixels
from .png import png_pixels
from .portable import without_comments
from .tiff import check_tiff
from .webp import check_webp


def without_metadata(data: bytes) -> bytes:
    """Return an image file without parts that hold no pixels, or the file itself if it has none.

    The orientation stays, and so do the colour transform of a JPEG file and all frames of an animation. Of a damaged
    file, everything from the damage on stays, for the decoder to judge, unless no image can follow.

    Raises:
        RowError: `too_large` if the file has more parts than any real file, or parts that a decoder would read again
            and again.
    """
    match data[:2]:
        case b"\xff\xd8":
            return jpeg_pixels(data)
        case b"\x89P":
            return png_pixels(data)
        case b"GI":
            return gif_pixels(data)
        case b"RI":
            check_webp(data)
        case b"II" | b"MM":
            check_tiff(data)
        case b"P1" | b"P2" | b"P3" | b"P4" | b"P5" | b"P6":
            return without_comments(data)
        case _ if is_jxl(data):
            return jxl_pixels(data)
        case _ if data[4:8] == b"ftyp":
            check_heif(data)
    return data
