"""Real photographs for tests: those that scikit-image and scikit-learn ship, as arrays and as files."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images


@functools.cache
def photographs() -> dict[str, np.ndarray]:
    """Return photographs as (H, W, 3) uint8 RGB: colours, faces, fur, leaves, sizes from 300 to 640 pixels."""
    names = ("astronaut", "chelsea", "coffee")
    found = {name: np.ascontiguousarray(getattr(data, name)()[:, :, :3]) for name in names}
    sample = load_sample_images()
    for path, image in zip(sample.filenames, sample.images, strict=True):
        found[path.split("/")[-1].split(".")[0]] = np.array(image)
    return found


def encode(array: np.ndarray, format: str = "PNG", **options: object) -> bytes:
    """Return an image file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format, **options)
    return buffer.getvalue()
