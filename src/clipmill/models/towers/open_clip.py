"""Models of open_clip: published weights by tag, a user's file, a hub repository, or the demo inside the package.

Each has a configuration, its preprocessing and tokenizer, and one file of weights that must fit it exactly.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from pathlib import Path
from typing import Any

from ...errors import WeightsError
from ...media.options import Preprocessing
from ..catalog import ModelRef, tables
from ..catalog.backbones import BACKBONES, KINDS
from ..catalog.manifest import read_manifest
from ..demo import WEIGHTS, demo_config, demo_directory
from ..downloads import elsewhere, hub
from ..downloads.copies import place_of
from ..downloads.model_files import CONFIG, read_json, without_code
from ..downloads.urls import fetch_url, find_copy, local_file
from ..frontend import Frontend, TextFrontend, Tokenizer
from ..source import Graphs, ModelSource
from ..spec import EncoderSpec
from ..tokenizers.clip_bpe import ClipTokenizer
from ..weight_files import is_torchscript
from .scales import clip_biases, clip_scales
from .token_limit import token_limit

_log = logging.getLogger("clipmill")

CONTEXT_LENGTH = 77
"""open_clip's default for configurations without it."""

DEMO_PRECISION = "fp32"
"""The meaning of `auto` for the demo model. The vectors of its drawings are so close that bfloat16, with cosines of
0.9999, keeps only 98 to 99 of 100 nearest neighbours (`benchmarks/recall.py`); float32 is fast enough."""


def find_source(spec: EncoderSpec) -> ModelSource:
    """Find configuration, preprocessing, tokenizer and weights of a model, downloading files that are not cached.

    Args:
        spec: Of family `open_clip`, `hf-hub` or `demo`.

    Raises:
        WeightsError: If something is not available.
        SpecError: If the limit of tokens exceeds the model's context.
    """
    ref = spec.ref
    if ref.family == "open_clip":
        return _published(ref, spec)
    if ref.family == "demo":
        config = demo_config()
        weights = demo_directory(spec.cache_dir) / WEIGHTS
    else:
        config = hub.fetch_config(ref.weights, spec.cache_dir)
        weights = hub.fetch_weights(ref.weights, spec.cache_dir)
    model = config["model_cfg"]
    if ":" in (tower := str(model["vision_cfg"].get("timm_model_name", ""))):
        raise WeightsError(f"{spec.model} has the image tower {tower!r}; it must be an architecture of timm")
    preprocessing = Preprocessing.of(model["vision_cfg"].get("image_size", 224), config.get("preprocess_cfg", {}))
    source = _source(model["embed_dim"], preprocessing, model["text_cfg"], weights, spec, {"config": model})
    if ref.family == "demo":
        return dataclasses.replace(source, auto_precision=DEMO_PRECISION, float_graphs=_graphs_beside(weights))
    return source


def _graphs_beside(weights: Path) -> Graphs | None:
    """Return the graphs in a folder that `clipmill export` wrote; None if there are none."""
    manifest = read_manifest(weights.parent)
    return None if manifest is None else Graphs(weights.parent, manifest["graphs"])


def find_image_source(spec: EncoderSpec) -> ModelSource:
    """Like `find_source`, for the image tower only: without a tokenizer.

    Args:
        spec: Of family `open_clip`.

    Raises:
        WeightsError: If something is not available.
    """
    return _published(spec.ref, spec, texts=False)


def _published(ref: ModelRef, spec: EncoderSpec, *, texts: bool = True) -> ModelSource:
    facts = tables.architectures()[ref.architecture]
    weights = local_file(ref.weights, spec.cache_dir) if ref.is_file else download(ref, spec.cache_dir)
    quick_gelu = bool(ref.quick_gelu) or (ref.is_file and weights.is_file() and is_torchscript(weights))
    settings = {"architecture": ref.architecture, "quick_gelu": quick_gelu}
    text = {"context_length": facts["context_length"], **facts.get("text", {})}
    return _source(facts["dim"], ref.preprocessing(), text if texts else None, weights, spec, settings)


def _source(
    dim: int,
    preprocessing: Preprocessing,
    text: dict[str, Any] | None,
    weights: Path,
    spec: EncoderSpec,
    settings: dict[str, Any],
) -> ModelSource:
    learnt: Any = {
        "scales": functools.partial(clip_scales, (weights,)),
        "biases": functools.partial(clip_biases, (weights,)),
    }
    if text is None:
        frontend = Frontend(dim, image=preprocessing)
        return ModelSource(frontend, (weights,), functools.partial(_build, settings, weights), settings, **learnt)
    tokenizer = make_tokenizer(text, spec)
    if name := text.get("hf_model_name"):
        settings = {**settings, "backbone": find_backbone(name, spec.cache_dir)}
        if tokenizer.pad_id != settings["backbone"]["pad_token_id"]:
            raise WeightsError(
                f"{spec.model} pads with id {tokenizer.pad_id}, but its text tower {name!r} ignores"
                f" {settings['backbone']['pad_token_id']}"
            )
    frontend = Frontend(dim, image=preprocessing, text=TextFrontend(tokenizer, fixed_length=depends_on_padding(text)))
    return ModelSource(frontend, (weights,), functools.partial(_build, settings, weights), settings, **learnt)


