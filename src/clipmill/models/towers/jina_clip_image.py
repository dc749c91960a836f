"""The image tower of jina-clip-v2: an EVA-02 (2303.11331) with rotary positions in two dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

_EPS = 1e-6
_BASE = 10000.0
"""Base of the wavelengths of positions."""


class JinaImageTower(torch.nn.Module):
    """Embeds images by the last state of a class token in front of their patches.

    Its layers normalise before attention and before the feed-forward part, and once more inside both (sub-LN); the
    feed-forward part is a SwiGLU.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, settings: dict[str, Any]) -> None:
        """Build it without weights.

        Args:
            settings: `vision_config`, as `clipmill.models.catalog.jina_clip.resolve` returns it.
        """
        super().__init__()
        size, patch, head_size = settings["width"], settings["patch_size"], settings["head_width"]
        grid = settings["image_size"] // patch
        self.patch_embed = torch.nn.Conv2d(3, size, kernel_size=patch, stride=patch)
        self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, size))
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, grid * grid + 1, size))
        inner = int(size * settings["mlp_ratio"])
        self.blocks = torch.nn.ModuleList(_Block(size, size // head_size, inner) for _ in range(settings["layers"]))
        self.norm = torch.nn.LayerNorm(size, eps=_EPS)
        angles = patch_angles(grid, settings["pt_hw_seq_len"], head_size)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed normalised (n, 3, S, S) float32; return (n, dim)."""
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        states = torch.cat((self.cls_token.expand(len(images), -1, -1), patches), dim=1) + self.pos_embed
        for block in self.blocks:
            states = block(states, self.cos, self.sin)
        vectors: torch.Tensor = self.norm(states[:, 0])
        return vectors


def patch_angles(grid: int, trained_grid: int, head_size: int) -> torch.Tensor:
    """Return the angles of rotary positions of the class token, which has none, and of the patches, row by row.

    The first half of a head's values is rotated by the patch's row, the other by its column, each two neighbours
    together.

    Args:
        grid: Patches of one side.
        trained_grid: Those of the model that this one was trained from: positions are stretched to its range.
        head_size: Values of a head.

    Returns:
        (grid² + 1, head_size) float32 in radians.
    """
    half = head_size // 2
    positions = torch.arange(grid, dtype=torch.float32) / grid * trained_grid
    steps = torch.arange(0, half, 2, dtype=torch.float32) / half
    angles = torch.outer(positions, 1.0 / _BASE**steps).repeat_interleave(2, dim=1)
    rows = angles[:, None].expand(grid, grid, half)
    columns = angles[None].expand(grid, grid, half)
    patches = torch.cat((rows, columns), dim=2).flatten(0, 1)
    return torch.cat((torch.zeros(1, head_size), patches))


def _rotated(values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    pairs = values.unflatten(-1, (-1, 2))
    return values * cos + torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2) * sin


class _Block(torch.nn.Module):
    def __init__(self, size: int, heads: int, inner: int) -> None:
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(size, eps=_EPS)
        self.attn = _Attention(size, heads)
        self.norm2 = torch.nn.LayerNorm(size, eps=_EPS)
        self.mlp = _GatedLayers(size, inner)

    def forward(self, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        states = states + self.attn(self.norm1(states), cos, sin)
        made: torch.Tensor = states + self.mlp(self.norm2(states))
        return made


class _Attention(torch.nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.q_proj = torch.nn.Linear(size, size)
        self.k_proj = torch.nn.Linear(size, size, bias=False)
        self.v_proj = torch.nn.Linear(size, size)
        self.inner_attn_ln = torch.nn.LayerNorm(size, eps=_EPS)
        self.proj = torch.nn.Linear(size, size)

    def forward(self, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Transform (n, patches + 1, size) states."""
        query, key, value = (
            layer(states).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = _rotated(query, cos, sin), _rotated(key, cos, sin)
        seen = functional.scaled_dot_product_attention(query, key, value)
        made: torch.Tensor = self.proj(self.inner_attn_ln(seen.transpose(1, 2).flatten(2)))
        return made


class _GatedLayers(torch.nn.Module):
    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.w1 = torch.nn.Linear(size, inner)
        self.w2 = torch.nn.Linear(size, inner)
        self.ffn_ln = torch.nn.LayerNorm(inner, eps=_EPS)
        self.w3 = torch.nn.Linear(inner, size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.w3(self.ffn_ln(functional.silu(self.w1(states)) * self.w2(states)))
        return made
