"""Build the networks of Chinese-CLIP's RN50 and load its authors' file into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel

from ..catalog.cn_clip import DIM, IMAGE_SIZE, TEXT, VISION
from .open_clip_names import ModifiedResNet
from .weights import empty_parameters, fit_weights, read_weights


class ChineseClip(torch.nn.Module):
    """Both towers, with the published names of parameters."""

    def __init__(self) -> None:
        """Build the networks; their values are torch's defaults."""
        super().__init__()
        self.visual: Any = ModifiedResNet(output_dim=DIM, image_size=IMAGE_SIZE, **VISION)
        make_config: Any = BertConfig  # its annotations leave out what every configuration accepts
        self.bert = BertModel(make_config(**TEXT, attn_implementation="sdpa"), add_pooling_layer=False)
        self.text_projection = torch.nn.Parameter(torch.zeros(TEXT["hidden_size"], DIM))
        self.logit_scale = torch.nn.Parameter(torch.zeros(()))


class _TextTower(torch.nn.Module):
    """The text tower and its projection."""

    def __init__(self, module: ChineseClip) -> None:
        super().__init__()
        self.bert = module.bert
        self.text_projection = module.text_projection

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Embed (n, length) int64 ids with their mask by the state of the first token; return (n, dim)."""
        states: torch.Tensor = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        return states[:, 0] @ self.text_projection


def build(weights: Path) -> dict[str, torch.nn.Module]:
    """Build the model and return its towers; see `ModelSource.build`.

    Args:
        weights: The file.

    Raises:
        WeightsError: If the weights cannot be read or do not fit.
    """
    state = read_weights(weights)
    with empty_parameters():
        module = ChineseClip()
    fit_weights(module, state, weights, may_have=_is_unused)
    return {"image": module.visual, "text": _TextTower(module)}


def _is_unused(name: str) -> bool:
    return name.endswith("position_ids") or name.startswith("bert.pooler.")
