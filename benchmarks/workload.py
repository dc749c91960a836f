"""Inputs of the benchmarks: seeded crops of real photos, drawn pictures, captions and random weights."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from sklearn.datasets import load_sample_images

from clipmill.pipelines.drawings import draw, sample_scene


def photographs(count: int, seed: int = 0) -> list[bytes]:
    """Return JPEG files of 480 to 900 pixels: seeded crops of real photos, enlarged if they are smaller."""
    rng = np.random.default_rng(seed)
    sources = real_photographs()
    files = []
    for _ in range(count):
        source = Image.fromarray(sources[rng.integers(len(sources))])
        width, height = (int(side * rng.uniform(0.5, 1.0)) for side in source.size)
        left, top = rng.integers(source.width - width + 1), rng.integers(source.height - height + 1)
        crop = source.crop((left, top, left + width, top + height))
        longest = int(rng.integers(480, 901))
        scale = longest / max(crop.size)
        crop = crop.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        crop.save(buffer, "JPEG", quality=87)
        files.append(buffer.getvalue())
    return files


def real_photographs() -> list[np.ndarray]:
    """Return the photos of scikit-image and scikit-learn, (H, W, 3) uint8."""
    return [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), *load_sample_images().images]


def large_photographs(count: int, seed: int = 0) -> list[bytes]:
    """Return JPEG files of 4000 by 3000 pixels with detail at full scale: seeded mosaics of real photos."""
    rng = np.random.default_rng(seed)
    tiles = [Image.fromarray(array).crop((0, 0, 400, 300)) for array in real_photographs()]
    files = []
    for _ in range(count):
        canvas = Image.new("RGB", (4000, 3000))
        for number in range(100):
            canvas.paste(tiles[rng.integers(len(tiles))], (number % 10 * 400, number // 10 * 300))
        buffer = io.BytesIO()
        canvas.save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def write_drawings(directory: Path, count: int, distinct: int = 500, seed: int = 0) -> None:
    """Write `count` JPEG files of drawn pictures, `distinct` of which differ."""
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    contents = []
    for _ in range(min(distinct, count)):
        buffer = io.BytesIO()
        draw(sample_scene(rng), rng).save(buffer, "JPEG", quality=90)
        contents.append(buffer.getvalue())
    for number in range(count):
        (directory / f"{number:06d}.jpg").write_bytes(contents[number % len(contents)])


def drawings(count: int, seed: int = 0) -> list[bytes]:
    """Return JPEG files of drawn pictures, all different."""
    rng = np.random.default_rng(seed)
    files = []
    for _ in range(count):
        buffer = io.BytesIO()
        draw(sample_scene(rng), rng).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def captions(count: int, seed: int = 0, *, words: tuple[int, int] = (5, 15)) -> list[str]:
    """Return distinct texts whose numbers of words are between the two given ones."""
    rng = np.random.default_rng(seed)
    known = _WORDS.split()
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(rng.choice(known, rng.integers(words[0], words[1] + 1)))] = None
    return list(found)


_WORDS = """
a the two three small large old new red blue green yellow striped quiet busy wooden bright empty photo of with on
under beside near behind in front person dog cat horse bird car boat train street house river mountain table
window cup flower tree circle square star cloud bridge garden market night morning winter summer light shadow
"""


def write_weights(architecture: str, path: Path) -> Path:
    """Write random weights in the published layout; speed does not depend on their values."""
    torch.manual_seed(0)
    module = open_clip.CLIP(**copy.deepcopy(open_clip.get_model_config(architecture)))
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, str(path))
    return path
