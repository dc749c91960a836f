"""Build the networks of a `CLIPModel`, each tower with its projection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel

from ...errors import WeightsError
from .weights import empty_parameters, fit_weights, read_weights


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
        config: Any = CLIPConfig.from_dict(settings)
        with empty_parameters():
            module = CLIPModel._from_config(config, attn_implementation="sdpa")
    except Exception as err:  # the library validates its values with exceptions of many kinds
        raise WeightsError(f"{where!r} is no CLIPModel that transformers can build: {err}") from err
    if not isinstance(config.text_config.eos_token_id, int):
        raise WeightsError(
            f"{where!r} has eos_token_id={config.text_config.eos_token_id!r} in text_config; it must be one number"
        )
    fit_weights(module, read_shards(files), files[0])
    return {"image": _ImageTower(module), "text": _TextTower(module)}


def read_shards(files: tuple[Path, ...]) -> dict[str, torch.Tensor]:
    """Read a state dict from one file or several shards.

    Raises:
        WeightsError: If one cannot be read, or two have the same name.
    """
    state: dict[str, torch.Tensor] = {}
    for path in files:
        shard = read_weights(path)
        if repeated := sorted(state.keys() & shard.keys()):
            raise WeightsError(f"{str(path)!r} has {repeated[0]!r}, which another shard of these weights has too")
        state.update(shard)
    return state


class _ImageTower(torch.nn.Module):
    """The image tower and its projection, which transformers applies inside `get_image_features`."""

    def __init__(self, module: CLIPModel) -> None:
        super().__init__()
        self.tower = module.vision_model
        self.projection = module.visual_projection

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed normalised (n, 3, S, S) float32; return (n, dim)."""
        return self.projection(self.tower(pixel_values=images).pooler_output)


class _TextTower(torch.nn.Module):
    """The text tower and its projection.

    It takes no mask, since it is causal and the padding comes after the end of the text.
    """

    def __init__(self, module: CLIPModel) -> None:
        super().__init__()
        self.tower = module.text_model
        self.projection = module.text_projection

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed (n, length) int64 ids; return (n, dim)."""
        return self.projection(self.tower(input_ids=ids).pooler_output)
