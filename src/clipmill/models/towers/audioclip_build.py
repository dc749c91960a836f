"""Build AudioCLIP's networks and load a published file into them."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from ...errors import WeightsError
from .audioclip_audio import AudioTower
from .open_clip_build import towers_of
from .open_clip_names import CLIP
from .weights import empty_parameters, fit_weights, read_weights

DIM = 1024
_VISION = {"layers": [3, 4, 6, 3], "width": 64, "image_size": 224, "patch_size": None}
_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
_UNUSED_BIAS = "audio.fbsp.bias"
"""An empty parameter in the published files."""


def build(weights: Path, mode: str) -> dict[str, torch.nn.Module]:
    """Build the model and return its towers; see `ModelSource.build`.

    Args:
        weights: The file.
        mode: `reference` or `jina`; see `AudioTower.prepare`.

    Raises:
        WeightsError: If the weights cannot be read or do not fit, or the wavelets are not finite.
    """
    state = read_weights(weights)
    if (bias := state.get(_UNUSED_BIAS)) is not None and bias.numel() == 0:
        del state[_UNUSED_BIAS]
    with empty_parameters():
        module = build_module()
    fit_weights(module, state, weights)
    audio = module.get_submodule("audio")
    assert isinstance(audio, AudioTower)
    try:
        audio.prepare(mode)
    except ValueError as err:
        raise WeightsError(f"{str(weights)!r}: {err}") from err
    del module.audio  # the other towers keep a reference to the module, but do not need this
    return {**towers_of(module), "audio": audio}


def build_module() -> torch.nn.Module:
    """Build the whole model with the published names of parameters; its values are torch's defaults.

    The image and text towers are OpenAI's RN50, with the names and architecture of open_clip.
    """
    module = CLIP(embed_dim=DIM, vision_cfg=_VISION, text_cfg=_TEXT, quick_gelu=True)
    module.audio = AudioTower(DIM)
    module.logit_scale_ai = torch.nn.Parameter(torch.tensor(math.log(100.0)))
    module.logit_scale_at = torch.nn.Parameter(torch.tensor(math.log(100.0)))
    return module
