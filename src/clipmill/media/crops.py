"""From an image's content to the crop that a model's graph begins with: the reference's way, or a faster one."""

from __future__ import annotations

from typing import Any

import numpy as np

from .images import open_image
from .jpeg import decode_jpeg, is_decoded_as_read, jpeg_size, reduction
from .options import DecodeOptions, Preprocessing
from .preprocess import crop_image, crop_pixels, has_byte_resizer

_LEAST = 512


def image_crop(content: Any, preprocessing: Preprocessing, options: DecodeOptions) -> np.ndarray:
    """Decode, resize and crop an image as the options say.

    With `decode="exact"` Pillow does it as the reference does. With `fast` ordinary JPEG files are decoded by
    libjpeg-turbo, large ones at a reduced scale, and what is RGB is resized by torch; the rest is Pillow's. Without
    torch, as where exported directories are run alone, both are the same.

    Args:
        content: What `open_image` takes.
        preprocessing: The model's.
        options: An `EncoderSpec` has them.

    Returns:
        RGB, (S, S, 3) uint8, contiguous.

    Raises:
        RowError: See `open_image`.
    """
    is_fast = options.decode == "fast" and has_byte_resizer()
    if is_fast and isinstance(content, bytes):
        pixels = decode_jpeg(
            content,
            at_least=least_side(preprocessing),
            max_pixels=options.max_image_pixels,
            apply_exif=options.apply_exif,
        )
        if pixels is not None and (crop := crop_pixels(pixels.array, pixels.size, preprocessing)) is not None:
            return crop
    # what was found fault with holds no more than was counted
    reduced_to = _reduced_size(content, preprocessing, options)
    image = open_image(
        content, max_pixels=options.max_image_pixels, apply_exif=options.apply_exif, reduced_to=reduced_to
    )
    if is_fast and image.mode == "RGB" and image.info.get("transparency") is None:
        # of a reduction the whole's proportions; a copy, since torch wants memory that it may write
        whole = image.size if reduced_to is None else _scaled(image.size, jpeg_size(content))
        crop = crop_pixels(np.array(image), whole, preprocessing)
        if crop is not None:
            return crop
    return crop_image(image, preprocessing)


def _scaled(size: tuple[int, int], whole: tuple[int, int] | None) -> tuple[int, int]:
    """Return the whole's size, turned as a reduction of it is that EXIF may have turned."""
    if whole is None:
        return size
    return whole if (size[0] >= size[1]) == (whole[0] >= whole[1]) else whole[::-1]


def least_side(preprocessing: Preprocessing) -> int:
    """Return how many pixels a side keeps when a file is reduced: twice what the model looks at, and no fewer than 512.

    For models of small pictures twice is little: the demo's 64 pixels out of 128 moved vectors of real photographs to
    a cosine of 0.97, out of 512 to 0.9999.
    """
    return max(2 * max(preprocessing.resize_to or 0, preprocessing.image_size), _LEAST)


def decoded_pixels(data: bytes, preprocessing: Preprocessing, options: DecodeOptions) -> int | None:
    """Return the pixels that decoding an ordinary JPEG file holds; None for others, which are decoded whole.

    One of several scans counts twice, and in full: its coefficients are in memory before its first pixel, up to six
    bytes for each.
    """
    reduced, size = _reduced_size(data, preprocessing, options), jpeg_size(data)
    if size is None:
        return None
    if not is_decoded_as_read(data):
        return 2 * size[0] * size[1]
    width, height = size if reduced is None else reduced
    return width * height


def _reduced_size(content: Any, preprocessing: Preprocessing, options: DecodeOptions) -> tuple[int, int] | None:
    """Return width and height that a file is reduced to while it is decoded; None where it is not."""
    if options.decode != "fast" or not isinstance(content, bytes) or not has_byte_resizer():
        return None
    size = jpeg_size(content)
    times = 1 if size is None else reduction(*size, least_side(preprocessing))
    return None if size is None or times == 1 else (size[0] // times, size[1] // times)
