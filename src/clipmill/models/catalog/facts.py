"""Facts about a model that are known without loading it, from the tables, the package or the model's own files."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from pathlib import Path
from typing import Any

from ...errors import WeightsError
from ...media.options import Preprocessing
from ..weight_files import description_errors
from . import cn_clip, exported, hugging_face, mclip, tables
from .clap import ClapConfig
from .fake_options import fake_least_dimensions, fake_modalities
from .manifest import read_manifest
from .names import ModelRef, resolve_model

_CLIP = frozenset({"text", "image"})


@dataclasses.dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about a model that are known without loading it.

    Attributes:
        dim: Values in a vector.
        modalities: The modalities that can be embedded: `text`, `image`, `audio`.
        preprocessing: How images are prepared; None without an image tower, or for a custom encoder or the fake.
        image_size: Side of the image crop in pixels; None without an image tower.
        context_length: The most tokens of a text by default, which a text tower may exceed; None without a text tower.
        parameters: Number of parameters; None if unknown.
        licence: Licence of the weights; None if unknown.
        least_dimensions: The fewest leading values of a vector that the model was trained to use alone (Matryoshka
            representation learning); None if it was trained for whole vectors only.
    """

    dim: int
    modalities: frozenset[str]
    preprocessing: Preprocessing | None = None
    image_size: int | None = None
    context_length: int | None = None
    parameters: int | None = None
    licence: str | None = None
    least_dimensions: int | None = None

    def __post_init__(self) -> None:
        """Check the sizes, which may be from a file."""
        for name in ("dim", "image_size", "context_length", "least_dimensions"):
            value = getattr(self, name)
            if not (value is None and name != "dim") and (type(value) is not int or value < 1):
                raise WeightsError(f"{name} is {value!r}; it must be an integer of at least 1")
        if self.least_dimensions is not None and self.least_dimensions > self.dim:
            raise WeightsError(f"least_dimensions is {self.least_dimensions}, and vectors have {self.dim} values")


@functools.lru_cache(maxsize=1024)
def facts_of(
    ref: ModelRef,
    cache_dir: str | None = None,
    base_image_processor: str | None = None,
    image_weights: str | None = None,
) -> ModelFacts:
    """Return the facts about a model without loading it; cached per process.

    The configuration of a hub repository is fetched. A `custom:` factory without attributes `dim` and `modalities` is
    called.

    Args:
        ref: The model.
        cache_dir: Folder for copies of a repository's files.
        base_image_processor: As in `EncoderSpec`.
        image_weights: As in `EncoderSpec`.

    Raises:
        WeightsError: If a file that is needed cannot be read or fetched, or a factory cannot be imported.
    """
    with description_errors(ref.name):
        match ref.family:
            case "hf-hub":
                return _hub_facts(ref, cache_dir)
            case "hf":
                return _hugging_face_facts(ref, cache_dir, base_image_processor)
            case "m-clip":
                return _mclip_facts(ref, image_weights)
            case "onnx":
                return _directory_facts(ref)
    return _FACTS[ref.family](ref)


def _open_clip_facts(ref: ModelRef) -> ModelFacts:
    facts = tables.architectures()[ref.architecture]
    preprocessing = ref.preprocessing()
    return ModelFacts(
        dim=facts["dim"],
        modalities=_CLIP,
        preprocessing=preprocessing,
        image_size=preprocessing.image_size,
        context_length=facts["context_length"],
        parameters=facts.get("parameters"),
        licence=None if ref.is_file else tables.licence_of(ref.architecture, ref.weights),
    )


def _hub_facts(ref: ModelRef, cache_dir: str | None) -> ModelFacts:
    from ..downloads.hub import fetch_config  # imports huggingface_hub, and needs the network once

    return _config_facts(fetch_config(ref.weights, cache_dir))


def _demo_facts(ref: ModelRef) -> ModelFacts:
    from ..demo import demo_config

    return dataclasses.replace(_config_facts(demo_config()), licence="Apache-2.0")


