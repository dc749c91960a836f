"""Configurations of the Hugging Face text towers in open_clip's models, so that they need no download.

open_clip's own configurations only name them (`hf_model_name`). The values are from the models' repositories.
"""

from __future__ import annotations

from typing import Any

KINDS = ("roberta", "xlm-roberta", "bert", "mt5", "m2m_100")
"""The values of `model_type` that open_clip supports."""


def _roberta(kind: str, vocabulary: int, width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": kind,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "hidden_act": "gelu",
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }


def _mt5(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "mt5",
        "vocab_size": 250_112,
        "d_model": width,
        "d_kv": 64,
        "d_ff": inner,
        "num_layers": layers,
        "num_decoder_layers": layers,
        "num_heads": heads,
        "relative_attention_num_buckets": 32,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def _nllb(layers: int, inner: int) -> dict[str, Any]:
    return {
        "model_type": "m2m_100",
        "vocab_size": 256_206,
        "d_model": 1024,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "encoder_attention_heads": 16,
        "decoder_attention_heads": 16,
        "encoder_ffn_dim": inner,
        "decoder_ffn_dim": inner,
        "activation_function": "relu",
        "scale_embedding": True,
        "max_position_embeddings": 1024,
        "is_encoder_decoder": True,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    }


BACKBONES: dict[str, dict[str, Any]] = {
    "roberta-base": _roberta("roberta", 50_265, 768, 12, 12),
    "xlm-roberta-base": _roberta("xlm-roberta", 250_002, 768, 12, 12),
    "xlm-roberta-large": _roberta("xlm-roberta", 250_002, 1024, 24, 16),
    "google/mt5-base": _mt5(768, 2048, 12, 12),
    "google/mt5-xl": _mt5(2048, 5120, 24, 32),
    "facebook/nllb-200-distilled-600M": _nllb(12, 4096),
    "facebook/nllb-200-distilled-1.3B": _nllb(24, 8192),
}
"""`config.json` by the name in open_clip's configurations."""
