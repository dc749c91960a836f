"""A model of Hugging Face from a repository or directory, with its configuration, tokenizer and preprocessing."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import require
from ..catalog.clap import ClapConfig
from ..catalog.hugging_face import read_config, read_preprocessing
from ..catalog.hugging_face_kinds import Kind
from ..downloads.model_files import find_weights, relevant_settings
from ..frontend import Frontend, TextFrontend
from ..source import ModelSource
from ..spec import EncoderSpec
from ..tokenizers.hugging_face import find_tokenizer
from . import clap
from .scales import clip_biases, clip_scales
from .token_limit import token_limit

if TYPE_CHECKING:
    import torch


def find_source(spec: EncoderSpec) -> ModelSource:
    """Find configuration, preprocessing, tokenizer and weights of a model, downloading files not in the cache.

    Args:
        spec: Of family `hf`.

    Raises:
        WeightsError: If something is not available, or is of another kind.
        SpecError: If the limit of tokens exceeds the model's context.
    """
    place = spec.ref.weights
    config = read_config(place, spec.cache_dir)
    if isinstance(config, ClapConfig):
        return clap.find_source(spec, config)
    preprocessing = read_preprocessing(spec.base_image_processor or place, config, spec.cache_dir)
    limit = token_limit(spec, config.max_tokens, config.context_length)
    tokenizer = find_tokenizer(spec.base_tokenizer or place, config, limit, spec.cache_dir)
    padding = config.kind.padding
    text = TextFrontend(tokenizer, fixed_length=padding == "whole", masked=padding == "masked")
    files = find_weights(place, spec.cache_dir)
    settings = relevant_settings(config.values)
    borrowed = {name: getattr(spec, name) for name in ("base_tokenizer", "base_image_processor")}
    return ModelSource(
        Frontend(config.dim, image=preprocessing, text=text),
        files,
        functools.partial(_build, config.kind, settings, config.where, files),
        {"transformers": settings},
        {name: value for name, value in borrowed.items() if value},
        scales=functools.partial(clip_scales, files),
        biases=functools.partial(clip_biases, files),
    )


def _build(kind: Kind, settings: dict[str, Any], where: str, files: tuple[Path, ...]) -> dict[str, torch.nn.Module]:
    if kind.is_own:
        from . import jina_clip_build

        return jina_clip_build.build(settings, where, files)
    require("transformers", "hf", "a Hugging Face model")
    from .hugging_face_build import build  # imports torch and transformers, which cached graphs do not need

    return build(kind, settings, where, files)
