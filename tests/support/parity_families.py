"""Parity rows of the families beside open_clip: Hugging Face, M-CLIP, AudioCLIP, and open_clip's other text towers."""

from __future__ import annotations

import copy
import gc
import io
from pathlib import Path
from typing import Any

import audioclip_reference
import clap_weights
import numpy as np
import open_clip
import soxr
import tiny_tokenizers
import torch
import transformers
from hub_cache import put_repository
from hugging_face_weights import OLD_PROCESSOR, drawn_clip, write_model
from mclip_weights import write_mclip
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import image_transform
from parity_rows import SOUNDS, TEXTS, Drawn, Row, images, open_clip_images, swapped
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedTokenizerFast
from weights import drawn_module, write_safetensors

from clipmill.models.catalog import mclip
from clipmill.models.catalog.backbones import BACKBONES
from clipmill.models.towers.open_clip_build import build_module

TRANSFORMERS = f"transformers {transformers.__version__}"
OPEN_CLIP = f"open_clip {open_clip.__version__}"
VIT_B_32: dict[str, Any] = {  # as OpenAI's repository has it
    "model_type": "clip",
    "projection_dim": 512,
    "text_config": {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1},
    "vision_config": {},
}


def hugging_face_row(name: str, config: dict[str, Any], *, small: bool = False) -> Row:
    """Return the row of a `CLIPModel` with this configuration."""

    def draw(folder: Path) -> Drawn:
        module = drawn_clip(config)
        write_model(folder / "model", module, processor=OLD_PROCESSOR)
        processor = AutoImageProcessor.from_pretrained(folder / "model", backend="pil")
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")

        def encode_images(files: list[bytes]) -> np.ndarray:
            rows = [processor(Image.open(io.BytesIO(file)), return_tensors="pt").pixel_values for file in files]
            return module.get_image_features(torch.cat(rows)).pooler_output.numpy()

        with torch.inference_mode():
            tokens = tokenizer(TEXTS, padding="longest", truncation=True, max_length=77, return_tensors="pt")
            texts = module.get_text_features(**tokens).pooler_output
            return Drawn(
                f"hf:{folder / 'model'}",
                {},
                {"image": encode_images(images()), "text": texts.numpy()},
                {
                    ("image", "red and blue exchanged"): encode_images(swapped(images())),
                    ("text", "projected twice"): module.text_projection(texts).numpy(),
                },
            )

    return Row(name, TRANSFORMERS, draw, small)


def _mclip_texts(tower: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, *, mean: bool = True) -> np.ndarray:
    with torch.inference_mode():
        states = tower.transformer(input_ids=ids, attention_mask=mask).last_hidden_state.double()
    weight, bias = (parameter.detach().double() for parameter in tower.LinearTransformation.parameters())
    shares = mask[..., None].double()
    pooled = (states * shares).sum(1) / shares.sum(1) if mean else states[:, 0]
    return (pooled @ weight.T + bias).float().numpy()


