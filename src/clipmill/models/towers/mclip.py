"""Multilingual-CLIP: a multilingual text tower, and the CLIP image tower whose space it was trained to match."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import WeightsError, require
from ..catalog import mclip
from ..downloads.model_files import CONFIG, find_file, find_first, find_weights, read_json
from ..frontend import Frontend, TextFrontend
from ..source import ModelSource
from ..spec import EncoderSpec
from ..tokenizers.fast import FastTokenizer
from . import open_clip
from .token_limit import token_limit

if TYPE_CHECKING:
    import torch


def find_source(spec: EncoderSpec) -> ModelSource:
    """Find both towers of an M-CLIP model, downloading files that are not cached.

    Args:
        spec: Of family `m-clip`; `image_weights` selects the image tower.

    Raises:
        WeightsError: If something is not available, or belongs to another model.
        SpecError: If the limit of tokens exceeds the text tower's context.
    """
    ref = spec.ref
    model, place = mclip.MODELS[ref.architecture], ref.weights or ref.architecture
    longest = mclip.longest_text(model.base)
    limit = token_limit(spec, mclip.MAX_TEXT_TOKENS, longest)
    _check_config(read_json(find_file(place, CONFIG, spec.cache_dir)), model.base, place)
    text_files = find_weights(place, spec.cache_dir)
    tokenizer = _find_tokenizer(place, model.base, longest, limit, spec.cache_dir)
    image_name = mclip.image_model(ref.architecture, spec.image_weights)
    others = {"image_weights": None, "max_text_tokens": None, "dimensions": None, "force_dimensions": False}
    image_spec = dataclasses.replace(spec, model=image_name, **others)  # type: ignore[arg-type]
    image = open_clip.find_image_source(image_spec)
    return ModelSource(
        Frontend(model.dim, image=image.frontend.image, text=TextFrontend(tokenizer, masked=True)),
        (*text_files, *image.files),
        functools.partial(_build, mclip.BASES[model.base], model.dim, text_files, image.build),
        {"text": {"base": mclip.BASES[model.base], "dim": model.dim}, "image": dict(image.settings)},
        {"image_tower": image_name},
        scales=image.scales,  # the text tower was trained to match that of this CLIP model
        biases=image.biases,
    )


def _check_config(config: Mapping[str, Any], base: str, place: str) -> None:
    """Refuse a directory with another model's text tower. Sizes are checked against the weights, not this file."""
    named = config.get("modelBase")
    if not isinstance(named, str):
        raise WeightsError(
            f"{CONFIG} in {place!r} has no 'modelBase' (model_type {config.get('model_type')!r}): not the text tower of"
            " an M-CLIP model"
        )
    if named.rpartition("/")[2].lower() != base:
        raise WeightsError(f"{CONFIG} in {place!r} has the base {named!r}, but the model needs {base!r}")


def _find_tokenizer(place: str, base: str, longest: int, limit: int, cache_dir: str | None) -> FastTokenizer:
    path = find_first(place, ("tokenizer.json",), cache_dir)
    if path is None:
        raise WeightsError(
            f"no tokenizer.json in {place!r}; transformers makes one from sentencepiece.bpe.model or vocab.txt:"
            " AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )
    return FastTokenizer.of_file(path, longest, int(mclip.BASES[base]["pad_token_id"]), max_tokens=limit)


def _build(
    base: dict[str, Any],
    dim: int,
    text_files: tuple[Path, ...],
    build_image: Callable[[], Mapping[str, torch.nn.Module]],
) -> dict[str, torch.nn.Module]:
    require("transformers", "hf", "M-CLIP")
    from .mclip_build import build_text, image_tower

    return {"image": image_tower(build_image()), "text": build_text(base, dim, text_files)}
