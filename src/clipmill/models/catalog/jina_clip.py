"""Read the `config.json` of jina-clip-v2, part of which is in another repository and in code.

Its text tower is that of jina-embeddings-v3 (Jina-XLM-RoBERTa, Sturua et al. 2024, 2409.10173): the file has only what
differs from that model's own configuration, and `_TEXT_BASES` has the rest. Its image tower is an EVA-02 (Fang et al.
2023, 2303.11331). Other towers that the same configuration could describe were never published, and are refused.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ...errors import WeightsError
from ...media.options import OPENAI_MEAN, OPENAI_STD, Preprocessing

PROCESSOR = "JinaCLIPImageProcessor"
"""The class of the published image processor."""

_TEXT_BASES: dict[str, dict[str, Any]] = {
    "jinaai/jina-embeddings-v3": {
        "vocab_size": 250002,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 8194,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "rotary_emb_base": 20000.0,
        "lora_adaptations": [
            *("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"),
        ],
        "lora_rank": 4,
        "lora_alpha": 1,
        "position_embedding_type": "rotary",
        "hidden_act": "gelu",
    }
}
"""The configuration of the text tower by the repository that has it."""

_FIRST_VERSION = "jinaai/jina-bert-flash-implementation"
"""The text tower of jina-clip-v1."""

_TEXT_DEFAULTS: dict[str, Any] = {
    "embed_dim": 768,
    "default_lora_task": None,
    "default_instruction_task": None,
    "pooler_type": None,
    "proj_type": None,
}
_VISION_DEFAULTS: dict[str, Any] = {
    "embed_dim": 768,
    "width": 768,
    "image_size": 224,
    "patch_size": 16,
    "layers": 12,
    "head_width": 64,
    "mlp_ratio": 4.0,
    "ls_init_value": None,
    "qkv_bias": True,
    "post_norm": False,
    "rope_embeddings": False,
    "pt_hw_seq_len": 16,
    "intp_freq": False,
    "naive_swiglu": False,
    "subln": False,
    "proj_type": None,
}
"""Values of absent entries, as in the published configuration classes."""

_ONLY: dict[str, dict[str, Any]] = {
    "": {"add_projections": False, "truncate_dim": None},
    "text_config": {
        "position_embedding_type": "rotary",
        "hidden_act": "gelu",
        "pooler_type": "mean_pooler",
        "proj_type": None,
        "default_instruction_task": None,
    },
    "vision_config": {
        "rope_embeddings": True,
        "subln": True,
        "naive_swiglu": True,
        "qkv_bias": True,
        "post_norm": False,
        "ls_init_value": None,
        "proj_type": None,
    },
}
"""Settings with the only value that is supported, by the part of the file."""

_WHOLE: dict[str, dict[str, int]] = {
    "text_config": {
        **{"vocab_size": 2**20, "hidden_size": 2**14, "num_hidden_layers": 256, "num_attention_heads": 2**10},
        **{"intermediate_size": 2**16, "max_position_embeddings": 2**16, "type_vocab_size": 2**10},
        **{"lora_rank": 2**10, "embed_dim": 2**14},
    },
    "vision_config": {
        **{"embed_dim": 2**14, "width": 2**14, "image_size": 2**12, "patch_size": 2**10, "layers": 256},
        **{"head_width": 2**10, "pt_hw_seq_len": 2**10},
    },
}
"""Settings that must be integers from 1, with the most of each, which is far more than any model has."""
MAX_TABLE = 2**24
"""The most values in a tower's table of positions, 32 times those of the published model. Tables are computed when a
model is built, while layers take no memory before the weights are read."""

_POSITIVE = {"text_config": ("layer_norm_eps", "rotary_emb_base", "lora_alpha"), "vision_config": ("mlp_ratio",)}
_MOST = 1e6
"""Settings that must be numbers between 0 and this."""

_PROCESSOR_DEFAULTS: dict[str, Any] = {
    "size": 224,
    "mean": OPENAI_MEAN,
    "std": OPENAI_STD,
    "resize_mode": "shortest",
    "interpolation": "bicubic",
    "fill_color": 0,
}
_PROCESSOR_CHOICES = {"resize_mode": ("shortest", "longest", "squash"), "interpolation": ("bicubic", "bilinear")}


def resolve(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a whole configuration: with what the file leaves to other places, and nothing that vectors do not need.

    Args:
        values: The `config.json` of a model with `model_type` `jina_clip`.
        where: Its path, for messages.

    Returns:
        `text_config`, with `adapter` (the number of the LoRA adapter that the model uses, or None) and, under the name
        that other kinds have, `projection_size`; `vision_config` with `hidden_size` (the size of its vectors); and
        `matryoshka_dimensions`.

    Raises:
        WeightsError: If a value is invalid, or the model has a part that is not supported.
    """
    whole = {"add_projections": False, "truncate_dim": None, **_part(values, "", where)}
    text = _text(_part(values, "text_config", where), where)
    vision = {**_VISION_DEFAULTS, **_part(values, "vision_config", where)}
    for name, part in (("", whole), ("text_config", text), ("vision_config", vision)):
        _check(part, name, where)
    if text["hidden_size"] != text["embed_dim"] or vision["width"] != vision["embed_dim"]:
        raise WeightsError(f"{where!r} has embed_dim unlike the towers' sizes, so it has projections: not supported")
    if vision["width"] % vision["head_width"] or vision["head_width"] % 4:
        raise WeightsError(f"{where!r}: head_width must be a multiple of 4 and divide width {vision['width']}")
    if text["hidden_size"] % (2 * text["num_attention_heads"]):
        raise WeightsError(f"{where!r}: hidden_size must be a multiple of twice num_attention_heads")
    grid = vision["image_size"] // vision["patch_size"]
    if grid < 1 or vision["width"] * vision["mlp_ratio"] > 2**16:
        raise WeightsError(
            f"{where!r}: image_size must be at least patch_size, and width times mlp_ratio at most 65536"
        )
    if not vision["intp_freq"] and grid != vision["pt_hw_seq_len"]:
        raise WeightsError(f"{where!r}: without intp_freq, pt_hw_seq_len must be the {grid} patches of a side")
    head_size = text["hidden_size"] // text["num_attention_heads"]
    _check_table("image_size² / patch_size² times head_width", grid**2 * vision["head_width"], where)
    _check_table("max_position_embeddings times a head's size", text["max_position_embeddings"] * head_size, where)
    return {
        "model_type": "jina_clip",
        "text_config": {**text, "adapter": _adapter(text, where), "projection_size": text["embed_dim"]},
        "vision_config": {**vision, "hidden_size": vision["embed_dim"]},
        "matryoshka_dimensions": _lengths(whole.get("matryoshka_dimensions") or [], vision["embed_dim"], where),
    }


