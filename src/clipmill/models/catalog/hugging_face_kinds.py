"""The kinds of models of Hugging Face's transformers that `hf:` loads, by the `model_type` of their `config.json`."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """What differs between the kinds; the rest is in the files of a model.

    Attributes:
        name: The class of the whole model in transformers, with both towers.
        processor: The class of the image processor, for files that name none.
        context_length: The default of `max_position_embeddings` of the text tower.
        max_tokens: The most tokens of a text as the model was trained, if the text tower reads more; None otherwise.
        padding: How rows of ids are padded. `causal`: to the longest, with 0; the tower pools the end of the text, and
            never sees what comes after it. `masked`: to the longest, and the tower is given a mask. `known`: to the
            longest, with the padding's id, from which the tower makes the mask itself. `whole`: to the context length
            with the tokenizer's own padding, which the tower sees, as in its training.
        pooling: The token whose state becomes the vector: `own`, as the tower's class does it, or the `first`.
        has_projection: Whether both towers are followed by a linear layer of the whole model.
        dim: The default of the vector's length.
        padding_positions: Whether positions are counted as in RoBERTa, from the id of the padding + 1, so that the
            first of them are no token's.
        is_own: Whether the towers are clipmill's, since transformers has no class for them; `name` is then that of
            the published code, which is not run.
    """

    name: str
    processor: str = "CLIPImageProcessor"
    context_length: int = 77
    max_tokens: int | None = None
    padding: Literal["causal", "masked", "known", "whole"] = "causal"
    pooling: Literal["own", "first"] = "own"
    has_projection: bool = True
    dim: int = 512
    padding_positions: bool = False
    is_own: bool = False


KINDS = {
    "clip": Kind("CLIPModel"),
    "metaclip_2": Kind("MetaClip2Model"),
    "siglip": Kind(
        "SiglipModel", "SiglipImageProcessor", context_length=64, padding="whole", has_projection=False, dim=768
    ),
    # 52 tokens as in the training and in the code of its authors, though its tokenizer has no limit below 512
    "chinese_clip": Kind(
        "ChineseCLIPModel",
        "ChineseCLIPImageProcessor",
        context_length=512,
        max_tokens=52,
        padding="masked",
        pooling="first",
    ),
    # 77 tokens as of the CLIP whose text tower it was taught by
    "altclip": Kind(
        "AltCLIPModel",
        context_length=514,
        max_tokens=77,
        padding="masked",
        pooling="first",
        dim=768,
        padding_positions=True,
    ),
    # 512 tokens as in the code of its authors; its text tower reads 8192
    "jina_clip": Kind(
        "JinaCLIPModel",
        "JinaCLIPImageProcessor",
        context_length=8194,
        max_tokens=512,
        padding="known",
        has_projection=False,
        dim=1024,
        padding_positions=True,
        is_own=True,
    ),
}

CLASSES = {**{model_type: kind.name for model_type, kind in KINDS.items()}, "clap": "ClapModel"}
"""The classes of all models that are loaded, by `model_type`. CLAP has no images, and files of its own here."""

REFUSED = {
    "siglip2": "images of any size (NaFlex), for which there is no batch of equal crops",
    "align": "an EfficientNet, whose preprocessing is not supported",
    "clip_text_model": "the text tower alone",
    "clip_vision_model": "the image tower alone",
    "siglip_text_model": "the text tower alone",
    "siglip_vision_model": "the image tower alone",
    "M-CLIP": "the text tower of an M-CLIP model, whose name here is 'M-CLIP/NAME::DIRECTORY'",
}
"""Values of `model_type` that are easily mistaken for one of the kinds, and what they are."""
