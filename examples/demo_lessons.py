"""Training data of the `demo` model: drawn pictures, their scenes as numbers, captions as tokens."""

from __future__ import annotations

import io
import multiprocessing

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from clipmill.pipelines.drawings import (
    COLOURS,
    GROUNDS,
    HELD_OUT,
    MAX_COUNT,
    POSITIONS,
    SHAPES,
    SIZES,
    Scene,
    clutter,
    describe,
    draw,
    sample_scene,
)

CHUNK = 500
CLUTTER_SHARE = 0.04
CLUTTER_WORDS = ("a photograph", "a photo", "a blurry photo", "many colours", "something else", "no shape at all")
# The order of a scene's fields in a code; the last value of a field's list means "none of these".
FIELDS: dict[str, tuple[object, ...]] = {
    "shape": (*SHAPES, None),
    "colour": (*COLOURS, None),
    "size": (*SIZES, None),
    "count": (*range(1, MAX_COUNT + 1), None),
    "position": (*POSITIONS, None),
    "ground": (*GROUNDS, None),
}
UNSTATED = -1
CLUTTER_CODE = np.array([len(values) - 1 for values in FIELDS.values()], dtype=np.int8)


def degrade(picture: Image.Image, rng: np.random.Generator, side: int) -> Image.Image:
    """Degrade a picture as it would be in practice: save it as JPEG more often than not, then resize it."""
    if rng.random() < 0.6:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=int(rng.integers(50, 96)))
        picture = Image.open(file)
    return picture.resize((side, side), Image.Resampling.BICUBIC)


def draw_chunk(job: tuple[int, int, int]) -> tuple[np.ndarray, list[Scene | None]]:
    """Draw `CHUNK` training pictures. They depend only on the seed and on the number of the chunk."""
    seed, number, side = job
    rng = np.random.default_rng([seed, number])
    pixels = np.zeros((CHUNK, 3, side, side), np.uint8)
    scenes: list[Scene | None] = []
    for i in range(CHUNK):
        drawn_side = int(rng.integers(side, 4 * side))
        if rng.random() < CLUTTER_SHARE:
            scenes.append(None)
            picture = clutter(rng, drawn_side)
        else:
            scene = sample_scene(rng, avoid=HELD_OUT)
            scenes.append(scene)
            picture = draw(scene, rng, drawn_side)
        pixels[i] = np.asarray(degrade(picture, rng, side)).transpose(2, 0, 1)
    return pixels, scenes


def draw_pool(seed: int, pictures: int, workers: int, side: int) -> tuple[np.ndarray, list[Scene | None]]:
    """Return all training pictures, (n, 3, side, side) uint8, and their scenes (None: clutter)."""
    jobs = [(seed, number, side) for number in range(pictures // CHUNK)]
    pixels = np.empty((len(jobs) * CHUNK, 3, side, side), np.uint8)
    scenes: list[Scene | None] = []
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for number, (some_pixels, some_scenes) in enumerate(pool.imap(draw_chunk, jobs)):
            pixels[number * CHUNK : (number + 1) * CHUNK] = some_pixels
            scenes += some_scenes
    return pixels, scenes


def encode_scene(scene: Scene | None) -> np.ndarray:
    """Return the scene as one small integer per field."""
    if scene is None:
        return CLUTTER_CODE
    return np.array([values.index(getattr(scene, field)) for field, values in FIELDS.items()], dtype=np.int8)


def write_caption(scene: Scene | None, code: np.ndarray, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Return a caption and its claim: the scene's code, with `UNSTATED` in the fields that the caption leaves open."""
    if scene is None:
        return CLUTTER_WORDS[rng.integers(len(CLUTTER_WORDS))], np.where(np.arange(len(code)) < 2, code, UNSTATED)
    text, stated = describe(scene, rng)
    return text, np.where([field in stated for field in FIELDS], code, UNSTATED)


class WordTokens:
    """CLIP's tokens, from a cache of words. They are cut to the longest caption: a causal tower ignores the rest."""

    def __init__(self, tokenizer: open_clip.SimpleTokenizer) -> None:
        self._tokenizer = tokenizer
        self._words: dict[str, list[int]] = {}

    def __call__(self, captions: list[str], rng: np.random.Generator, noise_share: float = 0.0) -> Tensor:
        """Return token ids, (n, longest).

        Args:
            captions: The texts.
            rng: The random generator.
            noise_share: The share of captions that get a random token of the vocabulary at a random position. They
                teach the model that a word without a meaning changes nothing.
        """
        rows = [self._encode(caption) for caption in captions]
        first_special = self._tokenizer.sot_token_id
        for row in rows:
            if rng.random() < noise_share:
                row.insert(int(rng.integers(1, len(row))), int(rng.integers(first_special)))
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
        return tokens

    def _encode(self, caption: str) -> list[int]:
        ids = [self._tokenizer.sot_token_id]
        for word in caption.split():
            if word not in self._words:
                self._words[word] = self._tokenizer.encode(word)
            ids += self._words[word]
        return [*ids, self._tokenizer.eot_token_id]


class Lessons:
    """Training batches made from drawn pictures.

    Args:
        seed: The seed of pictures, captions and random choices.
        pictures: The number of pictures to draw.
        workers: Processes that draw; the pictures don't depend on their number.
        side: The side of the pictures, in pixels.
        preprocess: open_clip's `preprocess_cfg`, for mean and standard deviation.
    """

    def __init__(self, *, seed: int, pictures: int, workers: int, side: int, preprocess: dict) -> None:
        # No chunk of pictures has so high a number, so these random choices are independent of the pictures.
        self._rng = np.random.default_rng([seed, 1 << 20])
        self._side = side
        self._pixels, self._scenes = draw_pool(seed, pictures, workers, side)
        self._codes = np.stack([encode_scene(scene) for scene in self._scenes])
        self._mean = 255 * torch.tensor(preprocess["mean"]).view(3, 1, 1)
        self._std = 255 * torch.tensor(preprocess["std"]).view(3, 1, 1)
        self._words = WordTokens(open_clip.SimpleTokenizer())

    def sample_images(self, count: int) -> tuple[np.ndarray, Tensor, Tensor]:
        """Draw random pictures from the pool; return their numbers, images and codes.

        Every picture is shifted by up to 3 pixels, and its brightness and tint change slightly.
        """
        picked = self._rng.integers(len(self._scenes), size=count)
        pixels = torch.from_numpy(self._pixels[picked]).float()
        pixels = functional.pad(pixels, (3, 3, 3, 3), mode="replicate")
        shifts = self._rng.integers(0, 7, (count, 2))
        side = self._side
        pixels = torch.stack([p[:, y : y + side, x : x + side] for p, (y, x) in zip(pixels, shifts, strict=True)])
        gains = torch.from_numpy(self._rng.normal(1, 0.04, (count, 3, 1, 1)).astype(np.float32))
        images = ((pixels * gains).clamp(0, 255) - self._mean) / self._std
        return picked, images, torch.from_numpy(self._codes[picked]).long()

    def write_captions(self, picked: np.ndarray) -> tuple[Tensor, Tensor]:
        """Write a caption for each of the pictures; return tokens and claims."""
        written = [write_caption(self._scenes[i], self._codes[i], self._rng) for i in picked]
        tokens = self._words([text for text, _ in written], self._rng, noise_share=0.15)
        return tokens, torch.from_numpy(np.stack([claim for _, claim in written]))
