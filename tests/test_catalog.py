"""The table of models, held against the installed open_clip."""

from __future__ import annotations

import open_clip
import pytest
import torch
from open_clip.factory import get_model_config

from clipmill.encoders.catalog import resolve_model
from clipmill.encoders.catalog.tables import OPENAI_MEAN, OPENAI_STD, pairs
from clipmill.encoders.towers.open_clip_build import build_module

QUICKGELU_TAGS = {
    *((name, "openai") for name in ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64")),
    *((name, "openai") for name in ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336")),
    ("RN50", "yfcc15m"),
    ("RN50", "cc12m"),
    ("RN101", "yfcc15m"),
    ("ViT-B-32", "laion400m_e31"),
    ("ViT-B-32", "laion400m_e32"),
    ("ViT-B-32", "metaclip_400m"),
    ("ViT-B-32", "metaclip_fullcc"),
}
"""Weights trained with QuickGELU whose architecture's own configuration says GELU: the trap of open_clip 3.x."""


def test_every_pair_of_open_clip_is_named() -> None:
    """Each (model, tag) resolves, its -quickgelu twin to the same name."""
    for name, tag in open_clip.list_pretrained():
        ref = resolve_model(f"{name}::{tag}")
        assert (ref.architecture, ref.weights) == (name.removesuffix("-quickgelu"), tag), (name, tag)


@pytest.mark.parametrize("pair", pairs(), ids="::".join)
def test_facts_equal_open_clips(pair: tuple[str, str]) -> None:
    """Dimension, image size, mean, std, filter, resize mode and activation of every pair."""
    name, tag = pair
    ref, config, known = (
        resolve_model(f"{name}::{tag}"),
        get_model_config(name),
        open_clip.get_pretrained_cfg(name, tag),
    )
    preprocessing, facts = ref.preprocessing(), ref.facts()
    assert facts.dim == config["embed_dim"]
    assert preprocessing.image_size == facts.image_size == config["vision_cfg"]["image_size"]
    assert preprocessing.mean == tuple(known.get("mean") or OPENAI_MEAN)
    assert preprocessing.std == tuple(known.get("std") or OPENAI_STD)
    assert preprocessing.interpolation == known.get("interpolation", "bicubic")
    assert preprocessing.resize_mode == known.get("resize_mode", "shortest")
    assert ref.quick_gelu == bool(known.get("quick_gelu") or config.get("quick_gelu"))


def test_weights_trained_with_quickgelu_get_it() -> None:
    """The pairs that open_clip 3.x builds with the wrong activation, from the papers' own lists."""
    assert {pair for pair in QUICKGELU_TAGS if not resolve_model("::".join(pair)).quick_gelu} == set()
    for name, tag in (("ViT-B-32", "laion2b_s34b_b79k"), ("ViT-B-16", "laion400m_e32"), ("ViT-L-14", "laion400m_e31")):
        assert resolve_model(f"{name}::{tag}").quick_gelu is False


def test_the_laion_l_14_has_its_own_mean() -> None:
    """ViT-L-14::laion2b was trained with 0.5 everywhere; clip-as-service ran it with OpenAI's numbers."""
    assert resolve_model("ViT-L-14::laion2b_s32b_b82k").preprocessing().mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("quick_gelu", "activation"), [(True, "QuickGELU"), (False, "GELU")])
def test_the_built_network_has_the_activation(quick_gelu: bool, activation: str) -> None:
    """The flag reaches both towers."""
    with torch.device("meta"):
        module = build_module({**get_model_config("ViT-B-32"), "quick_gelu": quick_gelu})
    gelus = [
        type(block.mlp.gelu).__name__
        for block in (module.visual.transformer.resblocks[0], module.transformer.resblocks[0])
    ]
    assert gelus == [activation, activation]


@pytest.mark.parametrize(
    ("name", "count"), [("ViT-B-32", 151_277_313), ("RN50", 102_007_137), ("ViT-L-14-336", 427_944_193)]
)
def test_parameters_are_counted(name: str, count: int) -> None:
    """As the models' profiles say."""
    assert resolve_model(f"{name}::openai").facts().parameters == count
