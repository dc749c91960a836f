"""Antialiased resizing of RGB bytes, several times as fast as Pillow, to the very values of torch.

cykooz-resizer and torch's `interpolate(antialias=True)` use the same filters in the same fixed-point arithmetic. Only
the order of passes differs: torch, like Pillow, resizes rows first and rounds in between. With one call for each pass,
cykooz-resizer returns the same bytes.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ClipmillError, is_installed
from ..messages import setting

ByteResizer = Callable[[np.ndarray, tuple[int, int], str], np.ndarray]

_FILTERS = {"bicubic": "catmull_rom", "bilinear": "bilinear"}
_STRIP_PIXELS = 2**19
"""Pixels that are handed over at once: the library takes copies, which then stay small and in the cache."""


@functools.cache
def byte_resizer() -> ByteResizer | None:
    """Return a function that resizes (height, width, 3) bytes to (width, height) with a filter.

    Returns:
        That of cykooz-resizer; without it (there are no wheels for Linux on Arm), that of torch; None without either.

    Raises:
        ClipmillError: If the library is installed, but cannot be loaded: another one could give other values.
    """
    if is_installed("cykooz_resizer"):
        library = _load("cykooz_resizer")
        ways = {name: library.ResizeAlg.convolution(library.FilterType[filter]) for name, filter in _FILTERS.items()}
        options = {name: library.ResizeOptions(resize_alg=way, use_alpha=False) for name, way in ways.items()}
        return functools.partial(_resize, library, options)
    if is_installed("torch"):
        return functools.partial(_resize_by_torch, _load("torch"))
    return None


def _load(name: str) -> Any:
    try:
        # unlike the statement, it gives no half of a module to threads that wait while the import of another one fails
        return importlib.import_module(name)
    except (ImportError, OSError, MemoryError) as err:
        raise ClipmillError(
            f"{name} is installed, but cannot be loaded ({err})",
            hint="repair it or give it more memory, or use " + setting("decode", "exact"),
        ) from err


def _resize(library: Any, options: dict[str, Any], pixels: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    (height, width), (new_width, new_height) = pixels.shape[:2], size
    if width != new_width:
        rows = max(1, _STRIP_PIXELS // width)
        strips = [pixels[top : top + rows] for top in range(0, height, rows)]
        resized = [_one_pass(library, strip, (new_width, len(strip)), options[name]) for strip in strips]
        pixels = resized[0] if len(resized) == 1 else np.concatenate(resized)
    return pixels if height == new_height else _one_pass(library, pixels, size, options[name])


def _one_pass(library: Any, pixels: np.ndarray, size: tuple[int, int], options: Any) -> np.ndarray:
    """Resize in one direction; `size` has the other side as it is."""
    height, width = pixels.shape[:2]
    kind = library.PixelType.U8x3
    source = library.ImageData(width, height, kind, pixels.tobytes())
    target = library.ImageData(*size, kind)
    library.Resizer().resize(source, target, options)  # one for each call: it locks itself, and costs a microsecond
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(size[1], size[0], 3)


def _resize_by_torch(torch: Any, pixels: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    if pixels.shape[1::-1] == size:
        return pixels
    # channels last: torch resizes this layout in one thread, with vector instructions
    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    scaled = torch.nn.functional.interpolate(image, size=size[::-1], mode=name, antialias=True)
    array: np.ndarray = scaled[0].permute(1, 2, 0).numpy()
    return array
