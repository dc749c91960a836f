"""What decoding and preprocessing are told: how a model wants its images and sounds, and how files are decoded."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of OpenAI's training pictures, per channel (RGB, values from 0 to 1)."""


class DecodeOptions(Protocol):
    """How images are decoded; an `EncoderSpec` says it.

    Attributes:
        decode: `exact` or `fast`.
        apply_exif: Whether photographs are turned as their EXIF orientation says.
        max_image_pixels: Pixels of one image, judged before it is decoded.
    """

    @property
    def decode(self) -> str: ...  # noqa: D102

    @property
    def apply_exif(self) -> bool: ...  # noqa: D102

    @property
    def max_image_pixels(self) -> int: ...  # noqa: D102


@dataclasses.dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a model wants its images.

    Attributes:
        image_size: Height and width of the crop, in pixels.
        mean: Per channel (RGB), subtracted from values between 0 and 1.
        std: Per channel, divided by after that.
        interpolation: `bicubic` or `bilinear`.
        resize_mode: `shortest` (resize the shorter side, crop the centre), `longest` (pad the rest), `squash`.
        fill: Grey level of the padding.
        resize_to: Side after resizing where it is not `image_size` (`shortest`, `squash`), in pixels.
        rgb: When an image becomes RGB: `last` (after resizing and cropping in the file's mode, as open_clip), `first`,
            or `on_white` (first, and what is transparent lies on white, as transformers).
        crop_offset: Where a crop begins if half a pixel is over: `even` (the even neighbour, as open_clip) or `floor`.
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
        """Return the fields as plain values, those that only some families set left out where they are not set."""
        values = dataclasses.asdict(self)
        for name in ("resize_to", "rgb", "crop_offset"):
            if values[name] == type(self).__dataclass_fields__[name].default:
                del values[name]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class AudioFrontend:
    """How sounds become what an audio tower reads.

    Attributes:
        sample_rate: Samples a second that waveforms are brought to.
        scale: What samples in [-1, 1] are multiplied by.
        min_samples: The shortest waveform that the tower can embed, at `sample_rate`.
        values_per_sample: Values that the tower's largest layer holds for each sample of each channel; what one call of
            the model may take of memory is judged by it.
    """

    sample_rate: int
    scale: float = 1.0
    min_samples: int = 1
    values_per_sample: float = 1.0
