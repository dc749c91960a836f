"""Directories with a Hugging Face `CLIPModel`, in the layouts that its hub has seen, on weights that matter."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPConfig, CLIPModel, CLIPTokenizer

from clipmill.models.tokenizers.clip_bpe import _MERGES, vocabulary_file

TEXTS = [
    "she smiled, with pain",
    "a photo of a cat",
    "ÜBER-straße 日本 🙂",
    "word " * 200,
    "&amp; it's <3",
    "x",
    "a\n b",
]
EXACT = {"device": "cpu", "precision": "fp32", "runtime": "torch", "decode": "exact"}

OPENAI_MEAN = [0.48145466, 0.4578275, 0.40821073]
OPENAI_STD = [0.26862954, 0.26130258, 0.27577711]

OLD_PROCESSOR = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": OPENAI_MEAN,
    "image_std": OPENAI_STD,
    "resample": 3,
    "size": 224,
}
"""The settings as `openai/clip-vit-base-patch32` has them since 2021."""

NEW_PROCESSOR = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": OPENAI_MEAN,
    "image_processor_type": "CLIPImageProcessor",
    "image_std": OPENAI_STD,
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}
"""The settings as transformers writes them today."""


@dataclasses.dataclass
class Case:
    """A directory, and transformers' own model, tokenizer and image processor from it."""

    directory: Path
    module: CLIPModel

    @property
    def model(self) -> str:
        return f"hf:{self.directory}"

    def reference_pixels(self, files: list[bytes], **settings: object) -> torch.Tensor:
        processor = AutoImageProcessor.from_pretrained(self.directory, backend="pil", **settings)
        return torch.cat([processor(Image.open(io.BytesIO(f)), return_tensors="pt").pixel_values for f in files])

    def reference_images(self, files: list[bytes], **settings: object) -> torch.Tensor:
        with torch.inference_mode():
            return self.module.get_image_features(self.reference_pixels(files, **settings)).pooler_output

    def reference_texts(self, texts: list[str]) -> torch.Tensor:
        tokenizer = AutoTokenizer.from_pretrained(self.directory)
        inputs = tokenizer(texts, padding="longest", truncation=True, max_length=77, return_tensors="pt")
        with torch.inference_mode():
            return self.module.get_text_features(**inputs).pooler_output


def small_config(**options: Any) -> dict[str, Any]:
    """Return a configuration of a few layers, whose towers are as wide as their projections.

    Args:
        **options: `hidden_act` and `eos_token_id`, and others of the towers.
    """
    act = options.pop("hidden_act", "quick_gelu")
    text = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "hidden_act": act,
        "eos_token_id": options.pop("eos_token_id", 49407),
    }
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "hidden_act": act,
        "image_size": options.pop("image_size", 64),
        "patch_size": 16,
    }
    return {"model_type": "clip", "text_config": text, "vision_config": vision, "projection_dim": 64, **options}


def drawn_clip(config: dict[str, Any], seed: int = 0) -> CLIPModel:
    """Build a `CLIPModel` whose activations, biases and positions all show in its vectors."""
    torch.manual_seed(seed)
    return drawn(CLIPModel(CLIPConfig.from_dict(config)), seed)


def drawn(module: Any, seed: int = 0) -> Any:
    """Draw the parameters of a model anew, so that its activations, biases and positions all show in its vectors."""
    module = module.eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith(".weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith(".bias"):
                parameter.copy_(0.2 * noise)
            elif "embedding" in name and parameter.ndim < 4:
                parameter.copy_(0.5 * noise)
            elif parameter.ndim >= 2:
                gain = 5.0 if "fc2" in name else 1.5  # what comes behind the activation has to be heard
                parameter.copy_(gain * noise / parameter[0].numel() ** 0.5)
    return module


def write_tokenizer(directory: Path, *, whole: bool = True) -> None:
    """Write CLIP's tokenizer.

    Args:
        directory: Where to.
        whole: As `tokenizer.json`; else as the two older files.
    """
    lines = gzip.decompress(vocabulary_file().read_bytes()).decode("utf-8").split("\n")[1 : _MERGES + 1]
    symbols = [chr(point) for point in _byte_points()]
    words = [*symbols, *(f"{s}</w>" for s in symbols), *("".join(line.split()) for line in lines)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary, merges = directory / "vocab.json", directory / "merges.txt"
    vocabulary.write_text(json.dumps({word: number for number, word in enumerate(words)}), encoding="utf-8")
    merges.write_text("\n".join(["#version: 0.2", *lines]) + "\n", encoding="utf-8")
    if whole:
        CLIPTokenizer(vocab=str(vocabulary), merges=str(merges), model_max_length=77).save_pretrained(directory)
        vocabulary.unlink()
        merges.unlink()


def _byte_points() -> list[int]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return printable + [256 + number for number in range(256 - len(printable))]


def write_model(
    directory: Path,
    module: CLIPModel,
    *,
    processor: dict[str, Any] | None = NEW_PROCESSOR,
    layout: str = "safetensors",
    tokenizer: bool = True,
) -> Path:
    """Write a model's directory.

    Args:
        directory: Where to; made if need be.
        module: The model.
        processor: The image processor's settings without sizes, which are the model's; None writes none.
        layout: `safetensors`, `sharded`, or `bin` (with the `position_ids` of older versions).
        tokenizer: Whether to write one.
    """
    options = {"max_shard_size": "2MB"} if layout == "sharded" else {}
    module.save_pretrained(directory, **options)
    if layout == "bin":
        (directory / "model.safetensors").unlink()
        state = dict(module.state_dict())
        for tower, count in (("text_model", 77), ("vision_model", module.vision_model.embeddings.num_positions)):
            state[f"{tower}.embeddings.position_ids"] = torch.arange(count)[None]
        torch.save(state, directory / "pytorch_model.bin")
    if processor is not None:
        write_processor(directory, processor, module.config.vision_config.image_size)
    if tokenizer:
        write_tokenizer(directory)
    return directory


def write_processor(directory: Path, processor: dict[str, Any], size: int) -> None:
    """Write an image processor's settings, every 224 in them replaced by the model's size."""
    text = json.dumps(processor).replace("224", str(size))
    (directory / "preprocessor_config.json").write_text(text, encoding="utf-8")
