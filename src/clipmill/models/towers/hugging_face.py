"""A Hugging Face `CLIPModel` from a repository or directory, with its configuration, tokenizer and preprocessing."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import SpecError, WeightsError, require
from ...messages import setting
from ..catalog.hugging_face import describe
from ..downloads.model_files import find_first, find_weights, read_json
from ..frontend import Frontend, TextFrontend
from ..source import ModelSource
from ..spec import EncoderSpec
from ..tokenizers.fast import FastTokenizer
from .scales import clip_scales

if TYPE_CHECKING:
    import torch

_VOCABULARY, _MERGES = "vocab.json", "merges.txt"
_IRRELEVANT = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
"""Entries of a configuration that do not affect a float32 model."""


def find_source(spec: EncoderSpec) -> ModelSource:
    """Find configuration, preprocessing, tokenizer and weights of a `CLIPModel`, downloading files not in the cache.

    Args:
        spec: Of family `hf`.

    Raises:
        WeightsError: If something is not available, or is of another kind.
        SpecError: If the limit of tokens exceeds the model's context.
    """
    place = spec.ref.weights
    config, preprocessing = describe(spec.ref, spec.cache_dir, spec.base_image_processor)
    limit = spec.max_text_tokens or config.context_length
    if limit > config.context_length:
        raise SpecError(setting("max_text_tokens", limit) + f": {spec.model} reads at most {config.context_length}")
    tokenizer = find_tokenizer(spec.base_tokenizer or place, config.context_length, limit, spec.cache_dir)
    files = find_weights(place, spec.cache_dir)
    settings = _relevant(config.values)
    borrowed = {name: getattr(spec, name) for name in ("base_tokenizer", "base_image_processor")}
    return ModelSource(
        Frontend(config.dim, image=preprocessing, text=TextFrontend(tokenizer)),
        files,
        functools.partial(_build, settings, config.where, files),
        {"transformers": settings},
        {name: value for name, value in borrowed.items() if value},
        scales=functools.partial(clip_scales, files),
    )


def find_tokenizer(place: str, context_length: int, limit: int, cache_dir: str | None) -> FastTokenizer:
    """Return the tokenizer of a CLIP model's place.

    Rows are padded with id 0, whatever the tokenizer's padding: the text tower is causal, and 0 is never mistaken for
    the end of a text, which is at the greatest id or the first end token.

    Args:
        place: Directory or repository.
        context_length: The most ids of one text that the tower reads.
        limit: Texts are cut to this many ids.
        cache_dir: Folder for copies of a repository's files.

    Raises:
        WeightsError: If there is none, or it cuts texts on the left.
    """
    path = find_first(place, ("tokenizer.json", _VOCABULARY), cache_dir)
    merges = find_first(place, (_MERGES,), cache_dir) if path is not None and path.name == _VOCABULARY else None
    if path is None or (path.name == _VOCABULARY and merges is None):
        raise WeightsError(
            f"no tokenizer in {place!r}: looked for tokenizer.json, and for {_VOCABULARY} with {_MERGES}",
            hint="name a repository or directory that has one with "
            + setting("base_tokenizer", ...)
            + " (for OpenAI's models: 'openai/clip-vit-base-patch32')",
        )
    _check_settings(place, cache_dir)
    definition = path.read_text(encoding="utf-8") if merges is None else _definition(str(path), str(merges))
    return FastTokenizer(definition, context_length, 0, max_tokens=limit)


def _check_settings(place: str, cache_dir: str | None) -> None:
    try:
        path = find_first(place, ("tokenizer_config.json",), cache_dir)
    except WeightsError:  # offline and not in the cache: the file is optional
        return
    if path is not None and read_json(path).get("truncation_side", "right") != "right":
        raise WeightsError(f"{str(path)!r} cuts long texts on the left (truncation_side); it must be 'right'")


def _definition(vocabulary: str, merges: str) -> str:
    """Return the `tokenizer.json` that transformers makes from CLIP's two older files."""
    transformers = require("transformers", "hf", "a tokenizer in vocab.json and merges.txt")
    try:
        return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges).backend_tokenizer.to_str()
    except Exception as err:  # the Rust library raises bare Exceptions
        raise WeightsError(f"no tokenizer can be made from {vocabulary!r} and {merges!r}: {err}") from err


def _relevant(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _relevant(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if name not in _IRRELEVANT
    }


def _build(settings: dict[str, Any], where: str, files: tuple[Path, ...]) -> dict[str, torch.nn.Module]:
    require("transformers", "hf", "a Hugging Face model")
    from .hugging_face_build import build  # imports torch and transformers, which cached graphs do not need

    return build(settings, where, files)
