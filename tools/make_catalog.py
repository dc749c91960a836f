"""Write src/clipmill/models/catalog/open_clip.json, a table of the installed open_clip's models.

A spec must be checked, and its dimension known, on a machine without torch and open_clip (a job's driver), so the facts
ship with the package. `tests/models/test_catalog.py` compares the table with the installed open_clip.
    python tools/make_catalog.py
"""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # requests to a hub fail at once

import open_clip
from open_clip.factory import get_model_config
from open_clip.pretrained import _PRETRAINED

from clipmill.models.catalog.backbones import BACKBONES
from clipmill.models.towers.open_clip_build import build_unfilled

TARGET = Path(__file__).parent.parent / "src" / "clipmill" / "models" / "catalog" / "open_clip.json"
SUFFIX = "-quickgelu"
TEXT_KEYS = ("hf_tokenizer_name", "tokenizer_kwargs", "hf_model_name", "no_causal_mask", "embed_cls", "pool_type")
"""The keys of a text tower's configuration that affect how texts are prepared."""

BY_URL = {("ViT-B-16-plus-240", "laion400m_e32")}
"""Pairs whose hub entry holds other weights (open_clip 3.3.0 gives both of this model's tags the first one's entry)."""


def count_parameters(name: str) -> int:
    """Count a model's parameters without allocating them."""
    config = get_model_config(name)
    model = build_unfilled(config, BACKBONES.get(config["text_cfg"].get("hf_model_name")))
    return sum(p.numel() for p in model.parameters())


def architecture(name: str) -> dict[str, Any]:
    """Return the facts of one architecture that planning a job needs."""
    config = get_model_config(name)
    facts: dict[str, Any] = {
        "dim": config["embed_dim"],
        "image_size": config["vision_cfg"]["image_size"],
        "context_length": config["text_cfg"].get("context_length", 77),
    }
    if text := {key: config["text_cfg"][key] for key in TEXT_KEYS if config["text_cfg"].get(key)}:
        facts["text"] = text
    if config.get("quick_gelu"):
        facts["quick_gelu"] = True
    facts["parameters"] = count_parameters(name)
    return facts


def weights(base: str, tag: str, config: dict[str, Any], architectures: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of one (model, tag), without preprocessing values that equal OpenAI's."""
    facts: dict[str, Any] = {}
    if config.get("quick_gelu") or architectures[base].get("quick_gelu"):
        facts["quick_gelu"] = True
    mean, std = config.get("mean"), config.get("std")
    if mean and tuple(mean) != open_clip.OPENAI_DATASET_MEAN:
        facts["mean"] = list(mean)
    if std and tuple(std) != open_clip.OPENAI_DATASET_STD:
        facts["std"] = list(std)
    if config.get("interpolation", "bicubic") != "bicubic":
        facts["interpolation"] = config["interpolation"]
    if config.get("resize_mode", "shortest") != "shortest":
        facts["resize_mode"] = config["resize_mode"]
    if config.get("hf_hub") and (base, tag) not in BY_URL:
        facts["hub"] = config["hf_hub"]
    if url := config.get("url"):
        facts["url"] = url
        if sha256 := published_hash(url):
            facts["sha256"] = sha256
    return facts


def published_hash(url: str) -> str | None:
    """Return the SHA-256, or its first digits, from a URL: OpenAI's is a folder, LAION's is in the file's name."""
    *_, folder, name = url.split("/")
    found = re.fullmatch(r"[0-9a-f]{64}", folder) or re.search(r"(?<=-)[0-9a-f]{8}(?=\.pth?$)", name)
    return found[0] if found else None


def main() -> None:
    """Write the table."""
    logging.disable(logging.WARNING)  # "initialized randomly": parameters of these models are only counted
    pairs = {name: tags for name, tags in _PRETRAINED.items() if get_model_config(name)}
    names = [n for n in open_clip.list_models() if not (n.endswith(SUFFIX) and n.removesuffix(SUFFIX) in pairs)]
    architectures = {name: architecture(name) for name in names}
    table = {
        "open_clip": open_clip.__version__,
        "architectures": architectures,
        "weights": {
            name: {tag: weights(name, tag, config, architectures) for tag, config in tags.items()}
            for name, tags in pairs.items()
            if name in architectures
        },
    }
    lines = json.dumps(table, indent=1)
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(lines + "\n")
    print(TARGET, len(lines), "bytes,", sum(map(len, table["weights"].values())), "pairs")


if __name__ == "__main__":
    main()
