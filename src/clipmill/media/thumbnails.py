"""Thumbnails of images, for reports."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from .images import open_image

_QUALITY = 80
_BACKGROUND = (200, 200, 200)
"""Grey behind transparent pixels, on which black and white drawings are both visible."""


def thumbnail_of(content: Any, *, side: int = 96, max_pixels: int = 100_000_000) -> bytes:
    """Return an image as a small JPEG file, upright, with its aspect ratio.

    Args:
        content: As for `open_image`; large JPEG files are decoded at a reduced scale.
        side: The most pixels of the longer side.
        max_pixels: Larger images are refused before they are decoded.

    Raises:
        RowError: If it cannot be decoded, or is too large.
    """
    image = open_image(content, max_pixels=max_pixels, apply_exif=True, reduced_to=(2 * side, 2 * side))
    image.thumbnail((side, side))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*_BACKGROUND, 255)), image)
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def as_data_uri(jpeg: bytes) -> str:
    """Return a JPEG file as a data: URI."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