def _part(values: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    part = values.get(name, {}) if name else values
    if not isinstance(part, dict):
        raise WeightsError(f"{where!r}: {name} is {part!r}; it must be an object")
    return part


def _text(given: dict[str, Any], where: str) -> dict[str, Any]:
    base = given.get("hf_model_name_or_path")
    if base not in _TEXT_BASES:
        which = "the text tower of jina-clip-v1" if base == _FIRST_VERSION else f"a text tower of {base!r}"
        known = " and ".join(repr(name) for name in _TEXT_BASES)
        raise WeightsError(
            f"{where!r} has {which}, which is not supported; it must be that of jina-clip-v2 (hf_model_name_or_path"
            f" {known})",
            hint="use 'hf:jinaai/jina-clip-v2'",
        )
    tower = {**_TEXT_BASES[base], **_part(given, "hf_model_config_kwargs", where)}
    own = {**_TEXT_DEFAULTS, **given}
    own["pooler_type"] = own["pooler_type"] or "mean_pooler"  # as the published code decides for this tower
    return {name: tower[name] for name in _TEXT_BASES[base]} | {name: own[name] for name in _TEXT_DEFAULTS}


def _check(part: dict[str, Any], name: str, where: str) -> None:
    label = f" of {name}" if name else ""
    for key, only in _ONLY[name].items():
        if part[key] != only or type(part[key]) is not type(only):
            raise WeightsError(f"{where!r}: {key}{label} is {part[key]!r}; only {only!r} is supported")
    for key, most in _WHOLE.get(name, {}).items():
        if type(part[key]) is not int or not 1 <= part[key] <= most:
            raise WeightsError(f"{where!r}: {key}{label} is {part[key]!r}; it must be an integer from 1 to {most}")
    for key in _POSITIVE.get(name, ()):
        if type(part[key]) not in (int, float) or not 0 < part[key] < _MOST:
            raise WeightsError(
                f"{where!r}: {key}{label} is {part[key]!r}; it must be a number above 0, below {_MOST:g}"
            )


def _check_table(what: str, values: int, where: str) -> None:
    if values > MAX_TABLE:
        raise WeightsError(f"{where!r}: {what} is {values:,}; it must be at most {MAX_TABLE:,}")


def _lengths(given: Any, dim: int, where: str) -> list[int]:
    """Return the numbers of leading values that the model was trained to use alone."""
    if not isinstance(given, list) or not all(type(length) is int and 0 < length <= dim for length in given):
        raise WeightsError(f"{where!r}: matryoshka_dimensions is {given!r}; it must be a list of integers up to {dim}")
    return given


def _adapter(text: dict[str, Any], where: str) -> int | None:
    """Return the number of the adapter that the published model uses unless it is asked for another."""
    task, tasks = text["default_lora_task"], text["lora_adaptations"]
    if task is None:
        return None
    if not isinstance(tasks, list) or task not in tasks:
        raise WeightsError(f"{where!r}: default_lora_task is {task!r}; it must be one of lora_adaptations: {tasks!r}")
    return tasks.index(task)


def read_preprocessing(values: dict[str, Any], where: str, tower_size: int) -> Preprocessing:
    """Return the preprocessing of the published image processor, which is open_clip's in other words.

    Images are converted to RGB first, as `encode_image` of the published code does.

    Args:
        values: The settings of a `JinaCLIPImageProcessor`.
        where: Path of their file, for messages.
        tower_size: Side of the tower's input images, in pixels.

    Raises:
        WeightsError: If a setting is invalid, or not supported.
    """
    given = {**_PROCESSOR_DEFAULTS, **{name: value for name, value in values.items() if value is not None}}
    size = given["size"]
    if size not in (tower_size, [tower_size, tower_size]) or isinstance(size, bool):
        raise WeightsError(f"{where!r} has size={size!r}; the model's config.json has image_size {tower_size}")
    for name, allowed in _PROCESSOR_CHOICES.items():
        if given[name] not in allowed:
            raise WeightsError(f"{where!r} has {name}={given[name]!r}; allowed: {', '.join(map(repr, allowed))}")
    if type(given["fill_color"]) is not int or not 0 <= given["fill_color"] <= 255:
        raise WeightsError(f"{where!r} has fill_color={given['fill_color']!r}; it must be an integer from 0 to 255")
    for name in ("mean", "std"):
        each = given[name]
        if not isinstance(each, list | tuple) or len(each) != 3 or not all(type(v) in (int, float) for v in each):
            raise WeightsError(f"{where!r} has {name}={each!r}; it must be three numbers, for red, green and blue")
    return dataclasses.replace(Preprocessing.of(tower_size, given), rgb="first")
