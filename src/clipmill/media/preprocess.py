"""Resize and crop a Pillow image to the uint8 input of a model's graph, as the reference does.

open_clip resizes in the file's own mode, crops the centre, then converts to RGB; transformers converts first. The graph
scales by 1/255 and applies mean and standard deviation, so that crops are passed on as bytes.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ..failures import Code, RowError, Stage
from ..messages import setting
from .byte_resizing import byte_resizer
from .options import Preprocessing

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_MAX_ENLARGEMENT = 64
"""Very long images, whose resized area exceeds this many crops, are resized in strips."""
_MAX_RESIZED = 2**26
"""Pixels of a resized image beyond which only the crop is resized; the references would need over 200 MB for them."""
_STRIP_PIXELS = 2**21
_PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}


def crop_image(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resize and crop an image like its reference: open_clip's validation transform, or the Pillow one of transformers.

    Args:
        image: Any 8-bit mode.
        preprocessing: The model's size, filter, resize mode and order of steps.

    Returns:
        RGB, (S, S, 3) uint8, contiguous; bit-identical to the reference, except for images of over 67 million pixels
        once resized, such as 3 x 4,100: these are resized only inside the crop and may differ by two grey levels.
    """
    size, target = preprocessing.image_size, preprocessing.resize_to or preprocessing.image_size
    resample = _FILTERS[preprocessing.interpolation]
    if preprocessing.rgb != "last":
        image = _to_rgb(image, on_white=preprocessing.rgb == "on_white")
    if preprocessing.resize_mode == "longest":
        image = _pad(_resize(image, _fit_longest(image.size, size), resample), size, preprocessing.fill)
    else:
        squash = preprocessing.resize_mode == "squash"
        resized = (target, target) if squash else _fit_shortest(image.size, target)
        image = _resize_and_crop(image, resized, size, resample, preprocessing.crop_offset)
    return np.array(_to_rgb(image), order="C")  # a copy, so that the image can be released