def _build(settings: dict[str, Any], weights: Path) -> dict[str, Any]:
    from .open_clip_build import build  # imports torch and open_clip, which cached graphs do not need

    return build(settings, weights)


def depends_on_padding(text: dict[str, Any]) -> bool:
    """Return whether a text tower's vectors depend on the padding after a text.

    They do not in causal towers that pool the end token, nor in those of Hugging Face, which mask the padding. CoCa
    appends a token after the padding; the others (SigLIP, CLIPA, MobileCLIP) attend to it.

    Args:
        text: open_clip's `text_cfg`, or the part of it in the catalog.
    """
    if "hf_model_name" in text:
        return False
    is_causal = not text.get("no_causal_mask") and not text.get("embed_cls")
    return not (is_causal and text.get("pool_type", "argmax") in ("argmax", "eos"))


def download(ref: ModelRef, cache_dir: str | None) -> Path:
    """Return the local copy of published weights, downloading them if there is none.

    A copy from any program is used. Otherwise they are downloaded from the hub, or from the publisher's URL if the hub
    cannot be reached.

    Args:
        ref: Of family `open_clip`, with a tag.
        cache_dir: As in `EncoderSpec`.

    Raises:
        WeightsError: If they cannot be downloaded.
    """
    facts = tables.weights()[ref.architecture][ref.weights]
    url, sha256 = facts.get("url", ""), facts.get("sha256")
    repository, _, filename = facts.get("hub", "").rpartition("/")
    if found := _find_local(ref, cache_dir):
        return found
    if not repository:
        return fetch_url(url, sha256=sha256, cache_dir=cache_dir)
    try:
        return hub.fetch_file(repository, filename, cache_dir) if filename else hub.fetch_weights(repository, cache_dir)
    except WeightsError as err:
        if not url:
            raise
        _log.warning("%s; trying %s", err, url)
        try:
            return fetch_url(url, sha256=sha256, cache_dir=cache_dir)
        except WeightsError as second:
            raise WeightsError(f"the weights of {ref.name}: {err}; {second}") from err


def _find_local(ref: ModelRef, cache_dir: str | None) -> Path | None:
    """Return a local copy of published weights, downloaded by any program; None if there is none."""
    facts = tables.weights()[ref.architecture][ref.weights]
    repository, _, filename = facts.get("hub", "").rpartition("/")
    if repository:
        found = hub.find_file(repository, filename, cache_dir) if filename else hub.find_weights(repository, cache_dir)
        if found:
            return found
    if url := facts.get("url"):
        place = place_of(url, cache_dir)
        if found := find_copy([place, *elsewhere.places_of(place.name)], facts.get("sha256")):
            return found
    return elsewhere.clip_as_service_copy(ref.architecture, ref.weights)


def find_backbone(name: str, cache_dir: str | None) -> dict[str, Any]:
    """Return the configuration of a Hugging Face text tower: from our table, else from its repository.

    Args:
        name: The value of `hf_model_name` in open_clip.
        cache_dir: As in `EncoderSpec`.

    Raises:
        WeightsError: If it is not available, or open_clip does not support its kind.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    config = read_json(hub.fetch_file(name, CONFIG, cache_dir))
    if config.get("model_type") not in KINDS:
        raise WeightsError(f"the text tower {name!r} is a {config.get('model_type')!r}; allowed: {', '.join(KINDS)}")
    return without_code(config)


def make_tokenizer(text: dict[str, Any], spec: EncoderSpec) -> Tokenizer:
    """Return the tokenizer of a text tower: CLIP's, or that of the repository in the configuration.

    Args:
        text: open_clip's `text_cfg`, or the part of it in the catalog.
        spec: Has the cache folder and the limit of tokens.

    Raises:
        WeightsError: If it is not available.
        SpecError: If the limit of tokens exceeds the model's context.
    """
    context = int(text.get("context_length") or CONTEXT_LENGTH)
    limit = token_limit(spec, context, context)
    options = text.get("tokenizer_kwargs") or {}
    if text.get("tokenizer_mode"):
        raise WeightsError(f"{spec.model} needs the tokenizer_mode {text['tokenizer_mode']!r}, which is not supported")
    if repository := text.get("hf_tokenizer_name"):
        from ..tokenizers.repository import fetch_tokenizer

        return fetch_tokenizer(repository, context, options, max_tokens=limit, cache_dir=spec.cache_dir)
    if options:
        raise WeightsError(f"{spec.model} sets {', '.join(options)} for CLIP's tokenizer, which is not supported")
    return ClipTokenizer(context, max_tokens=limit)
