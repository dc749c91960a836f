"""Parity rows of newer models in their real size: open_clip's architectures, and jina-clip-v2."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import open_clip
import tiny_tokenizers
import torch
from hub_cache import put_repository
from jina_clip_reference import Weights, image_vector, pixels, text_vector
from jina_clip_weights import PROCESSOR, drawn_state, published, write_others
from open_clip.tokenizer import HFTokenizer
from parity_rows import TEXTS, Drawn, Row, images, open_clip_images, swapped
from safetensors.torch import save_file
from tokenizers import Tokenizer, processors
from weights import write_safetensors

from clipmill.models.catalog.backbones import BACKBONES
from clipmill.models.towers.open_clip_build import build_module

OPEN_CLIP = f"open_clip {open_clip.__version__}"


def _nllb() -> tiny_tokenizers.Made:
    """NLLB's kind: the language in front of a text."""
    tokenizer, settings = tiny_tokenizers.xlm_roberta()
    tokenizer.add_special_tokens(["eng_Latn"])
    language = tokenizer.token_to_id("eng_Latn")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="eng_Latn $A </s>", special_tokens=[("eng_Latn", language), ("</s>", 2)]
    )
    return tokenizer, {**settings, "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}


_TOKENIZERS = {
    "timm/ViT-SO400M-16-SigLIP2-384": tiny_tokenizers.gemma,
    "facebook/nllb-200-distilled-600M": _nllb,
    "facebook/xlm-v-base": tiny_tokenizers.xlm_roberta,
}
"""Small tokenizers for those of repositories; the vocabularies of the towers keep their size."""


def architecture_row(architecture: str) -> Row:
    """Return the row of an architecture of open_clip, whatever its towers."""

    def draw(folder: Path) -> Drawn:
        config = copy.deepcopy(open_clip.get_model_config(architecture))
        text = config["text_cfg"]
        module = _drawn(config, text.get("hf_model_name"))
        write_safetensors(module, folder / "open_clip_model.safetensors")
        options = {}
        if repository := text.get("hf_tokenizer_name"):
            files = tiny_tokenizers.files_of(_TOKENIZERS[repository]())
            place = put_repository(folder / "cache", repository, files)
            options = {"cache_dir": str(folder / "cache")}
            arguments = text.get("tokenizer_kwargs") or {}
            tokenizer = HFTokenizer(str(place), context_length=text.get("context_length", 77), **arguments)
        else:
            tokenizer = open_clip.get_tokenizer(architecture)

        def encode_texts(texts: list[str]) -> np.ndarray:
            with torch.inference_mode():
                return torch.cat([module.encode_text(tokenizer([one])) for one in texts]).numpy()

        vectors = {"image": open_clip_images(module, images()), "text": encode_texts(TEXTS)}
        controls = {
            ("image", "red and blue exchanged"): open_clip_images(module, swapped(images())),
            ("image", "mean and std 0.5"): open_clip_images(module, images(), mean=(0.5,) * 3, std=(0.5,) * 3),
            ("text", "another word in front"): encode_texts([f"not {one}" for one in TEXTS]),
        }
        return Drawn(f"{architecture}::{folder / 'open_clip_model.safetensors'}", options, vectors, controls)

    return Row(architecture, OPEN_CLIP, draw)


def _drawn(config: dict, backbone: str | None) -> torch.nn.Module:
    """Build an architecture whose biases and blocks show in its vectors."""
    torch.manual_seed(0)
    module = build_module(config, BACKBONES[backbone] if backbone else None).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
            elif name.endswith("gamma"):  # the scale of a layer, 1e-5 before training
                parameter.copy_(0.3 + 0.4 * torch.rand(parameter.shape, generator=generator))
            elif name.endswith("head.weight"):  # a thousandth of this before training
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
            elif parameter.ndim == 2 and ("layer" in name or "block" in name or "proj" in name):
                parameter.mul_(1.5)
    return module


def _jina_clip(folder: Path) -> Drawn:
    config = published()
    processor = {**PROCESSOR, "size": config["vision_config"]["image_size"]}
    directory = folder / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    write_others(directory, processor)
    state = drawn_state(config)
    save_file(state, str(directory / "model.safetensors"))
    own, bare = (Weights(state, task, config) for task in ("retrieval.query", None))
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    ids = [tokenizer.encode(text).ids for text in TEXTS]

    def encode_images(files: list[bytes]) -> np.ndarray:
        return np.stack([image_vector(pixels(file, "bicubic", processor), own) for file in files])

    return Drawn(
        f"hf:{directory}",
        {},
        {"image": encode_images(images()), "text": np.stack([text_vector(row, own) for row in ids])},
        {
            ("image", "red and blue exchanged"): encode_images(swapped(images())),
            ("text", "without the adapter"): np.stack([text_vector(row, bare) for row in ids]),
        },
    )


MODERN = [
    architecture_row("ViT-SO400M-16-SigLIP2-384"),
    architecture_row("ViT-H-14-worldwide"),
    architecture_row("EVA02-L-14"),
    architecture_row("ViT-H-14-378"),
    architecture_row("MobileCLIP2-S4"),
    architecture_row("PE-Core-L-14-336"),
    architecture_row("ViTamin-L"),
    architecture_row("coca_ViT-L-14"),
    architecture_row("nllb-clip-base-siglip"),
    Row("hf: jina-clip-v2", "the formulas, written again", _jina_clip),
]
