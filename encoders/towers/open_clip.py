"""Models of open_clip: published weights by tag, a file of one's own, a hub repository, the demo inside the package.

All take one path: an architecture, its activation and preprocessing, and one file of weights that must fit it exactly.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import load_checkpoint

from ..catalog import ModelRef
from ..catalog.names import demo_directory
from ..catalog.tables import Preprocessing
from ..errors import WeightsError
from ..model import ClipModel, Tokenizer
from ..runtimes.pytorch import TorchRuntime
from ..spec import EncoderSpec
from ..tokenizers.clip_bpe import ClipTokenizer
from ..tokenizers.hub import HubTokenizer
from . import hub
from .weights import is_torchscript, read_weights, sha256_of


@dataclasses.dataclass(frozen=True)
class Source:
    """Everything that makes one model.

    Attributes:
        config: open_clip's `model_cfg`.
        preprocessing: How images are prepared.
        weights: The file.
        tokenizer_name: What `open_clip.get_tokenizer` calls the model, for text towers with a tokenizer of their own.
    """

    config: dict[str, Any]
    preprocessing: Preprocessing
    weights: Path
    tokenizer_name: str


def load(spec: EncoderSpec, device: str) -> ClipModel:
    """Load the model that a spec names.

    Args:
        spec: Of family `open_clip`, `hf-hub` or `demo`.
        device: `cpu` or `cuda:X`.

    Raises:
        WeightsError: If the weights cannot be had, read, or do not fit. Random weights are never run.
    """
    source = find_source(spec.ref, spec.cache_dir)
    module = build_module(source.config)
    fit_weights(module, source.weights)
    return ClipModel(
        dim=source.config["embed_dim"],
        preprocessing=source.preprocessing,
        tokenizer=make_tokenizer(source, spec.cache_dir),
        runtime=TorchRuntime(module, source.preprocessing, device),
        weights_sha256=sha256_of(source.weights),
    )


def find_source(ref: ModelRef, cache_dir: str | None) -> Source:
    """Find configuration, preprocessing and weights, downloading what is not here yet."""
    if ref.family == "demo":
        return _directory_source(demo_directory())
    if ref.family == "hf-hub":
        config = hub.fetch_config(ref.weights, cache_dir)
        weights = hub.fetch_weights(ref.weights, cache_dir)
        return _config_source(config, weights, f"hf-hub:{ref.weights}")
    config = copy.deepcopy(open_clip.get_model_config(ref.architecture))
    weights = Path(ref.weights) if ref.is_file else download(ref, cache_dir)
    config["quick_gelu"] = bool(ref.quick_gelu) or (ref.is_file and weights.is_file() and is_torchscript(weights))
    return Source(config, ref.preprocessing(), weights, ref.architecture)


def _directory_source(directory: Path) -> Source:
    config = json.loads((directory / hub.CONFIG_FILE).read_text(encoding="utf-8"))
    return _config_source(config, directory / hub.WEIGHT_FILES[0], f"local-dir:{directory}")


def _config_source(config: dict[str, Any], weights: Path, tokenizer_name: str) -> Source:
    model = config["model_cfg"]
    preprocessing = Preprocessing.of(model["vision_cfg"].get("image_size", 224), config.get("preprocess_cfg", {}))
    return Source(model, preprocessing, weights, tokenizer_name)


def download(ref: ModelRef, cache_dir: str | None) -> Path:
    """Return the local copy of published weights, through open_clip's own table of places."""
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


def build_module(config: dict[str, Any]) -> torch.nn.Module:
    """Build an architecture; its values are whatever torch puts there, until `fit_weights`."""
    config = copy.deepcopy(config)
    text, vision = config["text_cfg"], config["vision_cfg"]
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    custom_text = config.pop("custom_text", False) or "hf_model_name" in text
    if "multimodal_cfg" in config:
        return open_clip.CoCa(**config)
    return open_clip.CustomTextCLIP(**config) if custom_text else open_clip.CLIP(**config)


def fit_weights(module: torch.nn.Module, path: Path) -> None:
    """Load weights into a module, strictly: every name and shape must agree.

    Raises:
        WeightsError: If they do not, with the first names that are off.
    """
    state = read_weights(path)
    try:
        if any(name.startswith("image_encoder.") for name in state):
            load_checkpoint(module, str(path))  # MobileCLIP's own names: open_clip converts them
            return
        state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        _reshape(module, state)
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as err:
        raise WeightsError(f"{str(path)!r} does not fit the architecture: {str(err)[:600]}") from err
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    unexpected = [name for name in unexpected if not name.endswith("position_ids")]
    if missing or unexpected:
        raise WeightsError(
            f"{str(path)!r} does not fit the architecture: {len(missing)} names missing {missing[:3]},"
            f" {len(unexpected)} unexpected {unexpected[:3]}"
        )


def _reshape(module: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Bring scalars of older files, shape (1,), to the module's shape ()."""
    own = module.state_dict()
    for name in ("logit_scale", "logit_bias"):
        if name in state and name in own and state[name].ndim != own[name].ndim:
            state[name] = state[name].reshape(own[name].shape)


def make_tokenizer(source: Source, cache_dir: str | None) -> Tokenizer:
    """Return the tokenizer of a text tower: CLIP's own, or the hub's that the configuration names."""
    text = source.config["text_cfg"]
    by_name = "siglip" in source.tokenizer_name.lower() and ":" not in source.tokenizer_name
    if not text.get("hf_tokenizer_name") and not by_name and not text.get("tokenizer_kwargs"):
        return ClipTokenizer(text.get("context_length", 77))
    try:
        return HubTokenizer(open_clip.get_tokenizer(source.tokenizer_name, cache_dir=cache_dir))
    except Exception as err:
        raise WeightsError(f"the tokenizer of {source.tokenizer_name!r} could not be loaded: {err}") from err
