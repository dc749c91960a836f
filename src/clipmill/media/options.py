"""Options of decoding and preprocessing: how a model preprocesses images and audio, and how files are decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from .mel import MelSpectrogram

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of OpenAI's training images, per channel (RGB, values from 0 to 1)."""


class DecodeOptions(Protocol):
    """How images are decoded; an `EncoderSpec` has these fields.

    Attributes:
        decode: `exact` or `fast`.
        apply_exif: Whether images are rotated by their EXIF orientation.
        max_image_pixels: The most pixels of an image, checked before it is decoded.
    """

    @property
    def decode(self) -> str: ...  # noqa: D102

    @property
    def apply_exif(self) -> bool: ...  # noqa: D102

    @property
    def max_image_pixels(self) -> int: ...  # noqa: D102


@dataclasses.dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a model preprocesses its images.

    Attributes:
        image_size: Height and width of the crop, in pixels.
        mean: Per channel (RGB), subtracted from values between 0 and 1.
        std: Per channel; the difference is divided by it.
        interpolation: `bicubic` or `bilinear`.
        resize_mode: `shortest` (resize the shorter side and crop the centre), `longest` (resize the longer side
            and pad the rest), `squash`.
        fill: Grey level of the padding.
        resize_to: Side after resizing if it is not `image_size` (`shortest`, `squash`), in pixels.
        rgb: When an image is converted to RGB: `last` (after resizing and cropping in the file's mode, as in
            open_clip), `first`, or `on_white` (first, with transparent pixels on white, as in transformers).
        crop_offset: How the offset of the centre crop is rounded: `even` (half to even, as in open_clip) or `floor`.
    """

    image_size: int = 224
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill: int = 0
    resize_to: int | None = None
    rgb: str = "last"
    crop_offset: str = "even"

    @classmethod
    def of(cls, image_size: Any, facts: dict[str, Any]) -> Preprocessing:
        """Build from open_clip's own keys (`mean`, `std`, `interpolation`, `resize_mode`, `fill_color`)."""
        size = image_size[0] if isinstance(image_size, list | tuple) else image_size
        return cls(
            image_size=int(size),
            mean=tuple(facts.get("mean") or OPENAI_MEAN),
            std=tuple(facts.get("std") or OPENAI_STD),
            interpolation=facts.get("interpolation") or "bicubic",
            resize_mode=facts.get("resize_mode") or "shortest",
            fill=int(facts.get("fill_color") or 0),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, without those at their default that only some model families set."""
        values = dataclasses.asdict(self)
        for name in ("resize_to", "rgb", "crop_offset"):
            if values[name] == type(self).__dataclass_fields__[name].default:
                del values[name]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class AudioFrontend:
    """How audio is prepared for an audio tower.

    Attributes:
        sample_rate: In Hz; waveforms are resampled to it.
        scale: Factor for samples in [-1, 1].
        from_16_bits: Whether scaled samples are mapped from [-32768, 32767] to [-1, 1] again, as AudioCLIP does.
        min_samples: The shortest waveform that the tower can embed, at `sample_rate`.
        values_per_sample: Values in the tower's largest layer for each value of its input (a sample of a channel, or a
            bin of a spectrogram); the memory of a model call is estimated from it.
        mel: How waveforms become spectrograms, for towers that read those; channels are mixed down first.
        float32_graphs: Whether graphs of the model run in float32 only: the tower computes decibels, whose weakest
            values smaller types lose.
    """

    sample_rate: int
    scale: float = 1.0
    from_16_bits: bool = False
    min_samples: int = 1
    values_per_sample: float = 1.0
    mel: MelSpectrogram | None = None
    float32_graphs: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> AudioFrontend:
        """Build from the plain values of `dataclasses.asdict`."""
        mel = values.get("mel")
        return cls(**{**values, "mel": None if mel is None else MelSpectrogram(**mel)})
