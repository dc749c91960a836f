"""Every name of open_clip that is used outside of its catalog, in one place.

open_clip 3 and 4 both have them; its own code may move them in a major version, so `pyproject.toml` excludes the next.
Of its models, `open_clip_build` uses these attributes besides: `visual`, `encode_image` and `encode_text`; of text
towers `token_embedding`, `positional_embedding`, `attn_mask`, `transformer`, `ln_final`, `text_projection`, `cls_emb`,
and `text_pool_type` or `pool_type`, `text_eos_id` or `eos_id`.
"""

from __future__ import annotations

from open_clip import CLIP, CoCa, CustomTextCLIP, get_model_config
from open_clip.convert import convert_state_dict
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import TextTransformer, text_global_pool

__all__ = [
    "CLIP",
    "CoCa",
    "CustomTextCLIP",
    "ModifiedResNet",
    "TextTransformer",
    "convert_state_dict",
    "get_model_config",
    "text_global_pool",
]
