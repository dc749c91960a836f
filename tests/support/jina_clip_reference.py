"""The towers of jina-clip-v2 in numpy, from the formulas of the papers, by the names in the published file.

Rotary positions: Su et al. 2021 (2104.09864); LoRA: Hu et al. 2021 (2106.09685); EVA-02: Fang et al. 2023 (2303.11331).
Every argument but the inputs is for the tests' negative controls.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jina_clip_weights import CONFIG
from PIL import Image
from torchvision import transforms

_ERF = np.vectorize(math.erf)
_TEXT = "text_model.transformer.roberta."
_IMAGE = "vision_model."


class Weights:
    """A state dict, read as float64 arrays, in which weights with adapters have the product of an adapter added."""

    def __init__(
        self,
        state: Mapping[str, torch.Tensor],
        task: str | None = "retrieval.query",
        config: Mapping[str, Any] = CONFIG,
    ) -> None:
        """Keep a state dict; a task of None leaves the adapters out."""
        self._state = state
        self.text: dict[str, Any] = config["text_config"]["hf_model_config_kwargs"]
        self.vision: dict[str, Any] = config["vision_config"]
        self._task = None if task is None else self.text["lora_adaptations"].index(task)

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a parameter; `NAME.weight` of a layer with adapters includes the adapter."""
        if name in self._state:
            return self._array(name)
        stem = name.removesuffix("weight") + "parametrizations.weight."
        weight = self._array(f"{stem}original")
        if self._task is None:
            return weight
        down, up = (self._array(f"{stem}0.lora_{factor}")[self._task] for factor in "AB")
        product = down @ up if "embeddings" in name else up @ down
        return weight + self.text["lora_alpha"] / self.text["lora_rank"] * product

    def _array(self, name: str) -> np.ndarray:
        values: np.ndarray = self._state[name].double().numpy()
        return values

    def linear(self, name: str, values: np.ndarray) -> np.ndarray:
        """Apply a linear layer."""
        return values @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def norm(self, name: str, values: np.ndarray, eps: float) -> np.ndarray:
        """Apply a layer norm."""
        centred = values - values.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        return scaled * self[f"{name}.weight"] + self[f"{name}.bias"]


def pixels(file: bytes, interpolation: str, processor: Mapping[str, Any]) -> np.ndarray:
    """Prepare an image as the published image processor does with its settings, by torchvision: (3, S, S)."""
    side, mode = processor["size"], transforms.InterpolationMode(interpolation)
    steps = [transforms.Resize(side, mode), transforms.CenterCrop(side), transforms.ToTensor()]
    prepare = transforms.Compose([*steps, transforms.Normalize(processor["mean"], processor["std"])])
    prepared: np.ndarray = prepare(Image.open(io.BytesIO(file)).convert("RGB")).numpy()
    return prepared