def mclip_row(name: str) -> Row:
    """Return the row of one of the four models, in its real size."""
    model = mclip.MODELS[name]

    def draw(folder: Path) -> Drawn:
        tower = write_mclip(folder / "text", model.base, model.dim)
        pad = {"labse": "[PAD]", "xlm-roberta-large": "<pad>"}[model.base]
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "text" / "tokenizer.json"), pad_token=pad)
        tokens = tokenizer(TEXTS, padding=True, truncation=True, max_length=77, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        vectors = {"text": _mclip_texts(tower, ids, mask)}
        controls = {("text", "first token for the mean"): _mclip_texts(tower, ids, mask, mean=False)}
        del tower
        gc.collect()
        module = drawn_module(model.image_architecture, quick_gelu=model.image_tag == "openai")
        path = write_safetensors(module, folder / "image.safetensors")
        vectors["image"] = open_clip_images(module, images())
        controls["image", "red and blue exchanged"] = open_clip_images(module, swapped(images()))
        return Drawn(f"{name}::{folder / 'text'}", {"image_weights": str(path)}, vectors, controls)

    return Row(name, f"{TRANSFORMERS} and the formula; {OPEN_CLIP}", draw)


def _audioclip(folder: Path) -> Drawn:
    state = audioclip_reference.draw()
    torch.save(state, folder / "AudioCLIP-Full-Training.pt")
    prepare = image_transform(224, is_train=False)

    def encode_images(files: list[bytes]) -> np.ndarray:
        pixels = torch.stack([prepare(Image.open(io.BytesIO(file))) for file in files])
        return audioclip_reference.image(state, pixels).numpy()

    def encode_sounds(scale: float) -> np.ndarray:
        waves = [torch.from_numpy(wave)[None, None] * scale for wave, _ in SOUNDS]
        return torch.cat([audioclip_reference.audio(state, wave) for wave in waves]).numpy()

    ids = open_clip.tokenize(TEXTS)
    with torch.inference_mode():
        return Drawn(
            f"AudioCLIP::{folder / 'AudioCLIP-Full-Training.pt'}",
            {},
            {
                "image": encode_images(images()),
                "text": audioclip_reference.text(state, ids).numpy(),
                "audio": encode_sounds(32768.0),
            },
            {
                ("image", "red and blue exchanged"): encode_images(swapped(images())),
                ("text", "the other activation"): audioclip_reference.text(
                    state, ids, audioclip_reference.Variant(gelu=True)
                ).numpy(),
                ("audio", "not scaled to 16 bits"): encode_sounds(1.0),
            },
        )


def _clap(folder: Path) -> Drawn:
    case = clap_weights.write(folder / "model", clap_weights.drawn({"model_type": "clap"}))
    waves = [soxr.resample(wave, rate, clap_weights.RATE, quality="HQ") for wave, rate in SOUNDS]
    return Drawn(
        case.model,
        {},
        {"audio": case.audio(waves), "text": case.texts(TEXTS)},
        {
            ("audio", "filled with zeros, not repeated"): case.audio(waves, padding="pad"),
            ("text", "padding not masked"): case.texts(TEXTS, masked=False),
        },
    )


def other_text_row(architecture: str, backbone: str) -> Row:
    """Return the row of an open_clip model whose text tower is one of Hugging Face's, with a small tokenizer."""

    def draw(folder: Path) -> Drawn:
        config = copy.deepcopy(open_clip.get_model_config(architecture))
        torch.manual_seed(0)
        module = build_module(config, BACKBONES[backbone]).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name.endswith("bias"):
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
                elif parameter.ndim == 2 and ("layer" in name or "resblocks" in name or "proj" in name):
                    parameter.mul_(2.0)
        write_safetensors(module, folder / "open_clip_model.safetensors")
        made = (tiny_tokenizers.roberta if backbone == "roberta-base" else tiny_tokenizers.xlm_roberta)()
        names = put_repository(folder / "cache", backbone, tiny_tokenizers.files_of(made))
        ids = HFTokenizer(str(names), context_length=77)(TEXTS)
        with torch.inference_mode():
            vectors = {"image": open_clip_images(module, images()), "text": module.encode_text(ids).numpy()}
            controls = {
                ("image", "red and blue exchanged"): open_clip_images(module, swapped(images())),
                ("text", "end token left out"): module.encode_text(ids.where(ids != 2, 1)).numpy(),
            }
        options = {"cache_dir": str(folder / "cache")}
        return Drawn(f"{architecture}::{folder / 'open_clip_model.safetensors'}", options, vectors, controls)

    return Row(architecture, OPEN_CLIP, draw)


FAMILIES = [
    other_text_row("roberta-ViT-B-32", "roberta-base"),
    other_text_row("xlm-roberta-base-ViT-B-32", "xlm-roberta-base"),
    other_text_row("xlm-roberta-large-ViT-H-14", "xlm-roberta-large"),
    hugging_face_row("hf: CLIPModel, ViT-B/32", VIT_B_32),
    *(mclip_row(name) for name in mclip.MODELS),
    Row("AudioCLIP", "the formulas, written again", _audioclip),
    Row("hf: ClapModel, HTSAT and RoBERTa", TRANSFORMERS, _clap),
]
