"""Models of open_clip: published weights by tag, a file of one's own, a hub repository, the demo inside the package.

All take one path: a configuration, its preprocessing and tokenizer, and one file of weights that must fit it exactly.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from ..catalog import ModelRef, tables
from ..catalog.names import demo_directory
from ..catalog.tables import Preprocessing
from ..frontend import Frontend, TextFrontend, Tokenizer
from ..spec import EncoderSpec
from ..tokenizers.clip_bpe import ClipTokenizer
from . import hub
from .files import is_torchscript
from .source import Source


def find_source(spec: EncoderSpec) -> Source:
    """Find configuration, preprocessing and weights of a model, downloading what is not here yet.

    Args:
        spec: Of family `open_clip`, `hf-hub` or `demo`.

    Raises:
        WeightsError: If something cannot be had.
    """
    ref = spec.ref
    if ref.family == "open_clip":
        return _published(ref, spec)
    if ref.family == "demo":
        directory = demo_directory()
        config = json.loads((directory / hub.CONFIG_FILE).read_text(encoding="utf-8"))
        weights, tokenizer = directory / hub.WEIGHT_FILES[0], f"local-dir:{directory}"
    else:
        config = hub.fetch_config(ref.weights, spec.cache_dir)
        weights, tokenizer = hub.fetch_weights(ref.weights, spec.cache_dir), f"hf-hub:{ref.weights}"
    model = config["model_cfg"]
    preprocessing = Preprocessing.of(model["vision_cfg"].get("image_size", 224), config.get("preprocess_cfg", {}))
    return _source(model["embed_dim"], preprocessing, model["text_cfg"], tokenizer, weights, spec, {"config": model})


def _published(ref: ModelRef, spec: EncoderSpec) -> Source:
    facts = tables.architectures()[ref.architecture]
    weights = Path(ref.weights) if ref.is_file else download(ref, spec.cache_dir)
    quick_gelu = bool(ref.quick_gelu) or (ref.is_file and weights.is_file() and is_torchscript(weights))
    settings = {"architecture": ref.architecture, "quick_gelu": quick_gelu}
    text = {"context_length": facts["context_length"], **facts.get("text", {})}
    return _source(facts["dim"], ref.preprocessing(), text, ref.architecture, weights, spec, settings)


def _source(
    dim: int,
    preprocessing: Preprocessing,
    text: dict[str, Any],
    tokenizer_name: str,
    weights: Path,
    spec: EncoderSpec,
    settings: dict[str, Any],
) -> Source:
    tokenizer = make_tokenizer(text, tokenizer_name, spec)
    frontend = Frontend(dim, image=preprocessing, text=TextFrontend(tokenizer, fixed_length=depends_on_padding(text)))
    return Source(frontend, (weights,), functools.partial(_build, settings, weights), settings)


def _build(settings: dict[str, Any], weights: Path) -> dict[str, Any]:
    from .open_clip_build import build  # torch and open_clip, which graphs made earlier do not need

    return build(settings, weights)


def depends_on_padding(text: dict[str, Any]) -> bool:
    """Tell whether a text tower's vectors depend on the padding behind a text.

    Those that look only backwards and take the vector of the end token do not, nor those of Hugging Face, which mask
    it. CoCa appends a token behind the padding; the rest (SigLIP, CLIPA, MobileCLIP) look at it.

    Args:
        text: open_clip's `text_cfg`, or what the catalog keeps of it.
    """
    if "hf_model_name" in text:
        return False
    backwards = not text.get("no_causal_mask") and not text.get("embed_cls")
    return not (backwards and text.get("pool_type", "argmax") in ("argmax", "eos"))


def download(ref: ModelRef, cache_dir: str | None) -> Path:
    """Return the local copy of published weights, from the catalog's places."""
    import open_clip

    from ..errors import WeightsError

    config = open_clip.get_pretrained_cfg(ref.architecture, ref.weights)
    if config is None:
        raise WeightsError(f"the installed open_clip {open_clip.__version__} does not know {ref.name}; upgrade it")
    repository, _, filename = str(config.get("hf_hub", "")).rpartition("/")
    if repository:
        if filename:
            return hub.fetch_file(repository, filename, cache_dir)
        return hub.fetch_weights(repository, cache_dir)
    try:
        return Path(open_clip.download_pretrained(config, cache_dir=cache_dir))
    except Exception as err:  # urllib's and open_clip's own errors: all mean that the file is not here
        raise WeightsError(f"the weights of {ref.name} could not be fetched from {config.get('url')}: {err}") from err


def make_tokenizer(text: dict[str, Any], name: str, spec: EncoderSpec) -> Tokenizer:
    """Return the tokenizer of a text tower: CLIP's own, or the hub's that the configuration names.

    Args:
        text: open_clip's `text_cfg`, or what the catalog keeps of it.
        name: What open_clip calls the model, for tokenizers that it knows better.
        spec: Whose cache holds copies.
    """
    by_name = "siglip" in name.lower() and ":" not in name
    if not text.get("hf_tokenizer_name") and not by_name and not text.get("tokenizer_kwargs"):
        return ClipTokenizer(text.get("context_length", 77))
    from ..errors import WeightsError
    from ..tokenizers.hub import HubTokenizer

    try:
        import open_clip

        return HubTokenizer(open_clip.get_tokenizer(name, cache_dir=spec.cache_dir))
    except Exception as err:
        raise WeightsError(f"the tokenizer of {name!r} could not be loaded: {err}") from err
