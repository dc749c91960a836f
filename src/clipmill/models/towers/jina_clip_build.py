"""Build the towers of jina-clip-v2 from its published weights, without its code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...errors import WeightsError
from .jina_clip_image import JinaImageTower
from .jina_clip_text import JinaTextTower
from .weights import empty_parameters, fit_weights, read_shards

_RENAMED = (
    ("text_model.transformer.roberta.", "text_model."),
    ("text_model.embeddings.", "text_model."),
    ("text_model.encoder.layers.", "text_model.layers."),
    (".mixer.Wqkv.", ".qkv."),
    (".mixer.out_proj.", ".out_proj."),
    (".mlp.fc", ".fc"),
    (".patch_embed.proj.", ".patch_embed."),
    (".attn.q_bias", ".attn.q_proj.bias"),
    (".attn.v_bias", ".attn.v_proj.bias"),
)
"""Parts of names in the published files, and what they are in the towers."""
_ADAPTED, _PLAIN = ".parametrizations.weight.original", ".weight"
_FACTORS = (".parametrizations.weight.0.lora_A", ".parametrizations.weight.0.lora_B")


def build(settings: dict[str, Any], where: str, files: tuple[Path, ...]) -> dict[str, torch.nn.Module]:
    """Build a model and return its towers; see `ModelSource.build`.

    Args:
        settings: The configuration, as `clipmill.models.catalog.jina_clip.resolve` returns it.
        where: The path of the model's `config.json`, for messages.
        files: The weights, in one file or several shards.

    Raises:
        WeightsError: If the weights cannot be read or do not fit.
    """
    with empty_parameters():
        module = _Model(settings)
    state = {_renamed(name): tensor for name, tensor in read_shards(files).items()}
    try:
        merged = _merge_adapters(state, settings["text_config"])
    except (RuntimeError, IndexError) as err:  # of shapes that do not match
        raise WeightsError(f"the LoRA adapters in {str(files[0])!r} do not fit {where!r}: {err}") from err
    if settings["text_config"]["adapter"] is not None and (lacking := _adapted_weights(module) - merged):
        raise WeightsError(
            f"{str(files[0])!r} has no LoRA adapter of {min(lacking)!r}, and {where!r} has default_lora_task"
            f" {settings['text_config']['default_lora_task']!r}"
        )
    fit_weights(module, state, files[0])
    return {"image": module.vision_model, "text": module.text_model}


class _Model(torch.nn.Module):
    """Both towers and the learnt scale, which is read elsewhere but belongs to the published weights."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.vision_model = JinaImageTower(settings["vision_config"])
        self.text_model = JinaTextTower(settings["text_config"])
        self.logit_scale = torch.nn.Parameter(torch.tensor(0.0))


def _renamed(name: str) -> str:
    for old, new in _RENAMED:
        name = name.replace(old, new)
    return name


def _merge_adapters(state: dict[str, torch.Tensor], text: dict[str, Any]) -> set[str]:
    """Add the product of the default adapter's factors to every weight that has them; remove the factors.

    The published code computes W + (alpha / rank) · B A for linear layers (Hu et al. 2021, 2106.09685), and, since
    their tables are stored the other way round, W + (alpha / rank) · A B for embeddings: at every call, which is the
    same as once.

    Args:
        state: Tensors by name; the weights get the names of layers without adapters.
        text: The settings of the text tower.

    Returns:
        The names of the weights that had an adapter.
    """
    number, scale, merged = text["adapter"], text["lora_alpha"] / text["lora_rank"], set()
    for name in [name for name in state if name.endswith(_ADAPTED)]:
        layer = name.removesuffix(_ADAPTED)
        weight = state.pop(name)
        first, second = (state.pop(layer + factor, None) for factor in _FACTORS)
        if number is not None and first is not None and second is not None:
            left, right = (first, second) if layer.endswith("embeddings") else (second, first)
            left, right = left[number].float(), right[number].float()
            weight = torch.addmm(weight.float(), left, right, alpha=scale)
            merged.add(layer + _PLAIN)
        state[layer + _PLAIN] = weight
    return merged


def _adapted_weights(module: torch.nn.Module) -> set[str]:
    """Return the names of the weights that have adapters: of all linear layers and embeddings of the text tower."""
    kinds = (torch.nn.Linear, torch.nn.Embedding)
    layers = module.get_submodule("text_model").named_modules(prefix="text_model")
    return {name + _PLAIN for name, layer in layers if isinstance(layer, kinds)}
