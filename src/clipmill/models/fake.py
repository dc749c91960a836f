"""A fake encoder for tests, including users' own: its vectors are easy to predict, and it logs its calls.

`EncoderSpec("fake::dim=8")` needs no weights. Options, as in `fake::dim=8&log=/tmp/log`:

- `dim`: values in a vector (default 8)
- `modalities`: what it embeds (default `text,image`; `audio` is the third)
- `log`: a directory; every process appends its loads and calls to its own file there (`read_log` reads them all)
- `max_rows`: calls with more rows run out of memory, as on a small GPU
- `bad`: texts that contain this word make the whole call fail, as a bad row may
- `scale`: the learnt scale for cosines of texts and images (`scale="model"`); none by default. `scale_ai` and
  `scale_at` are those of audio and images, and of audio and texts
- `bias`, `bias_ai`, `bias_at`: the learnt biases of the same pairs (`score="sigmoid"`); none by default
- `least_dimensions`: the fewest values that its vectors may be cut to (`dimensions`); only whole vectors by default
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutOfMemoryError
from ..media.audio import open_audio, require_audio
from ..media.images import open_image
from .catalog.fake_options import fake_biases, fake_modalities, fake_scales
from .model import Model, Prepared
from .spec import EncoderSpec


def fake_text_vector(text: str, dim: int = 8) -> np.ndarray:
    """Return the fake's vector of a text: its length, then the code points of its first characters."""
    values = [len(text), *map(ord, text)]
    return np.array((values + [0] * dim)[:dim], np.float32)


def fake_image_vector(pixels: np.ndarray, dim: int = 8) -> np.ndarray:
    """Return the fake's vector of an (H, W, 3) uint8 image: height, width, mean red, green and blue, then zeros."""
    values = [pixels.shape[0], pixels.shape[1], *pixels.reshape(-1, 3).mean(axis=0)]
    return np.array((values + [0] * dim)[:dim], np.float32)


def fake_audio_vector(samples: np.ndarray, sample_rate: float, dim: int = 8) -> np.ndarray:
    """Return the fake's vector of audio: channels, samples, sample rate, each channel's maximum, then zeros.

    Args:
        samples: (channels, n) float32 at the original sample rate; the fake doesn't resample.
        sample_rate: In Hz.
        dim: Values in a vector.
    """
    values = [*samples.shape, sample_rate, *samples.max(axis=1)]
    return np.array((values + [0] * dim)[:dim], np.float32)


class FakeModel(Model):
    """The model behind `fake::`."""

    def __init__(self, options: Mapping[str, str]) -> None:
        """Read the options; see the module's docstring."""
        self.dim = int(options.get("dim", 8))
        self.modalities = fake_modalities(options)
        if "audio" in self.modalities:
            require_audio()
        self.resolved = {"runtime": "fake", "precision": "fp32", "device": "cpu", "weights_sha256": None}
        self._max_rows = int(options.get("max_rows", 0)) or None
        self._bad = options.get("bad")
        self._log = Path(options["log"]) if options.get("log") else None
        self._scales = fake_scales(options)
        self._biases = fake_biases(options)
        self._write({"event": "load"})

    def learnt_scales(self) -> Mapping[frozenset[str], float]:
        """Return the scales given as options."""
        return dict(self._scales)

    def learnt_biases(self) -> Mapping[frozenset[str], float]:
        """Return the biases given as options."""
        return dict(self._biases)

    def prepare(self, modality: str, content: Any, spec: EncoderSpec) -> Prepared:
        """Keep a text; decode an image or audio. As in real models, only audio of equal shape shares a call."""
        if modality == "text":
            truncated = len(content.split()) > 75
            return Prepared(content, truncated=truncated, media_type="text/plain")
        if modality == "audio":
            audio = open_audio(content, max_seconds=spec.max_audio_seconds)
            payload = (audio.samples.T, audio.sample_rate)
            return Prepared(payload, group=payload[0].shape, pixels=payload[0].size, media_type=audio.media_type)
        image = open_image(content, max_pixels=spec.max_image_pixels, apply_exif=spec.apply_exif)
        return Prepared(np.asarray(image.convert("RGB")), pixels=image.width * image.height)

    def encode(self, modality: str, payloads: Sequence[Any]) -> np.ndarray:
        """Compute the vectors, or fail if an option says so."""
        self._write({"event": "encode", "modality": modality, "rows": len(payloads)})
        if self._max_rows and len(payloads) > self._max_rows:
            raise OutOfMemoryError(f"{len(payloads)} rows, with room for {self._max_rows}")
        if self._bad and any(isinstance(p, str) and self._bad in p for p in payloads):
            raise ValueError(f"the word {self._bad!r} broke the call")
        if modality == "audio":
            return np.stack([fake_audio_vector(samples, rate, self.dim) for samples, rate in payloads])
        vector = fake_text_vector if modality == "text" else fake_image_vector
        return np.stack([vector(payload, self.dim) for payload in payloads])

    def _write(self, event: dict[str, Any]) -> None:
        if self._log:
            self._log.mkdir(parents=True, exist_ok=True)
            with (self._log / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")


@dataclasses.dataclass(frozen=True)
class FakeLog:
    """The loads and calls of the fakes of all processes.

    Attributes:
        loads: Loads of the model, by process.
        batches: (modality, rows) of every call, in order within each process.
    """

    loads: dict[int, int]
    batches: list[tuple[str, int]]

    @property
    def rows(self) -> int:
        """Rows of all calls together."""
        return sum(rows for _, rows in self.batches)


def read_log(directory: str | Path) -> FakeLog:
    """Read the logs of fakes with `log=directory`."""
    loads: dict[int, int] = {}
    batches: list[tuple[str, int]] = []
    for path in sorted(Path(directory).glob("*.jsonl")):
        for event in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            if event["event"] == "load":
                loads[int(path.stem)] = loads.get(int(path.stem), 0) + 1
            else:
                batches.append((event["modality"], event["rows"]))
    return FakeLog(loads, batches)
