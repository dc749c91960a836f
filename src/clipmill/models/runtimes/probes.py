"""Generated inputs for every model input, to check fast runtimes with; they are the same on every machine."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageDraw

from ...errors import WeightsError
from ...media.audio import DecodedAudio, waveform_for
from ...media.preprocess import crop_image
from ..frontend import Frontend
from .feeding import normalise

_CAPTIONS = (
    "a photo of a cat",
    "two small blue stars",
    "she smiled, with pain",
    "the old harbour of Lisbon at dusk, seen from a ferry, with gulls over the water and a red crane behind",
    "x",
    "a diagram of the human heart: four chambers, valves, and the great vessels",
    "ein Foto von zwei Hunden im Schnee",
    "quarterly revenue by region, 2019–2024",
)
ROWS = 6
"""Rows of each model input in a check."""

_SIDE = 224
"""Pixels of a picture."""
_AUDIO_SECONDS = 1.0


def probes_of(frontend: Frontend, model_input: str, *, rows: int = ROWS, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Return probes, as `Runtime.encode` takes them.

    Args:
        frontend: How the model's values are prepared.
        model_input: `image`, `normalised_image`, `text` or `audio`.
        rows: How many of them.
        seed: Another seed gives other images, captions and audio.
    """
    if model_input == "text":
        assert frontend.text is not None
        captions = [_CAPTIONS[(seed + number) % len(_CAPTIONS)] for number in range(rows)]
        return frontend.text.batch([frontend.text.tokenizer(caption)[0] for caption in captions])
    if model_input in ("image", "normalised_image"):
        assert frontend.image is not None
        crops = np.stack([crop_image(_image(seed + n), frontend.image) for n in range(rows)])
        return (crops,) if model_input == "image" else (normalise(crops, frontend.image),)
    if model_input == "audio":
        assert frontend.audio is not None
        waves = _waveforms(frontend.audio.sample_rate, frontend.audio.min_samples, rows, seed)
        decoded = [DecodedAudio(wave[:, None], frontend.audio.sample_rate) for wave in waves]
        return (np.stack([waveform_for(audio, frontend.audio) for audio in decoded]),)
    raise WeightsError(f"there is no probe for {model_input}")


@functools.cache
def _image(number: int) -> Image.Image:
    """Return polygons on a noisy background in contrasting colours: as hard for int8 as photographs are."""
    rng = np.random.default_rng(number)
    ground = rng.uniform(0, 255, 3)
    pixels = np.full((_SIDE, _SIDE, 3), ground)
    for cells in (12, 40):
        grain = Image.fromarray(rng.integers(0, 256, (cells, cells), np.uint8)).resize((_SIDE, _SIDE))
        pixels += (np.asarray(grain, float)[..., None] - 128) * rng.uniform(0, 0.2)
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.integers(1, 5)):
        x, y, radius, turn = rng.uniform((40, 40, 20, 0), (_SIDE - 40, _SIDE - 40, 70, 360))
        colour = tuple(int(value) for value in (ground + rng.uniform(90, 166, 3)) % 256)
        pen.regular_polygon((x, y, radius), int(rng.integers(3, 9)), int(turn), colour)
    return picture


def _waveforms(sample_rate: int, min_samples: int, rows: int, seed: int) -> np.ndarray:
    """Return (rows, samples) float32 in [-1, 1]: tones of rising pitch with noise."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(max(min_samples, int(sample_rate * _AUDIO_SECONDS))) / sample_rate
    low, high = rng.uniform(100, 1_000, (2, rows, 1))
    tones = np.sin(2 * np.pi * (low + high * seconds) * seconds)
    return (0.5 * tones + rng.normal(0, 0.05, tones.shape)).clip(-1, 1).astype(np.float32)
