"""The four models of Multilingual-CLIP: text towers trained to match the image towers of CLIP models.

The facts are from the models' repositories and cards (`huggingface.co/M-CLIP`). The paper is Carlsson et al.,
"Cross-lingual and Multilingual CLIP" (LREC 2022).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from .backbones import BACKBONES
from .tables import QUICKGELU, weights

MAX_TEXT_TOKENS = 77
"""Default limit of tokens, as in clip-as-service; the text towers read up to 512."""


@dataclasses.dataclass(frozen=True, slots=True)
class MClipModel:
    """A model of Multilingual-CLIP.

    Attributes:
        dim: Values in a vector.
        base: The text tower's architecture, a key of `BASES`.
        image_architecture: open_clip's name of the image tower.
        image_tag: open_clip's tag of its weights.
    """

    dim: int
    base: str
    image_architecture: str
    image_tag: str


MODELS = {
    "M-CLIP/XLM-Roberta-Large-Vit-B-32": MClipModel(512, "xlm-roberta-large", "ViT-B-32", "openai"),
    "M-CLIP/XLM-Roberta-Large-Vit-L-14": MClipModel(768, "xlm-roberta-large", "ViT-L-14", "openai"),
    "M-CLIP/XLM-Roberta-Large-Vit-B-16Plus": MClipModel(640, "xlm-roberta-large", "ViT-B-16-plus-240", "laion400m_e32"),
    "M-CLIP/LABSE-Vit-L-14": MClipModel(768, "labse", "ViT-L-14", "openai"),
}


BASES: dict[str, dict[str, Any]] = {
    "xlm-roberta-large": BACKBONES["xlm-roberta-large"],
    "labse": {
        "model_type": "bert",
        "vocab_size": 501_153,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    },
}
"""Configurations of the text towers, so that their own repositories are not needed.

The keys are the last part of `modelBase` in M-CLIP's `config.json`, in lower case.
"""


def longest_text(base: str) -> int:
    """Return the most tokens that a text tower reads: XLM-R's positions start after the padding id."""
    config = BASES[base]
    skipped = config["pad_token_id"] + 1 if config["model_type"] == "xlm-roberta" else 0
    return int(config["max_position_embeddings"]) - skipped


def image_model(name: str, image_weights: str | None = None) -> str:
    """Return the open_clip name of a model's image tower.

    Args:
        name: A key of `MODELS`.
        image_weights: A tag of the image tower's architecture, or the absolute path of a file; None means the
            published pairing. With a file, a tower paired with OpenAI's weights has QuickGELU, as those do.
    """
    model = MODELS[name]
    chosen = image_weights or model.image_tag
    published = weights()[model.image_architecture][model.image_tag]
    suffix = QUICKGELU if "/" in chosen and published.get("quick_gelu") else ""
    return f"{model.image_architecture}{suffix}::{chosen}"
