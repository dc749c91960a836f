"""CLAP: audio and texts in one space (Wu et al., ICASSP 2023), from directories and repositories of transformers."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import SpecError, WeightsError, require
from ...media.audio import require_audio
from ...messages import setting
from ..catalog.clap import ClapConfig, read_frontend
from ..downloads.model_files import find_first, find_weights, relevant_settings
from ..frontend import Frontend, TextFrontend
from ..source import ModelSource
from ..spec import EncoderSpec
from ..tokenizers.fast import FastTokenizer
from .scales import clap_scales
from .token_limit import token_limit

if TYPE_CHECKING:
    import torch

_TOKENIZER = "tokenizer.json"


def find_source(spec: EncoderSpec, config: ClapConfig) -> ModelSource:
    """Find audio settings, tokenizer and weights of a `ClapModel`, downloading files not in the cache.

    Args:
        spec: Of family `hf`.
        config: The model's configuration.

    Raises:
        MissingExtraError: If the libraries for audio are not installed.
        SpecError: If the limit of tokens exceeds the model's context, or an option is given that is for images.
        WeightsError: If something is not available, or not supported.
    """
    require_audio()
    if spec.base_image_processor is not None:
        raise SpecError(
            setting("base_image_processor", spec.base_image_processor) + f": {spec.model} reads no images",
            hint="leave it out",
        )
    limit = token_limit(spec, config.context_length, config.context_length)
    place = spec.ref.weights
    audio = read_frontend(place, config, spec.cache_dir)
    tokenizer = _find_tokenizer(spec.base_tokenizer or place, config, limit, spec.cache_dir)
    files = find_weights(place, spec.cache_dir)
    settings = relevant_settings(config.values)
    return ModelSource(
        Frontend(config.dim, text=TextFrontend(tokenizer, masked=True), audio=audio),
        files,
        functools.partial(_build, settings, config.where, files),
        {"transformers": settings},
        {"base_tokenizer": spec.base_tokenizer} if spec.base_tokenizer else {},
        scales=functools.partial(clap_scales, files),
    )


def _find_tokenizer(place: str, config: ClapConfig, limit: int, cache_dir: str | None) -> FastTokenizer:
    path = find_first(place, (_TOKENIZER,), cache_dir)
    if path is None:
        raise WeightsError(
            f"no {_TOKENIZER} in {place!r}",
            hint="name a repository or directory that has one with " + setting("base_tokenizer", ...),
        )
    return FastTokenizer.of_file(path, config.context_length, config.pad_id, max_tokens=limit)


def _build(settings: dict[str, Any], where: str, files: tuple[Path, ...]) -> dict[str, torch.nn.Module]:
    require("transformers", "hf", "a Hugging Face model")
    from .clap_build import build  # imports torch and transformers, which cached graphs do not need

    return build(settings, where, files)
