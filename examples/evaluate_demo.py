"""Measure how well the `demo` model distinguishes drawn pictures that it has never seen.

python examples/evaluate_demo.py                  # under a minute
python examples/evaluate_demo.py some/directory   # another model directory of open_clip
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from clipmill.models import demo
from clipmill.pipelines.drawings import CLASSES, HELD_OUT, Scene, class_caption, describe, draw, sample_scene

MODEL_DIR = Path(demo.__file__).parent


def as_jpeg(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the picture after saving it as JPEG with quality 60 to 95."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=int(rng.integers(60, 96)))
    return Image.open(file).convert("RGB")


def unit_rows(vectors: Tensor) -> np.ndarray:
    """Return the vectors, each scaled to length 1."""
    return functional.normalize(vectors, dim=1).numpy()


def false_captions(scenes: list[Scene], stated: list[frozenset[str]]) -> np.ndarray:
    """Return which caption (column) is false for which picture (row), (n, n) bool."""
    claims = list(zip(scenes, stated, strict=True))
    return np.array([
        [any(getattr(scene, field) != getattr(other, field) for field in fields) for other, fields in claims]
        for scene in scenes
    ])  # fmt: skip


def right_of_ten(cosines: np.ndarray, false: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return whether a picture's own caption beats nine randomly drawn false ones, (n,) bool."""
    others = [rng.choice(np.flatnonzero(row), 9, replace=False) for row in false]
    return np.array([cosines[i, i] > cosines[i, nine].max() for i, nine in enumerate(others)])


@torch.inference_mode()
def evaluate(model_dir: Path, seed: int = 2_000_003, galleries: int = 20) -> dict[str, float]:
    """Return recall at 1 on fresh pictures, with the weights loaded as a user would load them.

    Every gallery has one picture of each class, of any size, position and ground, as a JPEG of 100 to 500 pixels.
    Image → text: the nearest of all classes' captions ("a red circle") is the right one.
    Text → image: the nearest of all pictures of a gallery is the right one.
    One of ten: the picture's own caption, long or short, is nearer than nine false ones; one to four shapes.

    Args:
        model_dir: The directory of configuration and weights.
        seed: The seed of the pictures, different from the training's.
        galleries: The number of galleries over which the figures are averaged.

    Returns:
        The recalls by name.
    """
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{model_dir}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model_dir}")
    rng = np.random.default_rng(seed)

    def embed_scenes(scenes: list[Scene]) -> np.ndarray:
        pictures = [as_jpeg(draw(scene, rng, int(rng.integers(100, 501))), rng) for scene in scenes]
        return unit_rows(model.encode_image(torch.stack([preprocess(picture) for picture in pictures])))

    own = np.arange(len(CLASSES))
    held_out = np.array([pair in HELD_OUT for pair in CLASSES])
    texts = unit_rows(model.encode_text(tokenizer([class_caption(*pair) for pair in CLASSES])))
    hits: dict[str, list[np.ndarray]] = {"image→text": [], "text→image": [], "one of ten": []}
    for _ in range(galleries):
        cosines = embed_scenes([sample_scene(rng, colour=c, shape=s, count=1) for c, s in CLASSES]) @ texts.T
        hits["image→text"].append(cosines.argmax(axis=1) == own)
        hits["text→image"].append(cosines.argmax(axis=0) == own)
        scenes = [sample_scene(rng, colour=colour, shape=shape) for colour, shape in CLASSES]
        captions, stated = zip(*(describe(scene, rng) for scene in scenes), strict=True)
        cosines = embed_scenes(scenes) @ unit_rows(model.encode_text(tokenizer(list(captions)))).T
        hits["one of ten"].append(right_of_ten(cosines, false_captions(scenes, list(stated)), rng))
    return {
        f"{task}, {name}": float(np.stack(rows)[:, mask].mean())
        for task, rows in hits.items()
        for name, mask in (("seen pairs", ~held_out), ("held-out pairs", held_out))
    }


def print_figures(model_dir: Path = MODEL_DIR) -> None:
    """Print every recall with three digits."""
    for name, value in evaluate(model_dir).items():
        print(f"recall@1 {name}: {value:.3f}")


if __name__ == "__main__":
    print_figures(*map(Path, sys.argv[1:2]))
