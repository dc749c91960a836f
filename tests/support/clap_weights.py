"""Directories with a `ClapModel` as the hub has them, on weights that matter, and transformers' vectors of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import tiny_tokenizers
import torch
from transformers import AutoTokenizer, ClapConfig, ClapFeatureExtractor, ClapModel

RATE = 48_000
WINDOW = 480_000
EXTRACTOR = {
    "chunk_length_s": 10,
    "feature_extractor_type": "ClapFeatureExtractor",
    "feature_size": 64,
    "fft_window_size": 1024,
    "frequency_max": 14000,
    "frequency_min": 50,
    "hop_length": 480,
    "max_length_s": 10,
    "n_fft": 1024,
    "nb_frequency_bins": 513,
    "nb_max_frames": 1000,
    "nb_max_samples": 480000,
    "padding": "repeatpad",
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "ClapProcessor",
    "return_attention_mask": False,
    "sampling_rate": 48000,
    "top_db": None,
    "truncation": "rand_trunc",
}
"""The settings in `preprocessor_config.json` of the unfused models."""


def config(**audio: Any) -> dict[str, Any]:
    """Return a configuration of a few narrow layers, for spectrograms of the published size."""
    return {
        "model_type": "clap",
        "projection_dim": 24,
        "text_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 800,
            "max_position_embeddings": 66,
        },
        "audio_config": {
            "patch_embeds_hidden_size": 16,
            "hidden_size": 32,
            "depths": [2, 2],
            "num_attention_heads": [2, 4],
            **audio,
        },
    }


def drawn(values: dict[str, Any], seed: int = 0) -> ClapModel:
    """Build a model whose positions, masks, biases, scales and statistics all show in its vectors."""
    module = ClapModel(ClapConfig.from_dict(values)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.startswith("logit_scale"):
                parameter.copy_(torch.tensor(2.5 if name.endswith("a") else 3.0))
            elif "norm" in name.lower() and name.endswith(".weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith(".bias"):
                parameter.copy_(0.2 * noise)
            elif "embeddings" in name or "bias_table" in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(1.5 * noise / parameter[0].numel() ** 0.5)
        norm = module.audio_model.audio_encoder.batch_norm  # of decibels
        norm.running_mean.copy_(-40 + 5 * torch.randn(norm.running_mean.shape, generator=generator))
        norm.running_var.copy_(300 + 100 * torch.rand(norm.running_var.shape, generator=generator))
    return module


@dataclasses.dataclass
class Case:
    """A directory, and transformers' own model, tokenizer and feature extractor from it."""

    directory: Path
    module: ClapModel

    @property
    def model(self) -> str:
        return f"hf:{self.directory}"

    def features(self, waves: list[np.ndarray], **settings: Any) -> torch.Tensor:
        """Return transformers' spectrograms of mono waveforms of at most ten seconds."""
        extractor = ClapFeatureExtractor.from_pretrained(self.directory, **settings)
        return extractor(waves, sampling_rate=extractor.sampling_rate, return_tensors="pt")["input_features"]

    def audio(self, waves: list[np.ndarray], **settings: Any) -> np.ndarray:
        """Return transformers' vectors of mono waveforms of at most ten seconds."""
        with torch.inference_mode():
            rows = [self.module.get_audio_features(input_features=self.features([w], **settings)) for w in waves]
        return torch.cat([row.pooler_output for row in rows]).numpy()

    def texts(self, texts: list[str], *, masked: bool = True) -> np.ndarray:
        """Return transformers' vectors of texts, padded to the longest."""
        tokenizer = AutoTokenizer.from_pretrained(self.directory)
        limit = self.module.config.text_config.max_position_embeddings - 2
        inputs = dict(tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt"))
        with torch.inference_mode():
            mask = inputs["attention_mask"] if masked else torch.ones_like(inputs["attention_mask"])
            return self.module.get_text_features(inputs["input_ids"], mask).pooler_output.numpy()


def write(directory: Path, module: ClapModel, **changed: Any) -> Case:
    """Write a model's directory; `changed` replaces settings of its feature extractor."""
    module.save_pretrained(directory)
    text = json.dumps({**EXTRACTOR, **changed})
    (directory / "preprocessor_config.json").write_text(text, encoding="utf-8")
    for name, content in tiny_tokenizers.files_of(tiny_tokenizers.roberta()).items():
        (directory / name).write_bytes(content)
    return Case(directory, module)
