"""Weight files in which the learnt scale is drawn too, small ones: what tells a scale need not be a whole model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import audioclip_reference as reference
import open_clip
import torch
from hub_cache import put_repository
from safetensors.torch import save, save_file

from clipmill.encoders import EncoderSpec

PAIR = frozenset({"text", "image"})
AUDIO_IMAGE, AUDIO_TEXT = frozenset({"audio", "image"}), frozenset({"audio", "text"})
TEXTS = ["a photo of a cat", "she smiled, with pain", "ÜBER-straße 日本", "word " * 9, "x"]
LEARNT = 3.137
"""The parameter that files here hold: a scale of 23, far from 100 and from what constructors begin with (14.3)."""
FP32 = {"device": "cpu", "runtime": "torch", "precision": "fp32", "decode": "exact"}

VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
DECODER = {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2, "attn_pooler_heads": 2}
KINDS: dict[str, tuple[Callable[..., torch.nn.Module], dict]] = {
    "plain": (open_clip.CLIP, {}),
    "one-value-row": (open_clip.CLIP, {"nonscalar_logit_scale": True}),
    "custom-text": (open_clip.CustomTextCLIP, {"custom_text": True}),
    "with-a-bias": (open_clip.CustomTextCLIP, {"custom_text": True, "init_logit_bias": -9.5}),
    "coca": (open_clip.CoCa, {"custom_text": True, "multimodal_cfg": DECODER}),
}


@dataclasses.dataclass
class Repository:
    """A repository of open_clip's in a cache, and open_clip's own network."""

    cache: Path
    module: torch.nn.Module

    @property
    def spec(self) -> EncoderSpec:
        return EncoderSpec("hf-hub:test/model", cache_dir=str(self.cache), **FP32)


def make_repository(kind: str, cache: Path, learnt: float = LEARNT, bias: float | None = None) -> Repository:
    network, options = KINDS[kind]
    text = {**TEXT, "embed_cls": True, "output_tokens": True} if kind == "coca" else TEXT
    vision = dict(VISION)
    if kind == "coca":
        vision |= {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    config = {"embed_dim": 48, "vision_cfg": vision, "text_cfg": text, **options}
    torch.manual_seed(0)
    module = network(**{name: value for name, value in config.items() if name != "custom_text"}).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1.5 / parameter[0].numel() ** 0.5))
        module.logit_scale.fill_(learnt)
        if bias is not None:
            module.logit_bias.fill_(bias)
    files = {
        "open_clip_config.json": json.dumps({"model_cfg": config, "preprocess_cfg": {}}).encode(),
        "open_clip_model.safetensors": save({name: t.contiguous().clone() for name, t in module.state_dict().items()}),
    }
    put_repository(cache, "test/model", files, large=("open_clip_model.safetensors",))
    return Repository(cache, module)


def state_with(*learnt: float) -> dict:
    """A few tensors, the parameter among them; the others must not be taken for it."""
    parameter = torch.tensor(learnt[0] if len(learnt) == 1 else learnt)
    return {"visual.logit_scale": torch.tensor(1.0), "w": torch.arange(6.0), "logit_scale": parameter}


def write_safetensors(state: dict, path: Path) -> Path:
    save_file(state, str(path.with_suffix(".safetensors")))
    return path.with_suffix(".safetensors")


def write_pickle(state: dict, path: Path) -> Path:
    torch.save(state, path)
    return path


class _Archive(torch.nn.Module):
    """What OpenAI published: a program with parameters, and three numbers that describe it."""

    def __init__(self, state: dict) -> None:
        super().__init__()
        self.logit_scale = torch.nn.Parameter(state["logit_scale"])
        self.register_buffer("w", state["w"].half())
        for name, value in (("input_resolution", 224), ("context_length", 77), ("vocab_size", 49408)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def write_archive(state: dict, path: Path) -> Path:
    torch.jit.script(_Archive(state)).save(str(path))
    return path


def under(prefix: str, state: dict) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


FILES: dict[str, Callable[[dict, Path], Path]] = {
    "safetensors": write_safetensors,
    "safetensors-float16": lambda s, p: write_safetensors({n: t.half() for n, t in s.items()}, p),
    "safetensors-bfloat16": lambda s, p: write_safetensors({n: t.bfloat16() for n, t in s.items()}, p),
    "safetensors-float64": lambda s, p: write_safetensors({n: t.double() for n, t in s.items()}, p),
    "safetensors-module": lambda s, p: write_safetensors(under("module.", s), p),
    "safetensors-row": lambda s, p: write_safetensors({n: t.reshape(-1) for n, t in s.items()}, p),
    "pickle": write_pickle,
    "pickle-state_dict": lambda s, p: write_pickle({"epoch": 32, "state_dict": s}, p),
    "pickle-module": lambda s, p: write_pickle({"state_dict": under("module.", s)}, p),
    "pickle-half": lambda s, p: write_pickle({n: t.half() for n, t in s.items()}, p),
    "torchscript": write_archive,
}
STORED = {"safetensors-float16": torch.float16, "pickle-half": torch.float16, "safetensors-bfloat16": torch.bfloat16}


def write_audioclip(path: Path, **scales: float | None) -> EncoderSpec:
    """Write the published layout, one value for each tensor but for those given; None leaves one out."""
    state = {
        name: torch.tensor(0.5 + n / 1000).expand(shape) for n, (name, shape) in enumerate(reference.layout().items())
    }
    state = {name: torch.tensor(1) if name.endswith("tracked") else tensor for name, tensor in state.items()}
    state |= {name: torch.tensor(value) for name, value in scales.items() if value is not None}
    state = {name: tensor for name, tensor in state.items() if scales.get(name, 0.0) is not None}
    torch.save(state, path)
    return EncoderSpec(f"AudioCLIP::{path}", **FP32)
