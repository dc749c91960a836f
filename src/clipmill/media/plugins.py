"""HEIF and JPEG XL images, decoded by optional libraries, which are imported when the first such image is met."""

from __future__ import annotations

import importlib
import io
from types import ModuleType
from typing import NamedTuple

from PIL import Image

from ..failures import Code, RowError, Stage
from .containers import is_heif, is_jxl, jxl_size


class Plugin(NamedTuple):
    """A format that an optional library decodes.

    Attributes:
        format: What Pillow calls it.
        title: Its name in messages.
        media_type: As a sniffed file's.
        module: The library.
        extra: The extra of clipmill that installs it.
        decodes_at_once: Whether it decodes an image when it opens it.
    """

    format: str
    title: str
    media_type: str
    module: str
    extra: str
    decodes_at_once: bool


HEIF = Plugin("HEIF", "HEIC image", "image/heif", "pillow_heif", "heif", False)
JXL = Plugin("JXL", "JPEG XL image", "image/jxl", "pillow_jxl", "jxl", True)
PLUGINS = (HEIF, JXL)
"""Formats that are read if their extra is installed."""


def plugin_for(data: bytes) -> Plugin | None:
    """Return the plugin that decodes a file, by its first bytes; None if it is in another format."""
    return JXL if is_jxl(data) else HEIF if is_heif(data) else None


def plugin_size(plugin: Plugin, data: bytes) -> tuple[int, int] | None:
    """Return the width and height of a file, from its header; None if it cannot be read, or without the library."""
    if plugin is JXL:
        return jxl_size(data)
    try:
        return _load(plugin).HeifImageFile(io.BytesIO(data)).size
    except Exception:  # decoding will fail with the reason
        return None


def open_with(plugin: Plugin, data: bytes) -> Image.Image:
    """Open a file; HEIF images are decoded when they are loaded, JPEG XL images at once.

    Images are upright: both formats say themselves how they are turned, whatever their EXIF data says.

    Raises:
        RowError: `undecodable`, also without the library.
    """
    module = _load(plugin)
    if plugin is HEIF:
        return module.HeifImageFile(io.BytesIO(data))
    try:
        _, header, pixels, *_ = module.Decoder(num_threads=1)(data)
    except RuntimeError as err:  # its message is about how the library was built
        raise RowError(
            Stage.DECODE, Code.UNDECODABLE, f"the {plugin.title} cannot be decoded: it is damaged or cut off"
        ) from err
    size = (header.width, header.height)
    mode = "F" if header.mode == "F;16" else header.mode  # the library widens such pixels itself
    if mode == "LA" and len(pixels) == 4 * header.width * header.height:
        pixels = pixels[1::2]  # of 16 bits, the upper ones
    return Image.frombytes(mode, size, pixels)


def _load(plugin: Plugin) -> ModuleType:
    try:
        return importlib.import_module(plugin.module)
    except (ImportError, OSError) as err:  # OSError: the package is installed without its C library
        message = f"the file is a {plugin.title}, which needs an extra: pip install 'clipmill[{plugin.extra}]'"
        raise RowError(Stage.DECODE, Code.UNDECODABLE, message) from err
