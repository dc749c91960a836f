"""Directories in the layout of `jinaai/jina-clip-v2`, in small, with weights that matter."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tiny_tokenizers
import torch
from safetensors.torch import save_file

TASKS = ["retrieval.passage", "retrieval.query"]
"""The published file has the second alone; two of them show that the right one is used."""

CONFIG: dict[str, Any] = {
    "add_projections": False,
    "architectures": ["JinaCLIPModel"],
    "auto_map": {"AutoModel": "jinaai/jina-clip-implementation--modeling_clip.JinaCLIPModel"},
    "initializer_factor": 1.0,
    "logit_scale_init_value": 2.6592,
    "matryoshka_dimensions": [16, 32, 64],
    "model_type": "jina_clip",
    "projection_dim": 64,
    "text_config": {
        "default_instruction_task": None,
        "default_lora_task": "retrieval.query",
        "embed_dim": 64,
        "hf_model_config_kwargs": {
            "load_trained_adapters": False,
            "lora_adaptations": TASKS,
            "lora_alpha": 6,
            "lora_dropout_p": 0.0,
            "lora_main_params_trainable": False,
            "lora_rank": 4,
            "task_instructions": dict.fromkeys(TASKS, "Represent the query for retrieving evidence documents: "),
            "use_flash_attn": True,
            "vocab_size": 800,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "max_position_embeddings": 1026,
        },
        "hf_model_name_or_path": "jinaai/jina-embeddings-v3",
        "model_type": "jina_clip_text",
        "pooler_type": "mean_pooler",
        "proj_bias": False,
        "proj_type": None,
    },
    "torch_dtype": "bfloat16",
    "truncate_dim": None,
    "use_text_flash_attn": None,
    "use_vision_xformers": None,
    "vision_config": {
        "embed_dim": 64,
        "fused_layer_norm": False,
        "head_width": 16,
        "image_size": 64,
        "intp_freq": True,
        "layers": 2,
        "ls_init_value": None,
        "mlp_ratio": 2.6667,
        "model_type": "jina_clip_vision",
        "naive_swiglu": True,
        "patch_dropout": 0.1,
        "patch_size": 14,
        "post_norm": False,
        "proj_type": None,
        "pt_hw_seq_len": 3,
        "qkv_bias": True,
        "rope_embeddings": True,
        "subln": True,
        "width": 64,
        "x_attention": True,
    },
}
"""The published file with fewer and smaller layers; it has the sizes of the text tower in another repository's."""


