"""The text tower of jina-clip-v2: an encoder with rotary positions (Jina-XLM-RoBERTa, 2409.10173)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


class JinaTextTower(torch.nn.Module):
    """Embeds texts by the mean of their tokens' last states, padding left out.

    Its layers normalise after each sum (as BERT's do). The ids say which positions are padding, as in the published
    code: all with the padding's id, also where a text spells that token.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, settings: dict[str, Any]) -> None:
        """Build it without weights.

        Args:
            settings: `text_config`, as `clipmill.models.catalog.jina_clip.resolve` returns it.
        """
        super().__init__()
        size, heads, eps = settings["hidden_size"], settings["num_attention_heads"], settings["layer_norm_eps"]
        self.word_embeddings = torch.nn.Embedding(settings["vocab_size"], size)
        self.token_type_embeddings = torch.nn.Embedding(settings["type_vocab_size"], size)
        self.emb_ln = torch.nn.LayerNorm(size, eps=eps)
        self.layers = torch.nn.ModuleList(
            _Layer(size, heads, settings["intermediate_size"], eps) for _ in range(settings["num_hidden_layers"])
        )
        self._pad_id = settings["pad_token_id"]
        angles = rotary_angles(settings["max_position_embeddings"], size // heads, settings["rotary_emb_base"])
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed (n, length) int64 ids; return (n, dim)."""
        is_token, length = ids != self._pad_id, ids.shape[1]
        states = self.emb_ln(self.word_embeddings(ids) + self.token_type_embeddings.weight[0])
        for layer in self.layers:
            states = layer(states, is_token[:, None, None, :], self.cos[:length], self.sin[:length])
        weights = is_token.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)


def rotary_angles(positions: int, head_size: int, base: float) -> torch.Tensor:
    """Return the angles of rotary position embeddings (Su et al. 2021, 2104.09864).

    Returns:
        (positions, head_size) float32 in radians; the two halves of the columns are equal, since value i of a head is
        rotated together with value i + head_size / 2.
    """
    steps = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), 1.0 / base**steps)
    return torch.cat((angles, angles), dim=1)


def _rotated(values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = values.chunk(2, dim=-1)
    return values * cos + torch.cat((-second, first), dim=-1) * sin


class _Layer(torch.nn.Module):
    def __init__(self, size: int, heads: int, inner: int, eps: float) -> None:
        super().__init__()
        self._heads = heads
        self.qkv = torch.nn.Linear(size, 3 * size)
        self.out_proj = torch.nn.Linear(size, size)
        self.norm1 = torch.nn.LayerNorm(size, eps=eps)
        self.fc1 = torch.nn.Linear(size, inner)
        self.fc2 = torch.nn.Linear(inner, size)
        self.norm2 = torch.nn.LayerNorm(size, eps=eps)

    def forward(self, states: torch.Tensor, is_key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Transform (n, length, size) states; `is_key` (n, 1, 1, length) says which positions are attended to."""
        parts = self.qkv(states).unflatten(-1, (3, self._heads, -1))  # (n, length, 3, heads, head_size)
        query, key, value = (part.transpose(1, 2) for part in parts.unbind(2))
        query, key = _rotated(query, cos, sin), _rotated(key, cos, sin)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=is_key)
        states = self.norm1(states + self.out_proj(seen.transpose(1, 2).flatten(2)))
        made: torch.Tensor = self.norm2(states + self.fc2(functional.gelu(self.fc1(states))))
        return made
