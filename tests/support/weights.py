"""Random weights in the published file layouts, drawn so that every part of a network matters.

Weights as open_clip initialises them hide mistakes: a wrong activation still gives a cosine of 0.9999. Here the blocks'
matrices are scaled up and biases are far from zero, so that a wrong activation, mean or channel order is seen at once.
They are not drawn as wild as can be: the last norm of a ResNet's blocks stays small, as in trained ones, or bfloat16
would be chaos (cosine 0.97 with norms from 0.5 to 1, 0.9994 with 0.05 to 0.15).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file


def drawn_module(
    architecture: str | dict[str, Any], *, quick_gelu: bool, seed: int = 0, gain: float = 2.0
) -> torch.nn.Module:
    """Build an open_clip model, by its name or its configuration, with weights that matter."""
    torch.manual_seed(seed)
    config = copy.deepcopy(open_clip.get_model_config(architecture) if isinstance(architecture, str) else architecture)
    config["quick_gelu"] = quick_gelu
    module = open_clip.CLIP(**config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "bn" in name and name.endswith(".weight"):  # drawn as zeros in every block's last: it would do nothing
                span, least = (0.1, 0.05) if "layer" in name and "bn3" in name else (0.5, 0.5)
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * span + least)
            elif name.endswith(".bias") or name.endswith("in_proj_bias"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
            elif ("resblocks" in name or "attnpool" in name) and parameter.ndim == 2:
                parameter.mul_(gain)
        if any(name.endswith("running_mean") for name, _ in module.named_buffers()):
            _settle_batch_norms(module, generator)
    return module


def _settle_batch_norms(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Give batch norms the statistics of pictures; with others, signals fade and all pictures look alike."""
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    module.visual.train()
    coarse = torch.randn(4, 3, 14, 14, generator=generator)
    module.encode_image(torch.nn.functional.interpolate(coarse, module.visual.image_size, mode="bilinear") * 1.5)
    module.visual.eval()


def write_safetensors(module: torch.nn.Module, path: Path) -> Path:
    """Write a state dict as the hub repositories of open_clip hold it."""
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, str(path))
    return path


def relative_error(ours: np.ndarray | torch.Tensor, reference: np.ndarray | torch.Tensor) -> float:
    """Return the largest over the vectors of |a - b| / |b|."""
    ours, reference = (torch.as_tensor(np.ascontiguousarray(a)).double() for a in (ours, reference))
    return float(((ours - reference).norm(dim=1) / reference.norm(dim=1)).max())