def published() -> dict[str, Any]:
    """Return the configuration of jina-clip-v2 in its real size."""
    config = copy.deepcopy(CONFIG)
    config["projection_dim"], config["matryoshka_dimensions"] = 1024, [32, 64, 128, 256, 512, 768, 1024]
    config["text_config"]["embed_dim"] = 1024
    sizes = {"lora_adaptations": TASKS[1:], "lora_alpha": 1, "vocab_size": 250002, "hidden_size": 1024}
    layers = {"num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    config["text_config"]["hf_model_config_kwargs"] |= {**sizes, **layers, "max_position_embeddings": 8194}
    size = {"embed_dim": 1024, "width": 1024, "image_size": 512, "pt_hw_seq_len": 16}
    config["vision_config"] |= {**size, "layers": 24, "head_width": 64}
    return config


PROCESSOR = {
    "fill_color": 0,
    "image_processor_type": "JinaCLIPImageProcessor",
    "interpolation": "bicubic",
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "processor_class": "JinaCLIPProcessor",
    "resize_mode": "shortest",
    "size": 64,
    "std": [0.26862954, 0.26130258, 0.27577711],
}

SCALE = 1.5
_TEXT, _IMAGE = "text_model.transformer.roberta.", "vision_model."


def shapes(config: Mapping[str, Any] = CONFIG) -> dict[str, tuple[int, ...]]:
    """Return the names in the published file, with the shapes that a configuration gives them."""
    text, vision = config["text_config"]["hf_model_config_kwargs"], config["vision_config"]
    size, inner, rank = text["hidden_size"], text["intermediate_size"], text["lora_rank"]
    tasks = len(text["lora_adaptations"])
    found: dict[str, tuple[int, ...]] = {"logit_scale": ()}

    def adapted(name: str, rows: int, columns: int, *, table: bool = False) -> None:
        first, second = ((rows, rank), (rank, columns)) if table else ((rank, columns), (rows, rank))
        found[f"{name}.parametrizations.weight.original"] = (rows, columns)
        found[f"{name}.parametrizations.weight.0.lora_A"] = (tasks, *first)
        found[f"{name}.parametrizations.weight.0.lora_B"] = (tasks, *second)
        if not table:
            found[f"{name}.bias"] = (rows,)

    def norm(name: str, length: int) -> None:
        found[f"{name}.weight"] = found[f"{name}.bias"] = (length,)

    adapted(f"{_TEXT}embeddings.word_embeddings", text["vocab_size"], size, table=True)
    adapted(f"{_TEXT}embeddings.token_type_embeddings", 1, size, table=True)
    norm(f"{_TEXT}emb_ln", size)
    for number in range(text["num_hidden_layers"]):
        layer = f"{_TEXT}encoder.layers.{number}."
        adapted(f"{layer}mixer.Wqkv", 3 * size, size)
        adapted(f"{layer}mixer.out_proj", size, size)
        adapted(f"{layer}mlp.fc1", inner, size)
        adapted(f"{layer}mlp.fc2", size, inner)
        norm(f"{layer}norm1", size)
        norm(f"{layer}norm2", size)
    width, patch, hidden = vision["width"], vision["patch_size"], int(vision["width"] * vision["mlp_ratio"])
    found[f"{_IMAGE}cls_token"] = (1, 1, width)
    found[f"{_IMAGE}pos_embed"] = (1, (vision["image_size"] // patch) ** 2 + 1, width)
    found[f"{_IMAGE}patch_embed.proj.weight"] = (width, 3, patch, patch)
    found[f"{_IMAGE}patch_embed.proj.bias"] = (width,)
    norm(f"{_IMAGE}norm", width)
    for number in range(vision["layers"]):
        block = f"{_IMAGE}blocks.{number}."
        for name in ("q", "k", "v"):
            found[f"{block}attn.{name}_proj.weight"] = (width, width)
        found[f"{block}attn.q_bias"] = found[f"{block}attn.v_bias"] = (width,)
        for name, rows, columns in (
            *(("attn.proj", width, width), ("mlp.w1", hidden, width)),
            *(("mlp.w2", hidden, width), ("mlp.w3", width, hidden)),
        ):
            found[f"{block}{name}.weight"], found[f"{block}{name}.bias"] = (rows, columns), (rows,)
        for name, length in (("norm1", width), ("norm2", width), ("attn.inner_attn_ln", width), ("mlp.ffn_ln", hidden)):
            norm(f"{block}{name}", length)
    return found


def drawn_state(config: Mapping[str, Any] = CONFIG) -> dict[str, torch.Tensor]:
    """Draw weights, of which every part shows in the vectors; the numbers are the same on every machine."""
    random, state = np.random.RandomState(0), {}
    for name, shape in sorted(shapes(config).items()):
        noise = random.standard_normal(shape)
        if "norm" in name or "_ln" in name:
            values = 0.2 * noise + name.endswith("weight")
        elif any(part in name for part in ("lora", "embed", "token")) or len(shape) < 2:
            values = 0.5 * noise
        else:
            values = 1.5 * noise / np.sqrt(np.prod(shape[1:]))
        state[name] = torch.from_numpy(np.asarray(values, np.float32))
    state["logit_scale"] = torch.tensor(SCALE)
    return state


def write_model(directory: Path, *, layout: str = "safetensors", **changes: Any) -> Path:
    """Write a model's directory.

    Args:
        directory: Where to; made if need be.
        layout: `safetensors` or `bin`.
        **changes: Entries of the configuration, those of a part as `text_config__embed_dim`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    state = drawn_state()
    if layout == "bin":
        torch.save(state, directory / "pytorch_model.bin")
    else:
        save_file(state, str(directory / "model.safetensors"))
    write_config(directory, **changes)
    write_others(directory, PROCESSOR)
    return directory


def write_others(directory: Path, processor: Mapping[str, Any]) -> None:
    """Write the files of the image processor and of a small tokenizer."""
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    for name, content in tiny_tokenizers.files_of(tiny_tokenizers.xlm_roberta()).items():
        (directory / name).write_bytes(content)


def write_config(directory: Path, **changes: Any) -> None:
    """Write `CONFIG` with changes; see `write_model`. `text__NAME` are settings of the text tower itself."""
    config = copy.deepcopy(CONFIG)
    for name, value in changes.items():
        part, _, inner = name.rpartition("__")
        place = config["text_config"]["hf_model_config_kwargs"] if part == "text" else config[part] if part else config
        place[inner] = value
    (directory / "config.json").write_text(json.dumps(config))
