"""Chinese-CLIP's five models, by the names that clip-as-service gave them.

Four have files of transformers and are loaded from these. The fifth, RN50, is published as its authors' file alone; its
sizes are from their code (`github.com/OFA-Sys/Chinese-CLIP`). The paper is Yang et al., "Chinese CLIP: Contrastive
Vision-Language Pretraining in Chinese" (2022).
"""

from __future__ import annotations

from typing import Any

REPOSITORIES = {
    "CN-CLIP/ViT-B-16": "OFA-Sys/chinese-clip-vit-base-patch16",
    "CN-CLIP/ViT-L-14": "OFA-Sys/chinese-clip-vit-large-patch14",
    "CN-CLIP/ViT-L-14-336": "OFA-Sys/chinese-clip-vit-large-patch14-336px",
    "CN-CLIP/ViT-H-14": "OFA-Sys/chinese-clip-vit-huge-patch14",
}
RESNET = "CN-CLIP/RN50"
NAMES = (*REPOSITORIES, RESNET)

RESNET_REPOSITORY, RESNET_FILE = "OFA-Sys/chinese-clip-rn50", "clip_cn_rn50.pt"
VOCABULARY_REPOSITORY = REPOSITORIES["CN-CLIP/ViT-B-16"]
"""Has the vocabulary, which is the same for all five, and which the repository of RN50 lacks."""

DIM, IMAGE_SIZE = 1024, 224
CONTEXT_LENGTH, MAX_TEXT_TOKENS = 512, 52
"""What the text tower reads, and what it was trained with."""

VISION: dict[str, Any] = {"layers": (3, 4, 6, 3), "width": 64, "heads": 32}
TEXT: dict[str, Any] = {
    "vocab_size": 21_128,
    "hidden_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": CONTEXT_LENGTH,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
