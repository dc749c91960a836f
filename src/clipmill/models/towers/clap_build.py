"""Build the networks of a `ClapModel`, each tower with its projection and normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize
from transformers import ClapConfig, ClapModel

from ...errors import WeightsError
from .weights import empty_parameters, fit_weights, read_shards

_BUFFERS = ("position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked")
"""Ends of the names of buffers that the constructor computes; files of some versions have them."""


def build(settings: dict[str, Any], where: str, files: tuple[Path, ...]) -> dict[str, torch.nn.Module]:
    """Build a model and return its towers; see `ModelSource.build`.

    Args:
        settings: The model's `config.json`.
        where: The path of that file, for messages.
        files: The weights, in one file or several shards.

    Raises:
        WeightsError: If the configuration is invalid, or the weights cannot be read or do not fit.
    """
    try:
        config: Any = ClapConfig.from_dict(settings)
        with empty_parameters():
            module = ClapModel._from_config(config, attn_implementation="eager")
    except Exception as err:  # the library validates its values with exceptions of many kinds
        raise WeightsError(f"{where!r} is no ClapModel that transformers can build: {err}") from err
    fit_weights(module, read_shards(files), files[0], may_miss=_is_buffer, may_have=_is_buffer)
    return {"audio": _AudioTower(module), "text": _TextTower(module)}


def _is_buffer(name: str) -> bool:
    return name.endswith(_BUFFERS)


class _AudioTower(torch.nn.Module):
    """The audio tower and its projection. The vector of a clip is the mean of those of its windows."""

    def __init__(self, module: ClapModel) -> None:
        super().__init__()
        self.tower = module.audio_model
        self.projection = module.audio_projection

    def forward(self, spectrograms: torch.Tensor) -> torch.Tensor:
        """Embed (n, windows, frames, bins) float32, decibels; return (n, dim), of length 1."""
        rows, windows = spectrograms.shape[:2]
        features = self.tower(input_features=spectrograms.flatten(0, 1).unsqueeze(1)).pooler_output
        vectors = normalize(self.projection(features), dim=-1)
        return normalize(vectors.reshape(rows, windows, -1).mean(dim=1), dim=-1)


class _TextTower(torch.nn.Module):
    """The text tower and its projection."""

    def __init__(self, module: ClapModel) -> None:
        super().__init__()
        self.tower = module.text_model
        self.projection = module.text_projection

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Embed (n, length) int64 ids with their mask; return (n, dim), of length 1."""
        return normalize(self.projection(self.tower(input_ids=ids, attention_mask=mask).pooler_output), dim=-1)
