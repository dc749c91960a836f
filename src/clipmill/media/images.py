"""Open image content of every accepted kind as a Pillow image, or raise a `RowError`."""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from ..failures import Code, RowError, Stage
from ..files.compression import compression_of
from ..messages import setting
from .containers import is_avif, without_metadata
from .plugins import open_with, plugin_for, plugin_size

# Pillow warns about large images and odd metadata in threads, where warnings cannot be caught; our limit is an option.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\..*")

_HAS_AVIF = "avif" in features.modules and bool(features.check("avif"))  # Pillow before 11.3 warns of the name

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", *(["AVIF"] if _HAS_AVIF else []))
"""Formats that Pillow decodes, besides those of `plugins`. It reads more, some by running other programs (EPS), which
is unsafe for untrusted files."""

_SNIFFED = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)
_TEXT_BYTES = bytes([9, 10, 13, *range(32, 127), *range(128, 256)])
_PORTABLE = re.compile(rb"P[1-6][ \t\r\n]")
_OTHERS = (
    (b"PAR1", "a Parquet file, which is read as an input: name it .parquet"),
    (b"ARROW1", "an Arrow file, which is read as an input: name it .arrow"),
    (b"\x93NUMPY", "an array of NumPy, no encoded image"),
    (b"PK\x03\x04", "a zip file: unpack it"),
    (b"%PDF", "a PDF: convert its pages to images"),
    (b"8BPS", "a Photoshop file: convert it"),
)
"""First bytes of files that are taken for images by mistake, and what to do with them."""


def sniff_media_type(data: bytes) -> str | None:
    """Return the media type of an image by its first bytes; None if it is not one of the decoded formats."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if is_avif(data):
        return "image/avif"
    if plugin := plugin_for(data):
        return plugin.media_type
    if _PORTABLE.match(data):
        return "image/x-portable-anymap"
    return next((media_type for magic, media_type in _SNIFFED if data.startswith(magic)), None)


def open_image(
    content: Any, *, max_pixels: int, apply_exif: bool = False, reduced_to: tuple[int, int] | None = None
) -> Image.Image:
    """Decode or wrap one image.

    Args:
        content: Encoded bytes; an (H, W, 3) RGB array, uint8 or float in [0, 1]; or a Pillow image.
        max_pixels: Larger images are refused before they are decoded.
        apply_exif: Rotate the image by its EXIF orientation.
        reduced_to: Width and height that a JPEG file may be reduced to while it is decoded.

    Returns:
        A loaded Pillow image in the mode of its file (16-bit greyscale scaled to 8 bits); of an animation the first
        frame.

    Raises:
        RowError: `empty`, `undecodable`, `unsupported`, `too_large`, `wrong_shape` or `out_of_range`.
    """
    if isinstance(content, Image.Image):
        image = content
        check_pixels(image.size, max_pixels)
    elif isinstance(content, bytes | bytearray | memoryview):
        image = _decode(bytes(content), max_pixels, reduced_to)
    elif isinstance(content, np.ndarray):
        image = from_array(content, max_pixels=max_pixels)
    else:
        raise RowError(
            Stage.DECODE,
            Code.UNSUPPORTED,
            f"an image must be encoded bytes, an array, a Pillow image or a URI, got {type(content).__name__}",
        )
    if apply_exif:
        image = upright(image)
    return _to_eight_bits(image)


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned by its EXIF orientation; as it is if its EXIF data is damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # Pillow raises SyntaxError, struct.error, ValueError, …
        return image


def _decode(data: bytes, max_pixels: int, reduced_to: tuple[int, int] | None) -> Image.Image:
    if not data:
        raise RowError(Stage.DECODE, Code.EMPTY, "the image has zero bytes")
    try:
        image = _opened(without_metadata(data), max_pixels)
        check_pixels(image.size, max_pixels)
        if reduced_to is not None:
            image.draft(image.mode, reduced_to)
        image.load()
    except RowError:
        raise
    except Image.DecompressionBombError as err:
        pixels = re.search(r"\((\d+) pixels\)", str(err))
        size = f"{int(pixels[1]):,} pixels" if pixels else "too many pixels"
        message = f"the image has {size}, allowed are {max_pixels:,} (option max_image_pixels)"
        raise RowError(Stage.DECODE, Code.TOO_LARGE, message) from err
    except UnidentifiedImageError as err:
        raise RowError(
            Stage.DECODE,
            Code.UNDECODABLE,
            f"{len(data)} bytes that begin with {data[:8]!r} are "
            + (described_other(data) or f"no image of a known format ({', '.join(FORMATS)})"),
        ) from err
    except MemoryError:
        raise
    except (
        Exception
    ) as err:  # decoders raise OSError, SyntaxError, ValueError, struct.error, …: all are about this file
        title = plugin.title if (plugin := plugin_for(data)) else "image"
        raise RowError(Stage.DECODE, Code.UNDECODABLE, f"the {title} cannot be decoded: {str(err).strip()}") from err
    return image


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    """Open an image without decoding it, if its library can do so."""
    if not (plugin := plugin_for(data)):
        return Image.open(io.BytesIO(data), formats=FORMATS)
    if plugin.decodes_at_once:
        if (size := plugin_size(plugin, data)) is None:
            raise RowError(
                Stage.DECODE, Code.UNDECODABLE, f"the {plugin.title} cannot be decoded: its header is damaged"
            )
        check_pixels(size, max_pixels)
    return open_with(plugin, data)


def header_size(data: bytes) -> tuple[int, int] | None:
    """Return the width and height of an image file, from its header; None if it cannot be read."""
    if plugin := plugin_for(data):
        return plugin_size(plugin, data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.size
    except Exception:  # decoding will fail with the reason
        return None


def described_other(data: bytes) -> str | None:
    """Return what a file is that is no image, with what to do about it; None if it is of no known format."""
    start = data[:512]
    if is_avif(start) and "AVIF" not in FORMATS:
        return "an AVIF image, which this Pillow cannot decode: install Pillow 11.3 or newer"
    if known := next((what for magic, what in _OTHERS if start.startswith(magic)), None):
        return known
    if compression := compression_of(start):
        return f"a file compressed with {compression}: decompress it"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, as servers send instead of a missing image"
    if text.startswith((b"<svg", b"<?xml")):
        return "an SVG or another XML file, which is not decoded: convert it"
    if text.startswith((b"http://", b"https://")):
        return "a list of URIs, which is read as an input if there is one on each line"
    if text and not start.translate(None, _TEXT_BYTES):
        return (
            "a text, no image, unless they are damaged: embed it as a text, in a column of texts or a field 'text' of "
            "JSON lines"
        )
    return None


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Refuse an image that is larger than allowed, or has no pixels.

    Raises:
        RowError: `too_large` or `wrong_shape`.
    """
    width, height = size
    if width * height > max_pixels:
        raise RowError(
            Stage.DECODE,
            Code.TOO_LARGE,
            f"the image has {width} x {height} pixels, allowed are {max_pixels:,} (option max_image_pixels)",
        )
    if width == 0 or height == 0:
        raise RowError(Stage.DECODE, Code.WRONG_SHAPE, f"the image has {width} x {height} pixels")


