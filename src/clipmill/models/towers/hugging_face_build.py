"""Build the networks of a model of transformers, each tower with its projection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from ...errors import WeightsError
from ..catalog.hugging_face_kinds import Kind
from .weights import empty_parameters, fit_weights, read_shards


def build(kind: Kind, settings: dict[str, Any], where: str, files: tuple[Path, ...]) -> dict[str, torch.nn.Module]:
    """Build a model and return its towers; see `ModelSource.build`.

    Args:
        kind: The kind of model.
        settings: The model's `config.json`.
        where: The path of that file, for messages.
        files: The weights, in one file or several shards.

    Raises:
        WeightsError: If the configuration is invalid, or the weights cannot be read or do not fit.
    """
    model_class: Any = getattr(transformers, kind.name, None)
    if model_class is None:
        raise WeightsError(f"{where!r} is a {kind.name}, which transformers {transformers.__version__} does not have")
    try:
        config: Any = model_class.config_class.from_dict(settings)
        with empty_parameters():
            module = model_class._from_config(config, attn_implementation="sdpa")
    except Exception as err:  # the library validates its values with exceptions of many kinds
        raise WeightsError(f"{where!r} is no {kind.name} that transformers can build: {err}") from err
    if kind.padding == "causal" and not isinstance(config.text_config.eos_token_id, int):
        raise WeightsError(
            f"{where!r} has eos_token_id={config.text_config.eos_token_id!r} in text_config; it must be one number"
        )
    if not getattr(config.vision_config, "vision_use_head", True):
        raise WeightsError(f"{where!r} has vision_use_head=False: its image tower makes no vectors")
    fit_weights(module, _named_as_in(module, read_shards(files)), files[0], may_have=_is_unused)
    image, text = (module.visual_projection, module.text_projection) if kind.has_projection else (None, None)
    return {
        "image": _ImageTower(module.vision_model, image),
        "text": _TextTower(module.text_model, text, kind.pooling),
    }


def _named_as_in(module: torch.nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name layers as a module does: those of AltCLIP have had two names, in transformers and in published files."""
    own, spellings = module.state_dict().keys(), (".encoder.layer.", ".encoder.layers.")
    for name in list(state):
        for old, new in (spellings, spellings[::-1]):
            if name not in own and (other := name.replace(old, new)) in own:
                state[other] = state.pop(name)
                break
    return state


def _is_unused(name: str) -> bool:
    """Return whether a name may be in files: a table, or the layer that BERT puts on the first token's state."""
    return name.endswith("position_ids") or name.startswith("text_model.pooler.")


class _ImageTower(torch.nn.Module):
    """The image tower and its projection, if it has one."""

    def __init__(self, tower: torch.nn.Module, projection: torch.nn.Module | None) -> None:
        super().__init__()
        self.tower = tower
        self.projection = projection or torch.nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed normalised (n, 3, S, S) float32; return (n, dim)."""
        values: torch.Tensor = self.projection(self.tower(pixel_values=images).pooler_output)
        return values


class _TextTower(torch.nn.Module):
    """The text tower and its projection, if it has one."""

    def __init__(self, tower: torch.nn.Module, projection: torch.nn.Module | None, pooling: str) -> None:
        super().__init__()
        self.tower = tower
        self.projection = projection or torch.nn.Identity()
        self._takes_first = pooling == "first"

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Embed (n, length) int64 ids, for some kinds with their mask; return (n, dim)."""
        found = self.tower(input_ids=ids, attention_mask=mask)
        pooled = found.last_hidden_state[:, 0] if self._takes_first else found.pooler_output
        values: torch.Tensor = self.projection(pooled)
        return values
