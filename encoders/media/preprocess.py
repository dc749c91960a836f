"""From a Pillow image to the uint8 crop that a model's graph begins with, as the reference resizes it.

The steps are those of the references. open_clip resizes in the file's own mode, crops the centre, then converts to RGB;
transformers converts first. Scaling by 1/255, mean and standard deviation follow in the graph, so that a crop travels
as bytes.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ..catalog.tables import Preprocessing
from ..failure import Code, RowError, Stage

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_MAX_ENLARGEMENT = 64
"""Resized images of more than this many crops' pixels (very long ones) are resized only where they are kept."""


def crop_image(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resize and crop an image as its model's reference does: open_clip's validation transform, or HF's on PIL.

    Args:
        image: Any 8-bit mode.
        preprocessing: The model's size, filter, resize mode and order of steps.

    Returns:
        RGB, (S, S, 3) uint8, contiguous; equal to the reference's to the bit, except for very long images,
        which may differ by one grey level (they are resized only inside the crop).
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
    return np.array(_to_rgb(image), order="C")  # a copy that owns its memory: the image can go


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
    halve = math.floor if offset == "floor" else round  # `round` is half to even, as torchvision's centre crop
    left, top = (halve((length - size) / 2.0) for length in resized)
    if resized[0] * resized[1] > _MAX_ENLARGEMENT * size * size:
        return _resize_part(image, resized, (left, top), size, resample)
    return _resize(image, resized, resample).crop((left, top, left + size, top + size))


def _resize_part(
    image: Image.Image, resized: tuple[int, int], corner: tuple[int, int], size: int, resample: Image.Resampling
) -> Image.Image:
    """Return the crop of a resized image without resizing the rest.

    Pillow takes the box in single precision, so the neighbourhood is cut out first: small numbers lose no digits.
    """
    boxes = []
    for length, new, start in zip(image.size, resized, corner, strict=True):
        scale = length / new
        margin = 2 + int(2 * max(scale, 1.0)) + 1  # bicubic looks at two source pixels, scaled, to either side
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
    """Check an image that was preprocessed by its owner.

    Args:
        array: Normalised float32, (3, S, S) or (S, S, 3), told by the shape.
        size: S, the model's image size.

    Returns:
        The same values, (3, S, S) float32, contiguous.

    Raises:
        RowError: `unsupported`, `wrong_shape` or `out_of_range`, saying what was expected and got.
    """
    expected = f"with preprocess=False an image is a float32 array (3, {size}, {size}) or ({size}, {size}, 3)"
    if not isinstance(array, np.ndarray):
        raise RowError(Stage.PREPROCESS, Code.UNSUPPORTED, f"{expected}, got {type(array).__name__}")
    if array.dtype != np.float32:
        raise RowError(Stage.PREPROCESS, Code.UNSUPPORTED, f"{expected}, got dtype {array.dtype}")
    if array.shape == (size, size, 3):
        array = array.transpose(2, 0, 1)
    elif array.shape != (3, size, size):
        raise RowError(Stage.PREPROCESS, Code.WRONG_SHAPE, f"{expected}, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise RowError(Stage.PREPROCESS, Code.OUT_OF_RANGE, f"{expected}, got one with NaN or infinite values")
    return np.ascontiguousarray(array)
