"""Read size, context and preprocessing of a model of Hugging Face from its files, without transformers."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from ...errors import WeightsError
from ...media.options import OPENAI_MEAN, OPENAI_STD, Preprocessing
from ...messages import setting
from . import jina_clip
from .clap import MODEL_TYPE as CLAP
from .clap import ClapConfig
from .file_config import FileConfig
from .hugging_face_kinds import CLASSES, KINDS, REFUSED, Kind
from .twins import twin_message

_DEFAULT_SIDE = 224
_SHORTEST = {
    "size": {"shortest_edge": _DEFAULT_SIDE},
    "do_center_crop": True,
    "image_mean": OPENAI_MEAN,
    "image_std": OPENAI_STD,
}
_SQUARE = {
    "size": {"height": _DEFAULT_SIDE, "width": _DEFAULT_SIDE},
    "do_center_crop": False,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
}
_PROCESSORS = {
    "CLIPImageProcessor": _SHORTEST,
    "ChineseCLIPImageProcessor": _SHORTEST,
    "SiglipImageProcessor": _SQUARE,
}
"""The image processors of transformers that can be read, with the defaults of their classes where these differ."""
_FILTERS = {2: "bilinear", 3: "bicubic"}

_OTHER_CONFIGS = {
    "adapter_config.json": "an adapter (such as LoRA), not a whole model; merge it into its base model (peft:"
    " merge_and_unload, then save_pretrained) and use the directory with the result",
    "open_clip_config.json": "a model of open_clip, not of transformers; write 'hf-hub:organisation/name' for a"
    " repository of this kind, '<architecture>::<file>' for its weights",
}
"""What a place without `config.json` contains if it has one of these files."""


@dataclasses.dataclass(frozen=True)
class ModelConfig(FileConfig):
    """A `config.json`, checked to be that of a whole model of a known kind."""

    kind: Kind

    @property
    def dim(self) -> int:
        """Values in a vector."""
        if self.kind.has_projection:
            return self.whole(self.values, "projection_dim", self.kind.dim)
        image = self.whole(self.part("vision_config"), "hidden_size", self.kind.dim)
        text_width = self.whole(self.part("text_config"), "hidden_size", self.kind.dim)
        text = self.whole(self.part("text_config"), "projection_size", text_width)
        if image != text:
            raise WeightsError(f"{self.where}: vectors of images have {image} values, and those of texts {text}")
        return image

    @property
    def context_length(self) -> int:
        """The most tokens of a text that the tower reads."""
        skipped = self.pad_id + 1 if self.kind.padding_positions else 0
        return self.positions(self.kind.context_length, skipped=skipped)

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text, if the spec does not say otherwise."""
        return min(self.context_length, self.kind.max_tokens or self.context_length)

    @property
    def pad_id(self) -> int:
        """The id of the padding by the configuration; RoBERTa counts positions from it."""
        return self.padding(int(self.kind.padding_positions))

    @property
    def image_size(self) -> int:
        """Side of the tower's input images in pixels."""
        vision = self.part("vision_config")
        size = vision.get("image_size")
        if isinstance(size, list) and len(size) == 2 and size[0] == size[1] is not None:
            vision = {"image_size": size[0]}
        return self.whole(vision, "image_size", _DEFAULT_SIDE)

    @property
    def least_dimensions(self) -> int | None:
        """The fewest leading values of a vector that the model was trained to use alone; None if it was not."""
        return min(self.values["matryoshka_dimensions"]) if self.values.get("matryoshka_dimensions") else None

    def part(self, name: str) -> dict[str, Any]:
        """See `FileConfig`. Files from before 2023 may have it twice; the one with the suffix `_dict` counts."""
        part = self.values.get(f"{name}_dict")
        part = self.values.get(name) if part is None else part
        return part if isinstance(part, dict) else {}


def read_config(place: str, cache_dir: str | None = None) -> ModelConfig | ClapConfig:
    """Read the `config.json` of a model with both towers.

    Args:
        place: The model's directory or repository.
        cache_dir: Folder for copies of a repository's files.

    Raises:
        WeightsError: If there is none, or it describes another kind of model, which the message names.
    """
    from ..downloads.model_files import CONFIG, find_first, read_json

    path = find_first(place, (CONFIG,), cache_dir)
    if path is None:
        other = find_first(place, tuple(_OTHER_CONFIGS), cache_dir)
        if other is None:
            raise WeightsError(f"{place!r} has no {CONFIG}, so it is no model of transformers")
        raise WeightsError(f"{place!r} has {other.name} but no {CONFIG}: {_OTHER_CONFIGS[other.name]}")
    values = read_json(path)
    given = values.get("model_type")
    if given == CLAP:
        return ClapConfig(values, str(path)).checked()
    kind = KINDS.get(str(given))
    if kind is None:
        what = REFUSED.get(str(given))
        names = ", ".join(f"{known!r} ({name})" for known, name in CLASSES.items())
        raise WeightsError(
            f"{str(path)!r} describes model_type {given!r}{f' ({what})' if what else ''}; it must be that of a whole"
            f" model with both towers, as save_pretrained writes it: {names}",
            hint=twin_message(place),
        )
    return ModelConfig(jina_clip.resolve(values, str(path)) if kind.is_own else values, str(path), kind)


