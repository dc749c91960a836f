"""Building the networks of a `CLIPModel`, each tower with its projection."""

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
        where: That file, for messages.
        files: Its weights, whole or in parts.

    Raises:
        WeightsError: If the configuration is no model's, or the weights cannot be read or do not fit.
    """
    try:
        config: Any = CLIPConfig.from_dict(settings)
        with empty_parameters():
            module = CLIPModel._from_config(config, attn_implementation="sdpa")
    except Exception as err:  # the library checks its values with exceptions of many kinds
        raise WeightsError(f"{where!r} describes no CLIPModel that transformers can build: {err}") from err
    if not isinstance(config.text_config.eos_token_id, int):
        raise WeightsError(
            f"{where!r} has eos_token_id={config.text_config.eos_token_id!r} in text_config; the tower needs one number"
        )
    fit_weights(module, read_parts(files), files[0])
    return {"image": _ImageTower(module), "text": _TextTower(module)}


def read_parts(files: tuple[Path, ...]) -> dict[str, torch.Tensor]:
    """Read a state dict out of one file or several.

    Raises:
        WeightsError: If one cannot be read, or two hold the same name.
    """
    state: dict[str, torch.Tensor] = {}
    for path in files:
        part = read_weights(path)
        if twice := sorted(state.keys() & part.keys()):
            raise WeightsError(f"{str(path)!r} holds {twice[0]!r}, which another part of these weights holds too")
        state.update(part)
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

    It takes no mask: it looks only backwards from the end of the text, and rows are padded behind that.
    """

    def __init__(self, module: CLIPModel) -> None:
        super().__init__()
        self.tower = module.text_model
        self.projection = module.text_projection

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed (n, length) int64 ids; return (n, dim)."""
        return self.projection(self.tower(input_ids=ids).pooler_output)
