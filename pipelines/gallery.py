"""The demo's pictures: drawn shapes, real photographs and broken files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import require
from .drawings import CLASSES, draw, sample_scene

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee")


def write_gallery(directory: Path, *, seed: int = 7) -> None:
    """Write drawn pictures, one for each colour and shape, three real photographs, and three broken files.

    Equal seeds give equal pictures.
    """
    data = require("skimage.data", "test", "the demo's photographs", package="scikit-image")
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for colour, shape in CLASSES:
        scene = sample_scene(rng, colour=colour, shape=shape, count=1)  # captions of one tell it from several
        draw(scene, rng).resize((240, 240), Image.Resampling.BICUBIC).save(directory / f"{colour}-{shape}.png")
    for name in PHOTOGRAPHS:
        Image.fromarray(getattr(data, name)()).save(directory / f"photo-{name}.jpg", quality=90)
    whole = (directory / f"photo-{PHOTOGRAPHS[0]}.jpg").read_bytes()
    (directory / "broken-cut-off.jpg").write_bytes(whole[: len(whole) // 3])
    (directory / "broken-empty.png").write_bytes(b"")
    (directory / "broken-page.jpg").write_text("<html><body>404 Not Found</body></html>")