def read_preprocessing(place: str, config: ModelConfig, cache_dir: str | None = None) -> Preprocessing:
    """Read the preprocessing of a place's image processor.

    Args:
        place: The model's directory or repository, or the one given as `base_image_processor`.
        config: The configuration whose image tower must accept the crops.
        cache_dir: Folder for copies of a repository's files.

    Raises:
        WeightsError: If there is no image processor, or it has settings that are not supported.
    """
    from ..downloads.model_files import PROCESSOR_FILES, find_processor

    found = find_processor(place, "image_processor", cache_dir)
    if found is None:
        raise WeightsError(
            f"no image processor in {place!r}: looked for {' and '.join(PROCESSOR_FILES)}",
            hint="name a repository or directory that has one with "
            + setting("base_image_processor", ...)
            + " (for OpenAI's models: 'openai/clip-vit-base-patch32')",
        )
    values, path = found
    if str(values.get("image_processor_type", config.kind.processor)) == jina_clip.PROCESSOR:
        return jina_clip.read_preprocessing(values, str(path), config.image_size)
    return _Processor(values, path, config.kind.processor).preprocessing(config.image_size)


class _Processor:
    """The settings of an image processor. Absent ones have the default of transformers' class; null is not absent."""

    def __init__(self, values: dict[str, Any], path: Path, default: str) -> None:
        self._values = values
        self._path = path
        named = values.get("image_processor_type") or values.get("feature_extractor_type") or default
        self._name = str(named)
        self._defaults = _PROCESSORS.get(_without_variant(self._name), _SHORTEST)

    def preprocessing(self, tower_size: int) -> Preprocessing:
        self._check()
        resize_to, mode = self._resized()
        side = self._square("crop_size", {"height": _DEFAULT_SIDE, "width": _DEFAULT_SIDE})
        if not self._get("do_center_crop", self._defaults["do_center_crop"]):
            if mode != "squash":
                raise self._refusal("do_center_crop", False, "True, or a 'size' with equal 'height' and 'width'")
            side = resize_to
        if side > resize_to:
            raise self._refusal("crop_size", side, f"at most {resize_to}, the side that 'size' resizes to")
        if side != tower_size:
            raise self._refusal("crop_size", side, f"{tower_size}, the image_size of the model's config.json")
        normalises = self._get("do_normalize", True)
        return Preprocessing(
            image_size=side,
            mean=self._per_channel("image_mean") if normalises else (0.0, 0.0, 0.0),
            std=self._per_channel("image_std") if normalises else (1.0, 1.0, 1.0),
            interpolation=_FILTERS[self._get("resample", 3)],
            resize_mode=mode,
            resize_to=None if resize_to == side else resize_to,
            rgb="on_white" if self._get("do_convert_rgb", True) else "first",
            crop_offset="floor",
        )

    def _get(self, name: str, default: Any) -> Any:
        return self._values.get(name, default)

    def _check(self) -> None:
        """Refuse settings that `Preprocessing` cannot express."""
        if _without_variant(self._name) not in _PROCESSORS:
            raise self._refusal("image_processor_type", self._name, ", ".join(_PROCESSORS))
        for name, allowed in (("do_resize", True), ("do_rescale", True), ("do_pad", False), ("use_square_size", False)):
            if bool(self._get(name, allowed)) is not allowed:
                raise self._refusal(name, not allowed, str(allowed))
        factor, resample = self._get("rescale_factor", 1 / 255), self._get("resample", 3)
        if not (isinstance(factor, float) and math.isclose(factor, 1 / 255, rel_tol=1e-6)):
            raise self._refusal("rescale_factor", factor, "1/255")
        if not isinstance(resample, int) or resample not in _FILTERS:
            raise self._refusal("resample", resample, "2 (bilinear) and 3 (bicubic)")

    def _resized(self) -> tuple[int, str]:
        """Return the length of the resized side or sides, and the resize mode."""
        size = self._get("size", self._defaults["size"])
        if isinstance(size, int) and not self._get("default_to_square", False):
            size = {"shortest_edge": size}
        edge = size.get("shortest_edge") if isinstance(size, dict) else None
        if isinstance(edge, int) and not isinstance(size, int) and size.get("longest_edge") is None:
            return edge, "shortest"
        return self._square("size", size), "squash"

    def _square(self, name: str, default: Any) -> int:
        """Return the side of a square, for which transformers has three notations."""
        given = self._get(name, default)
        size = given
        if isinstance(size, dict):
            size = [size.get("height"), size.get("width")]
        sides = size if isinstance(size, list) else [size, size]
        if len(sides) == 2 and isinstance(sides[0], int) and sides[0] == sides[1] and sides[0] > 0:
            return sides[0]
        also = " or 'shortest_edge'" if name == "size" else ""
        raise self._refusal(name, given, f"a square (equal 'height' and 'width'){also}")

    def _per_channel(self, name: str) -> tuple[float, float, float]:
        values = self._get(name, self._defaults[name])
        if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(_is_number, values)):
            raise self._refusal(name, values, "three numbers, for red, green and blue")
        red, green, blue = map(float, values)
        return red, green, blue

    def _refusal(self, name: str, value: Any, allowed: str) -> WeightsError:
        return WeightsError(
            f"{str(self._path)!r} has {name}={value!r}, which is not supported; allowed: {allowed}",
            hint="name another place with " + setting("base_image_processor", ...),
        )


def _without_variant(name: str) -> str:
    """Return the class of an image processor without what names its implementation, or its name in older files."""
    return name.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