def from_array(array: np.ndarray, *, max_pixels: int) -> Image.Image:
    """Wrap an (H, W, 3) RGB array, uint8 or float in [0, 1], as a Pillow image.

    Raises:
        RowError: `wrong_shape` for other ranks or channel counts, `out_of_range` for NaN or other ranges,
            `unsupported` for other dtypes.
    """
    if array.ndim != 3 or array.shape[2] != 3:
        raise RowError(
            Stage.PREPROCESS,
            Code.WRONG_SHAPE,
            f"an image array must have shape (height, width, 3) in RGB, got {array.shape}",
        )
    check_pixels((array.shape[1], array.shape[0]), max_pixels)
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    if not np.issubdtype(array.dtype, np.floating):
        raise RowError(
            Stage.PREPROCESS, Code.UNSUPPORTED, f"an image array must be uint8 or float in [0, 1], got {array.dtype}"
        )
    low, high = float(np.min(array)), float(np.max(array))
    if not (low >= 0.0 and high <= 1.0):  # written so that NaN fails too
        raise RowError(
            Stage.PREPROCESS,
            Code.OUT_OF_RANGE,
            f"a float image array must have values from 0 to 1, got {low:.4g} to {high:.4g}"
            " (pass values from 0 to 255 as uint8; for normalised values use " + setting("preprocess", False) + ")",
        )
    return Image.fromarray(np.rint(array * 255.0).astype(np.uint8))


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit greyscale to 8 bits: Pillow's own conversion would clip it to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise RowError(
            Stage.DECODE,
            Code.UNSUPPORTED,
            f"32-bit grey levels (mode {image.mode}) have no agreed range; convert to 8 or 16 bits",
        )
    return image