def _attend(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Attend with one head; all arrays are (length, head_size)."""
    scores = query @ key.T / math.sqrt(query.shape[1])
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True) @ value


def _turned(values: np.ndarray, angles: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Rotate pairs of columns (`first`, `second`) of (length, head_size) values by (length, pairs) angles."""
    turned = values.copy()
    turned[:, first] = values[:, first] * np.cos(angles) - values[:, second] * np.sin(angles)
    turned[:, second] = values[:, first] * np.sin(angles) + values[:, second] * np.cos(angles)
    return turned


def text_vector(
    ids: list[int], weights: Weights, *, base: float = 20000.0, rope: bool = True, pooling: str = "mean"
) -> np.ndarray:
    """Embed the ids of one text, without padding."""
    settings = weights.text
    heads, size, eps = settings["num_attention_heads"], settings["hidden_size"], 1e-5
    pairs = size // heads // 2
    angles = np.outer(np.arange(len(ids)), [base ** (-2 * pair / (2 * pairs)) for pair in range(pairs)]) * rope
    near, far = np.arange(pairs), np.arange(pairs) + pairs
    states = weights[f"{_TEXT}embeddings.word_embeddings.weight"][ids]
    states = states + weights[f"{_TEXT}embeddings.token_type_embeddings.weight"][0]
    states = weights.norm(f"{_TEXT}emb_ln", states, eps)
    for number in range(settings["num_hidden_layers"]):
        layer = f"{_TEXT}encoder.layers.{number}."
        query, key, value = np.split(weights.linear(f"{layer}mixer.Wqkv", states), 3, axis=1)
        seen = [
            _attend(_turned(q, angles, near, far), _turned(k, angles, near, far), v)
            for q, k, v in zip(*(np.split(part, heads, axis=1) for part in (query, key, value)), strict=True)
        ]
        mixed = weights.linear(f"{layer}mixer.out_proj", np.hstack(seen))
        states = weights.norm(f"{layer}norm1", states + mixed, eps)
        inner = weights.linear(f"{layer}mlp.fc1", states)
        inner = inner * (1 + _ERF(inner / math.sqrt(2))) / 2
        states = weights.norm(f"{layer}norm2", states + weights.linear(f"{layer}mlp.fc2", inner), eps)
    return states.mean(0) if pooling == "mean" else states[0]


def image_vector(
    pixels: np.ndarray, weights: Weights, *, base: float = 10000.0, rope: bool = True, stretched: bool = True
) -> np.ndarray:
    """Embed one image: (3, S, S), normalised."""
    settings = weights.vision
    size, patch, head_size, eps = settings["width"], settings["patch_size"], settings["head_width"], 1e-6
    grid, half = settings["image_size"] // patch, head_size // 2
    kernel = weights[f"{_IMAGE}patch_embed.proj.weight"].reshape(size, -1)
    rows = [weights[f"{_IMAGE}cls_token"][0, 0]]
    places: list[tuple[float, float]] = [(0.0, 0.0)]
    for y in range(grid):
        for x in range(grid):
            part = pixels[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].reshape(-1)
            rows.append(kernel @ part + weights[f"{_IMAGE}patch_embed.proj.bias"])
            factor = settings["pt_hw_seq_len"] / grid if stretched else 1.0
            places.append((y * factor, x * factor))
    states = np.stack(rows) + weights[f"{_IMAGE}pos_embed"][0]
    steps = [base ** (-2 * pair / half) for pair in range(half // 2)]
    angles = np.array([[y * step for step in steps] + [x * step for step in steps] for y, x in places]) * rope
    near = np.arange(0, head_size, 2)
    for number in range(settings["layers"]):
        block = f"{_IMAGE}blocks.{number}."
        normed = weights.norm(f"{block}norm1", states, eps)
        query = normed @ weights[f"{block}attn.q_proj.weight"].T + weights[f"{block}attn.q_bias"]
        key = normed @ weights[f"{block}attn.k_proj.weight"].T
        value = normed @ weights[f"{block}attn.v_proj.weight"].T + weights[f"{block}attn.v_bias"]
        seen = [
            _attend(_turned(q, angles, near, near + 1), _turned(k, angles, near, near + 1), v)
            for q, k, v in zip(
                *(np.split(part, size // head_size, axis=1) for part in (query, key, value)), strict=True
            )
        ]
        mixed = weights.norm(f"{block}attn.inner_attn_ln", np.hstack(seen), eps)
        states = states + weights.linear(f"{block}attn.proj", mixed)
        normed = weights.norm(f"{block}norm2", states, eps)
        gate = weights.linear(f"{block}mlp.w1", normed)
        inner = gate / (1 + np.exp(-gate)) * weights.linear(f"{block}mlp.w2", normed)
        states = states + weights.linear(f"{block}mlp.w3", weights.norm(f"{block}mlp.ffn_ln", inner, eps))
    return weights.norm(f"{_IMAGE}norm", states[0], eps)