def crop_pixels(pixels: np.ndarray, size: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray | None:
    """Resize and crop decoded pixels like `crop_image`, six times as fast, with `byte_resizer`.

    Args:
        pixels: RGB, (height, width, 3) uint8, contiguous; the image, or a reduction of it.
        size: Width and height of the image.
        preprocessing: As for `crop_image`.

    Returns:
        RGB, (S, S, 3) uint8, contiguous. Without a reduction it is within two grey levels of `crop_image`'s result,
        usually within one. None if it does not apply: without a resizer, for very long images and those smaller
        than the crop.
    """
    resize = byte_resizer()
    if resize is None:
        return None
    target, crop_size = preprocessing.resize_to or preprocessing.image_size, preprocessing.image_size
    filter_name = preprocessing.interpolation
    if preprocessing.resize_mode == "longest":
        resized = resize(pixels, _fit_longest(size, crop_size), filter_name)
        if resized.shape[:2] == (crop_size, crop_size):
            return resized
        canvas = np.full((crop_size, crop_size, 3), preprocessing.fill, np.uint8)
        top, left = ((crop_size - length) // 2 for length in resized.shape[:2])
        canvas[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
        return canvas
    wanted = (target, target) if preprocessing.resize_mode == "squash" else _fit_shortest(size, target)
    if wanted[0] * wanted[1] > _MAX_ENLARGEMENT * crop_size * crop_size:
        return None
    left, top = _corner(wanted, crop_size, preprocessing.crop_offset)
    if left < 0 or top < 0:
        return None
    return np.array(resize(pixels, wanted, filter_name)[top : top + crop_size, left : left + crop_size], order="C")


def _corner(resized: tuple[int, int], size: int, offset: str) -> tuple[int, int]:
    """Return the left and top offset of the crop."""
    halve = math.floor if offset == "floor" else round  # `round` is half to even, as torchvision's centre crop
    left, top = (halve((length - size) / 2.0) for length in resized)
    return left, top


def _to_rgb(image: Image.Image, *, on_white: bool = False) -> Image.Image:
    if on_white and ("A" in image.getbands() or image.info.get("transparency") is not None):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _resize(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    return image if image.size == size else image.resize(size, resample)


def _fit_shortest(size: tuple[int, int], target: int) -> tuple[int, int]:
    width, height = size
    return (target, int(target * height / width)) if width <= height else (int(target * width / height), target)


def _resize_and_crop(
    image: Image.Image, resized: tuple[int, int], size: int, resample: Image.Resampling, offset: str
) -> Image.Image:
    left, top = _corner(resized, size, offset)
    area = resized[0] * resized[1]
    if area > _MAX_RESIZED:
        return _resize_part(image, resized, (left, top), size, resample)
    if area > _MAX_ENLARGEMENT * size * size:
        return _resize_in_strips(image, resized, (left, top), size, resample)
    return _resize(image, resized, resample).crop((left, top, left + size, top + size))


def _resize_in_strips(
    image: Image.Image, resized: tuple[int, int], corner: tuple[int, int], size: int, resample: Image.Resampling
) -> Image.Image:
    """Return the crop of a resized image, without ever holding all of the resized image.

    Pillow resizes rows first, then columns, and rounds in between. Each column depends on its own pixels only, so that
    columns outside the crop are left out after the first step, and the others are resized a few at a time.
    """
    (left, top), (width, height), mode = corner, resized, image.mode
    if mode in _PREMULTIPLIED:  # as Pillow does it around both steps
        image = image.convert(_PREMULTIPLIED[mode])
    rows = image.resize((width, image.height), resample).crop((left, 0, left + size, image.height))
    result = Image.new(rows.mode, (size, size))
    if rows.mode == "P" and rows.palette is not None:
        result.putpalette(rows.palette)
        result.info = rows.info
    at_once = max(1, _STRIP_PIXELS // height)
    for first in range(0, size, at_once):
        strip = rows.crop((first, 0, min(first + at_once, size), rows.height))
        result.paste(strip.resize((strip.width, height), resample).crop((0, top, strip.width, top + size)), (first, 0))
    return result.convert(mode) if mode in _PREMULTIPLIED else result


def _resize_part(
    image: Image.Image, resized: tuple[int, int], corner: tuple[int, int], size: int, resample: Image.Resampling
) -> Image.Image:
    """Return the crop of a resized image without resizing the rest.

    Pillow takes the box in single precision, so the neighbourhood is cropped first: small coordinates stay exact.
    """
    boxes = []
    for length, new, start in zip(image.size, resized, corner, strict=True):
        scale = length / new
        margin = 2 + int(2 * max(scale, 1.0)) + 1  # the support of bicubic: two source pixels, scaled, on each side
        first = max(0, int(start * scale) - margin)
        last = min(length, int((start + size) * scale) + margin + 1)
        boxes.append((first, last, start * scale - first, min((start + size) * scale - first, last - first)))
    (x0, x1, left, right), (y0, y1, top, bottom) = boxes
    part = image.crop((x0, y0, x1, y1))
    return part.resize((size, size), resample, box=(left, top, right, bottom))


def _fit_longest(size: tuple[int, int], target: int) -> tuple[int, int]:
    ratio = max(size) / target
    return max(1, round(size[0] / ratio)), max(1, round(size[1] / ratio))


def _pad(image: Image.Image, size: int, fill: int) -> Image.Image:
    if image.size == (size, size):
        return image
    bands = len(image.getbands())
    canvas = Image.new(image.mode, (size, size), fill if bands == 1 else (fill,) * bands)
    if image.mode == "P" and image.palette is not None:
        canvas.putpalette(image.getpalette() or [])
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas


def normalised_array(array: np.ndarray, size: int) -> np.ndarray:
    """Check an image that the caller has preprocessed.

    Args:
        array: Normalised float32, (3, S, S) or (S, S, 3); the shape decides which.
        size: S, the model's image size.

    Returns:
        The same values, (3, S, S) float32, contiguous.

    Raises:
        RowError: `unsupported`, `wrong_shape` or `out_of_range`.
    """
    arrays = f" an image must be a float32 array (3, {size}, {size}) or ({size}, {size}, 3)"
    expected = "with " + setting("preprocess", False) + arrays
    if not isinstance(array, np.ndarray):
        raise RowError(Stage.PREPROCESS, Code.UNSUPPORTED, expected + f", got {type(array).__name__}")
    if array.dtype != np.float32:
        raise RowError(Stage.PREPROCESS, Code.UNSUPPORTED, expected + f", got dtype {array.dtype}")
    if array.shape == (size, size, 3):
        array = array.transpose(2, 0, 1)
    elif array.shape != (3, size, size):
        raise RowError(Stage.PREPROCESS, Code.WRONG_SHAPE, expected + f", got shape {array.shape}")
    if not np.isfinite(array).all():
        raise RowError(Stage.PREPROCESS, Code.OUT_OF_RANGE, f"{expected}, got an array with NaN or infinite values")
    return np.ascontiguousarray(array)