def _config_facts(config: dict[str, Any]) -> ModelFacts:
    """Return the facts in an `open_clip_config.json`."""
    model = config["model_cfg"]
    preprocessing = Preprocessing.of(model["vision_cfg"].get("image_size", 224), config.get("preprocess_cfg", {}))
    return ModelFacts(
        dim=model["embed_dim"],
        modalities=_CLIP,
        preprocessing=preprocessing,
        image_size=preprocessing.image_size,
        context_length=model["text_cfg"].get("context_length", 77),
    )


def _hugging_face_facts(ref: ModelRef, cache_dir: str | None, base_image_processor: str | None) -> ModelFacts:
    config = hugging_face.read_config(ref.weights, cache_dir)
    if isinstance(config, ClapConfig):
        return ModelFacts(config.dim, frozenset({"text", "audio"}), context_length=config.context_length)
    preprocessing = hugging_face.read_preprocessing(base_image_processor or ref.weights, config, cache_dir)
    return ModelFacts(
        dim=config.dim,
        modalities=_CLIP,
        preprocessing=preprocessing,
        image_size=preprocessing.image_size,
        context_length=config.max_tokens,
        least_dimensions=config.least_dimensions,
    )


def _mclip_facts(ref: ModelRef, image_weights: str | None) -> ModelFacts:
    image = resolve_model(mclip.image_model(ref.architecture, image_weights)).preprocessing()
    dim = mclip.MODELS[ref.architecture].dim
    return ModelFacts(dim, _CLIP, image, image.image_size, mclip.MAX_TEXT_TOKENS)


def _cn_clip_facts(ref: ModelRef) -> ModelFacts:
    preprocessing = Preprocessing(image_size=cn_clip.IMAGE_SIZE, resize_mode="squash")
    return ModelFacts(cn_clip.DIM, _CLIP, preprocessing, cn_clip.IMAGE_SIZE, cn_clip.MAX_TEXT_TOKENS, 76_989_537)


def _audioclip_facts(ref: ModelRef) -> ModelFacts:
    licence = None if ref.is_file else "MIT"
    return ModelFacts(1024, _CLIP | {"audio"}, Preprocessing(), 224, 77, 134_111_910, licence)


def _directory_facts(ref: ModelRef) -> ModelFacts:
    """Return the facts in the manifest of a directory of graphs, without reading the graphs."""
    folder = Path(ref.weights)
    manifest = read_manifest(folder)
    if manifest is None:
        return facts_of(exported.foreign_model(folder))
    image, text = manifest.get("image"), manifest.get("text")
    return ModelFacts(
        dim=manifest["dim"],
        modalities=frozenset(manifest["modalities"]),
        preprocessing=exported.preprocessing_of(image) if image else None,
        image_size=image["image_size"] if image else None,
        context_length=text["tokenizer"].get("max_tokens") if text else None,
        parameters=manifest.get("parameters"),
        licence=manifest.get("licence"),
        least_dimensions=manifest.get("least_dimensions"),
    )


def _custom_facts(ref: ModelRef) -> ModelFacts:
    factory = load_factory(ref)
    known = factory if hasattr(factory, "dim") and hasattr(factory, "modalities") else factory()
    least = getattr(known, "least_dimensions", None)
    return ModelFacts(dim=int(known.dim), modalities=frozenset(known.modalities), least_dimensions=least)


def load_factory(ref: ModelRef) -> Any:
    """Import the factory of a `custom:` name.

    Raises:
        WeightsError: If the module or the name in it does not exist.
    """
    module, _, factory = ref.weights.partition(":")
    try:
        return getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError) as err:
        raise WeightsError(f"{ref.name!r} could not be imported: {err}") from err


def _fake_facts(ref: ModelRef) -> ModelFacts:
    return ModelFacts(
        dim=int(ref.options.get("dim", 8)),
        modalities=fake_modalities(ref.options),
        image_size=16,
        context_length=77,
        least_dimensions=fake_least_dimensions(ref.options),
    )


_FACTS = {
    "open_clip": _open_clip_facts,
    "demo": _demo_facts,
    "audioclip": _audioclip_facts,
    "cn-clip": _cn_clip_facts,
    "custom": _custom_facts,
    "fake": _fake_facts,
}
"""By family, for those whose facts depend only on the name."""

KNOWN_BY_NAME = frozenset(_FACTS) - {"custom"} | {"m-clip"}
"""Families whose facts need neither a file nor a repository nor the user's code."""
