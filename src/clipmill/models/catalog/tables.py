"""The architectures and weights of open_clip as a table of our own: readable without torch."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from importlib import resources
from typing import Any

QUICKGELU = "-quickgelu"

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of OpenAI's training pictures, per channel (RGB, values from 0 to 1)."""

_LICENCES = (
    (r"openai", "MIT"),
    (r"laion|datacomp|commonpool", "MIT"),
    (r"metaclip", "CC-BY-NC-4.0"),
    (r"webli", "Apache-2.0"),
)
"""Licences that the publishers of the weights state, by a part of the tag; other tags: not known here."""


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


@functools.cache
def _table() -> dict[str, Any]:
    text = (resources.files(__package__) / "open_clip.json").read_text(encoding="utf-8")
    return json.loads(text)


def architectures() -> dict[str, dict[str, Any]]:
    """Return the facts of every open_clip architecture, by its own name."""
    return _table()["architectures"]


def weights() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the facts of every published (architecture, tag)."""
    return _table()["weights"]


def pairs() -> list[tuple[str, str]]:
    """Return every (architecture, tag) in the table's order."""
    return [(name, tag) for name, tags in weights().items() for tag in tags]


def simplify(name: str) -> str:
    """Reduce a name to what counts in a comparison: no case, `/` and `_` as `-`, `@336px` as `-336`."""
    return re.sub(r"@(\d+)px$", r"-\1", name.strip().lower()).replace("/", "-").replace("_", "-")


@functools.cache
def _simple_architectures() -> dict[str, str]:
    return {simplify(name): name for name in architectures()}


def find_architecture(name: str) -> tuple[str, bool] | None:
    """Return (the architecture's own name, whether `-quickgelu` was asked for), or None for a stranger."""
    simple = simplify(name)
    if simple in _simple_architectures():
        return _simple_architectures()[simple], False
    base = _simple_architectures().get(simple.removesuffix(QUICKGELU))
    return (base, True) if base else None


def find_tag(architecture: str, tag: str) -> str | None:
    """Return the tag's own spelling, or None."""
    simple = {simplify(known): known for known in weights().get(architecture, {})}
    return simple.get(simplify(tag))


def licence_of(architecture: str, tag: str) -> str | None:
    """Return the licence of published weights where it is known.

    A tag names the training pictures; what it says of the licence holds for LAION's and timm's repositories alone.
    """
    publisher = weights()[architecture][tag].get("hub", "").partition("/")[0]
    if publisher not in ("laion", "timm", ""):
        return None
    return next((licence for part, licence in _LICENCES if re.search(part, tag)), None)
