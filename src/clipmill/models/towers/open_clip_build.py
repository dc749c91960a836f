"""Build the networks of open_clip, and wrap each tower as a module that every runtime can execute."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from ...errors import ClipmillError, WeightsError, require
from .open_clip_names import (
    CLIP,
    CoCa,
    CustomTextCLIP,
    TextTransformer,
    convert_state_dict,
    get_model_config,
    text_global_pool,
)
from .weights import empty_parameters, fit_weights, read_weights


def build(settings: dict[str, Any], weights: Path) -> dict[str, torch.nn.Module]:
    """Build a model and return its towers; see `ModelSource.build`.

    Args:
        settings: `config` (open_clip's `model_cfg`), or `architecture` and `quick_gelu`; and `backbone`, the
            configuration of a Hugging Face text tower, if it has one.
        weights: The file.

    Raises:
        WeightsError: If the weights cannot be read or do not fit. Random weights are never used.
        MissingExtraError: If the text tower is from Hugging Face, and transformers is not installed.
    """
    config = settings.get("config")
    if config is None:
        config = {**get_model_config(settings["architecture"]), "quick_gelu": settings["quick_gelu"]}
    state = read_weights(weights)
    try:
        module = build_unfilled(config, settings.get("backbone"))
    except (ClipmillError, MemoryError):
        raise
    except Exception as err:  # the library checks a configuration with exceptions of many kinds
        raise WeightsError(f"open_clip cannot build the architecture of {str(weights)!r}: {err}") from err
    if any(name.startswith("image_encoder.") for name in state):
        state = convert_state_dict(module, state)  # with MobileCLIP's original names
    fit_weights(module, state, weights)
    return towers_of(module)


def build_unfilled(config: dict[str, Any], backbone: dict[str, Any] | None = None) -> torch.nn.Module:
    """Build an architecture for `fit_weights`, like `build_module`, but without memory for its values if possible.

    Some of timm's constructors run their first layers to infer shapes, or derive a table from a parameter's device.
    Those architectures (ViTamin, MobileCLIP-B, Swin) are built with real values, which the weights then replace.
    """
    try:
        with empty_parameters():
            module = build_module(config, backbone)
        if not any(buffer.is_meta for buffer in module.buffers()):
            return module
    except RuntimeError as err:
        if "meta" not in str(err):
            raise
    return build_module(config, backbone)


def build_module(config: dict[str, Any], backbone: dict[str, Any] | None = None) -> torch.nn.Module:
    """Build an architecture; its values are torch's defaults.

    Args:
        config: open_clip's `model_cfg`.
        backbone: The configuration of its Hugging Face text tower, if it has one; nothing is downloaded.

    Raises:
        MissingExtraError: If there is a backbone, and transformers is not installed.
    """
    config = copy.deepcopy(config)
    text, vision = config["text_cfg"], config["vision_cfg"]
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    custom_text = config.pop("custom_text", False) or "hf_model_name" in text
    network = CoCa if "multimodal_cfg" in config else _CLASSES[custom_text]
    if backbone is None:
        return network(**config)
    require("transformers", "hf", f"the text tower {text['hf_model_name']!r}")
    with tempfile.TemporaryDirectory(prefix="clipmill-") as folder:
        Path(folder, "config.json").write_text(json.dumps(backbone), encoding="utf-8")
        text |= {"hf_model_name": folder, "hf_model_pretrained": False}
        return network(**config)


_CLASSES: dict[bool, Any] = {False: CLIP, True: CustomTextCLIP}
"""By whether the text tower is a separate module."""


def towers_of(module: Any) -> dict[str, torch.nn.Module]:
    """Return the towers of an open_clip model."""
    core = getattr(module, "text", module)
    is_plain = isinstance(module, CLIP) or (isinstance(core, TextTransformer) and core.cls_emb is None)
    text = OpenClipTextTower(core) if is_plain else _Method(module, "encode_text")
    return {"image": _Method(module, "encode_image"), "text": text}


class _Method(torch.nn.Module):
    """A module that calls one method of a model."""

    def __init__(self, module: torch.nn.Module, method: str) -> None:
        super().__init__()
        self.module = module
        self._method = method

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return getattr(self.module, self._method)(values)


class OpenClipTextTower(torch.nn.Module):
    """A text tower of open_clip that takes rows of any length up to the context.

    open_clip's own adds the positions of the whole context. This one adds only those of the given ids, which makes no
    difference if nothing comes after them.
    """

    def __init__(self, core: Any) -> None:
        """Wrap a text tower.

        Args:
            core: An `open_clip.CLIP`, or the `TextTransformer` of a model with a separate text tower.
        """
        super().__init__()
        self.core = core
        self._pool = getattr(core, "text_pool_type", None) or getattr(core, "pool_type", "argmax")
        self._eos = getattr(core, "text_eos_id", None) or getattr(core, "eos_id", None)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed (n, length) int64 ids; return (n, dim)."""
        core, length = self.core, ids.shape[1]
        values = core.token_embedding(ids) + core.positional_embedding[:length]
        mask = None if core.attn_mask is None else core.attn_mask[:length, :length]
        values = core.ln_final(core.transformer(values, attn_mask=mask))
        pooled = text_global_pool(values, ids, self._pool, eos_token_id=self._eos)
        if core.text_projection is None:
            return pooled
        if isinstance(core.text_projection, torch.nn.Linear):
            return core.text_projection(pooled)
        return pooled @ core.text_projection
