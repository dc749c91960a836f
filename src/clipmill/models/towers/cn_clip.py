"""Chinese-CLIP's RN50, from its authors' file: OpenAI's ResNet with attention pooling, and a BERT of three layers."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import require
from ..catalog import cn_clip
from ..downloads.model_files import find_file, is_directory
from ..frontend import Frontend, TextFrontend
from ..source import ModelSource
from ..spec import EncoderSpec
from ..tokenizers.fast import FastTokenizer
from ..tokenizers.hugging_face import find_definition
from .scales import clip_scales
from .token_limit import token_limit

if TYPE_CHECKING:
    import torch


def find_source(spec: EncoderSpec) -> ModelSource:
    """Find the weights and the vocabulary of RN50, downloading files that are not cached.

    Args:
        spec: Of family `cn-clip`. A directory has `clip_cn_rn50.pt` and `vocab.txt`.

    Raises:
        WeightsError: If a file is not available.
        SpecError: If the limit of tokens exceeds the text tower's context.
    """
    place = spec.ref.weights or cn_clip.RESNET_REPOSITORY
    limit = token_limit(spec, cn_clip.MAX_TEXT_TOKENS, cn_clip.CONTEXT_LENGTH)
    weights = find_file(place, cn_clip.RESNET_FILE, spec.cache_dir)
    vocabulary = place if is_directory(place) else cn_clip.VOCABULARY_REPOSITORY
    definition = find_definition(vocabulary, {}, spec.cache_dir)
    tokenizer = FastTokenizer(definition, cn_clip.CONTEXT_LENGTH, cn_clip.TEXT["pad_token_id"], max_tokens=limit)
    return ModelSource(
        Frontend(cn_clip.DIM, image=spec.facts.preprocessing, text=TextFrontend(tokenizer, masked=True)),
        (weights,),
        functools.partial(_build, weights),
        {"architecture": cn_clip.RESNET},
        scales=functools.partial(clip_scales, (weights,)),
    )


def _build(weights: Path) -> dict[str, torch.nn.Module]:
    require("transformers", "hf", cn_clip.RESNET)
    from .cn_clip_build import build  # imports torch, open_clip and transformers, which cached graphs do not need

    return build(weights)
