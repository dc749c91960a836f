"""Random weights in the published file layouts, drawn so that every part of a network matters.

Weights as open_clip initialises them hide mistakes: a wrong activation still gives a cosine of 0.9999. Here the blocks'
matrices are scaled up and biases are far from zero, so that a wrong activation, mean or channel order is seen at once.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file


def drawn_module(architecture: str, *, quick_gelu: bool, seed: int = 0, gain: float = 2.0) -> torch.nn.Module:
    """Build an open_clip model with weights that matter."""
    torch.manual_seed(seed)
    config = copy.deepcopy(open_clip.get_model_config(architecture))
    config["quick_gelu"] = quick_gelu
    module = open_clip.CLIP(**config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(".bias") or name.endswith("in_proj_bias"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
            elif "resblocks" in name and parameter.ndim == 2:
                parameter.mul_(gain)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(torch.randn(buffer.shape, generator=generator) * 0.1)
            elif name.endswith("running_var"):
                buffer.mul_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return module


def write_safetensors(module: torch.nn.Module, path: Path) -> Path:
    """Write a state dict as the hub repositories of open_clip hold it."""
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, str(path))
    return path


def relative_error(ours: np.ndarray | torch.Tensor, reference: np.ndarray | torch.Tensor) -> float:
    """Return the largest over the vectors of |a - b| / |b|."""
    ours, reference = (torch.as_tensor(np.ascontiguousarray(a)).double() for a in (ours, reference))
    return float(((ours - reference).norm(dim=1) / reference.norm(dim=1)).max())
