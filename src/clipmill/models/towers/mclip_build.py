"""Build M-CLIP's text tower: a multilingual backbone, the mean over its tokens, and a linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

from ...errors import WeightsError
from .weights import empty_parameters, fit_weights, read_shards

_CLASSES: dict[str, Any] = {"xlm-roberta": (XLMRobertaConfig, XLMRobertaModel), "bert": (BertConfig, BertModel)}
_PROJECTION = "LinearTransformation.weight"


class TextTower(torch.nn.Module):
    """An M-CLIP text tower; its modules have the names in the weight files."""

    def __init__(self, transformer: torch.nn.Module, width: int, dim: int) -> None:
        """Create a tower from its parts.

        Args:
            transformer: The backbone.
            width: Values per token of the backbone.
            dim: Values in a vector.
        """
        super().__init__()
        self.transformer = transformer
        self.LinearTransformation = torch.nn.Linear(width, dim)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Embed (n, length) int64 ids with their mask; return (n, dim). Special tokens count, padding does not."""
        values = self.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(2).to(values.dtype)
        return self.LinearTransformation((values * weights).sum(1) / weights.sum(1))


def build_text(base: dict[str, Any], dim: int, files: tuple[Path, ...]) -> TextTower:
    """Build a text tower from its weights; see `ModelSource.build`.

    Args:
        base: A value of `clipmill.models.catalog.mclip.BASES`.
        dim: Values in a vector of the image tower.
        files: The weights, in one file or several shards.

    Raises:
        WeightsError: If the weights cannot be read, do not fit, or belong to another image tower.
    """
    state = read_shards(files)
    if _PROJECTION not in state or state[_PROJECTION].ndim != 2:
        raise WeightsError(f"{str(files[0])!r} has no {_PROJECTION}: not the text tower of an M-CLIP model")
    own_dim, width = state[_PROJECTION].shape
    if own_dim != dim:
        raise WeightsError(f"{str(files[0])!r} makes vectors of {own_dim} values, but the image tower of {dim}")
    if width != base["hidden_size"]:
        raise WeightsError(f"{str(files[0])!r}: {_PROJECTION} reads {width} values, the base has {base['hidden_size']}")
    make_config, make_backbone = _CLASSES[base["model_type"]]
    options = {name: value for name, value in base.items() if name != "model_type"}
    with empty_parameters():
        # without the pooler, which is in the files but unused
        backbone = make_backbone(make_config(**options, attn_implementation="sdpa"), add_pooling_layer=False)
        tower = TextTower(backbone, width, dim)
    fit_weights(tower, state, files[0], may_have=_is_unused)
    return tower


def _is_unused(name: str) -> bool:
    return name.endswith("position_ids") or name.startswith("transformer.pooler.")


def image_tower(towers: Mapping[str, Any]) -> torch.nn.Module:
    """Return the image tower of an open_clip model, so that its text tower can be released."""
    visual: torch.nn.Module = towers["image"].module.visual
    return visual
