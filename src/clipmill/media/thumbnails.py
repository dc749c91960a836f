"""Small pictures to look at, of whatever a row holds or names."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image, ImageOps

from .images import open_image

_QUALITY = 80
_BEHIND = (200, 200, 200)
"""What is seen through transparent pixels: grey, on which black and white drawings are both seen."""


def thumbnail_of(content: Any, *, side: int = 96, max_pixels: int = 100_000_000) -> bytes:
    """Return a picture as a small JPEG file, upright, in its own proportions.

    Args:
        content: What `open_image` takes; of large JPEG files a reduction is decoded.
        side: Pixels of the longer side, at most.
        max_pixels: Larger pictures are refused before they are decoded.

    Raises:
        RowError: If it is no picture that is decoded here, or is too large.
    """
    image = open_image(content, max_pixels=max_pixels, reduced_to=(2 * side, 2 * side))
    image = ImageOps.exif_transpose(image)
    image.thumbnail((side, side))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*_BEHIND, 255)), image)
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def as_data_uri(jpeg: bytes) -> str:
    """Return a JPEG file as a data: URI."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
