"""The table of models, compared with the installed open_clip."""

from __future__ import annotations

import open_clip
import pytest
from open_clip.factory import get_model_config

from clipmill.encoders import EncoderSpec
from clipmill.errors import UnknownModelError
from clipmill.media.options import OPENAI_MEAN, OPENAI_STD
from clipmill.models.catalog import facts_of, mclip, resolve_model
from clipmill.models.catalog.backbones import BACKBONES
from clipmill.models.catalog.names import named_models
from clipmill.models.catalog.tables import architectures, pairs, weights
from clipmill.models.catalog.twins import twin_of
from clipmill.models.towers.open_clip_build import build_unfilled
from clipmill.pipelines.models import list_models

TWINS = {
    "google/siglip-base-patch16-224": "ViT-B-16-SigLIP",
    "google/siglip-base-patch16-256-multilingual": "ViT-B-16-SigLIP-i18n-256",
    "google/siglip-large-patch16-384": "ViT-L-16-SigLIP-384",
    "google/siglip-so400m-patch14-384": "ViT-SO400M-14-SigLIP-384",
    "google/siglip-so400m-patch16-256-i18n": "ViT-SO400M-16-SigLIP-i18n-256",
    "google/siglip2-base-patch32-256": "ViT-B-32-SigLIP2-256",
    "google/siglip2-so400m-patch14-224": "ViT-SO400M-14-SigLIP2",
    "google/siglip2-so400m-patch14-384": "ViT-SO400M-14-SigLIP2-378",
    "google/siglip2-giant-opt-patch16-384": "ViT-gopt-16-SigLIP2-384",
    "google/siglip2-base-patch16-naflex": "ViT-B-16-SigLIP2-256",
    "google/siglip2-so400m-patch16-naflex": "ViT-SO400M-16-SigLIP2-256",
    "timm/ViT-SO400M-14-SigLIP-384": "ViT-SO400M-14-SigLIP-384",
}
"""Repositories of Google and timm, and the architecture that has their weights."""

QUICKGELU_TAGS = {
    "RN50": {"openai", "yfcc15m", "cc12m"},
    "RN101": {"openai", "yfcc15m"},
    "RN50x4": {"openai"},
    "RN50x16": {"openai"},
    "RN50x64": {"openai"},
    "ViT-B-32": {"openai", "laion400m_e31", "laion400m_e32", "metaclip_400m", "metaclip_fullcc"},
    "ViT-B-16": {"openai", "metaclip_400m", "metaclip_fullcc", "dfn2b"},
    "ViT-B-16-plus-240": set(),
    "ViT-L-14": {"openai", "metaclip_400m", "metaclip_fullcc", "dfn2b"},
    "ViT-L-14-336": {"openai"},
    "ViT-H-14": {"metaclip_fullcc", "dfn5b"},
    "ViT-H-14-378": {"dfn5b"},
    "ViT-g-14": set(),
    "ViT-bigG-14": {"metaclip_fullcc"},
    "ViT-H-14-worldwide": {"metaclip2_worldwide"},
    "roberta-ViT-B-32": {"laion2b_s12b_b32k"},
    "xlm-roberta-base-ViT-B-32": set(),
    "xlm-roberta-large-ViT-H-14": set(),
}
"""By architecture, the tags that were trained with QuickGELU; all others of these were with GELU, whatever the
architecture's own configuration says. roberta-ViT-B-32 follows its configuration, though its tag is not marked."""

OTHER_PLACES = {("ViT-B-16-plus-240", "laion400m_e32")}
"""Pairs whose weights open_clip 3.3.0 would fetch from the repository of another pair."""

SEED_TABLE = {
    **{"RN50": 1024, "RN101": 512, "RN50x4": 640, "RN50x16": 768, "RN50x64": 1024, "ViT-B-32": 512, "ViT-B-16": 512},
    **{"ViT-B-16-plus-240": 640, "ViT-L-14": 768, "ViT-L-14-336": 768, "ViT-H-14": 1024, "ViT-g-14": 1024},
    "M-CLIP/XLM_Roberta-Large-Vit-B-32": 512,
    "M-CLIP/XLM-Roberta-Large-Vit-L-14": 768,
    "M-CLIP/XLM-Roberta-Large-Vit-B-16Plus": 640,
    "M-CLIP/LABSE-Vit-L-14": 768,
}
"""clip-as-service's list of models and their dimensions, in its spelling."""


def test_every_pair_of_open_clip_resolves() -> None:
    """Each (model, tag) resolves, and with -quickgelu to the same name."""
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
    preprocessing, facts = ref.preprocessing(), facts_of(ref)
    assert facts.dim == config["embed_dim"]
    assert preprocessing.image_size == facts.image_size == config["vision_cfg"]["image_size"]
    assert preprocessing.mean == tuple(known.get("mean") or OPENAI_MEAN)
    assert preprocessing.std == tuple(known.get("std") or OPENAI_STD)
    assert preprocessing.interpolation == known.get("interpolation", "bicubic")
    assert preprocessing.resize_mode == known.get("resize_mode", "shortest")
    assert ref.quick_gelu == bool(known.get("quick_gelu") or config.get("quick_gelu"))


@pytest.mark.parametrize("name", QUICKGELU_TAGS)
def test_every_pair_has_the_activation_of_its_weights(name: str) -> None:
    """Each tag matches the table above, and so do both towers of its network, if their activation varies."""
    for tag in weights()[name]:
        ref = resolve_model(f"{name}::{tag}")
        assert ref.quick_gelu == (tag in QUICKGELU_TAGS[name]), ref.name
    for quick_gelu in {tag in QUICKGELU_TAGS[name] for tag in weights()[name]}:
        config = {**get_model_config(name), "quick_gelu": quick_gelu}
        module = build_unfilled(config, BACKBONES.get(config["text_cfg"].get("hf_model_name")))
        towers = [tower for tower in (module.visual, module) if hasattr(tower, "transformer")]
        found = {type(tower.transformer.resblocks[0].mlp.gelu).__name__ for tower in towers}
        assert found == {"QuickGELU" if quick_gelu else "GELU"}


def test_the_table_names_every_pair_with_quickgelu() -> None:
    """No other pair of the catalog has it."""
    found = {pair for pair in pairs() if resolve_model("::".join(pair)).quick_gelu}
    assert found == {(name, tag) for name, tags in QUICKGELU_TAGS.items() for tag in tags}


@pytest.mark.parametrize("name", ["ViTamin-S", "MobileCLIP-B", "swin_base_patch4_window7_224"])
def test_architectures_whose_constructors_need_values_are_built(name: str) -> None:
    """Their constructors run layers or check devices, so no parameter may be left without memory."""
    module = build_unfilled(get_model_config(name))
    assert not [key for key, tensor in [*module.named_parameters(), *module.named_buffers()] if tensor.is_meta]


def test_others_are_built_without_memory() -> None:
    """A network of gigabytes has no parameter in memory before its weights are read."""
    module = build_unfilled(get_model_config("ViT-bigG-14"))
    assert all(parameter.is_meta for parameter in module.parameters())


@pytest.mark.parametrize("pair", pairs(), ids="::".join)
def test_sources_of_weights_equal_open_clips(pair: tuple[str, str]) -> None:
    """Hub entry and URL of every pair, with one exception; and the hash in a URL."""
    known, own = open_clip.get_pretrained_cfg(*pair), weights()[pair[0]][pair[1]]
    assert own.get("hub", "") == ("" if pair in OTHER_PLACES else known.get("hf_hub", ""))
    assert own.get("url", "") == known.get("url", "")
    assert own.get("hub") or own.get("url")
    if pair[1] == "openai":
        assert own["url"].split("/")[-2] == own["sha256"] and len(own["sha256"]) == 64


def test_the_plus_240s_two_tags_have_their_own_weights() -> None:
    """The exception above is still needed, and leads to a separate file."""
    first, second = (open_clip.get_pretrained_cfg("ViT-B-16-plus-240", f"laion400m_e{n}") for n in (31, 32))
    assert first["hf_hub"] == second["hf_hub"], "open_clip has mended its table: make_catalog.BY_URL can go"
    assert weights()["ViT-B-16-plus-240"]["laion400m_e32"]["sha256"] == "699c4b84"


@pytest.mark.parametrize("name", architectures())
def test_text_settings_equal_open_clips(name: str) -> None:
    """The settings of text preparation; and each Hugging Face tower has a configuration."""
    config, own = get_model_config(name)["text_cfg"], architectures()[name].get("text", {})
    for key in ("hf_tokenizer_name", "tokenizer_kwargs", "hf_model_name", "no_causal_mask", "embed_cls", "pool_type"):
        assert own.get(key) == (config.get(key) or None), key
    assert own.get("hf_model_name") is None or own["hf_model_name"] in BACKBONES


@pytest.mark.parametrize(("name", "dim"), SEED_TABLE.items())
def test_clip_as_services_models_resolve(name: str, dim: int) -> None:
    """In its spelling, with its dimension."""
    bare = name in ("ViT-B-16-plus-240", "ViT-H-14", "ViT-g-14")  # OpenAI published none of these
    spec = EncoderSpec(f"{name}::{next(iter(weights()[name]))}" if bare else name)
    assert spec.dim == dim and {"text", "image"} <= spec.modalities


def test_the_laion_l_14_has_its_own_mean() -> None:
    """ViT-L-14::laion2b was trained with 0.5 everywhere; clip-as-service ran it with OpenAI's numbers."""
    assert resolve_model("ViT-L-14::laion2b_s32b_b82k").preprocessing().mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ViT-B-32", 151_277_313),
        ("RN50", 102_007_137),
        ("ViT-L-14-336", 427_944_193),
        ("roberta-ViT-B-32", 212_723_457),
        ("xlm-roberta-large-ViT-H-14", 1_193_014_785),
    ],
)
def test_parameters_are_counted(name: str, count: int) -> None:
    """The numbers are those of the models' profiles."""
    assert architectures()[name]["parameters"] == count


def test_every_family_is_listed() -> None:
    """`clipmill models` names the pairs of open_clip, the four M-CLIP, a Chinese-CLIP, both AudioCLIP and the demo."""
    names = [ref.name for ref in list_models()]
    assert len(names) == len(set(names)) == len(pairs()) + 4 + 1 + 2 + 1
    assert {"AudioCLIP::full", "AudioCLIP::partial", "demo", *mclip.MODELS} < set(names)
    assert [ref.name for ref in list_models("labse")] == ["M-CLIP/LABSE-Vit-L-14"]


def test_licences_are_those_stated_by_publishers() -> None:
    """The licence does not follow from a tag with the training images for other publishers."""
    licences = {
        "ViT-B-32::openai": "MIT",
        "ViT-H-14::laion2b_s32b_b79k": "MIT",
        "ViT-L-14::metaclip_400m": "CC-BY-NC-4.0",
    }
    licences |= {"ViT-B-16-SigLIP::webli": "Apache-2.0", "MobileCLIP-S1::datacompdr": None, "nllb-clip-base::v1": None}
    licences |= {"AudioCLIP": "MIT", "AudioCLIP::./own.pt": None, "demo": "Apache-2.0"} | dict.fromkeys(mclip.MODELS)
    assert {name: facts_of(resolve_model(name)).licence for name in licences} == licences


WRONG_TAGS = ("", "x", "openai", "OpenAI", "laion2b_s34b_b79k", "webli", "::", "a::b", " ", "-", "é")


@pytest.mark.parametrize("suffix", ["", "-quickgelu"])
def test_every_architecture_with_any_tag_is_a_model_or_unknown(suffix: str) -> None:
    """Also the 29 of which nobody has published weights."""
    assert sum(not weights().get(name) for name in architectures()) == 29
    for architecture in architectures():
        for tag in [None, *weights().get(architecture, {}), *WRONG_TAGS]:
            name = architecture + suffix + ("" if tag is None else f"::{tag}")
            try:
                assert resolve_model(name).architecture in (architecture, architecture + suffix)
            except UnknownModelError as err:
                assert str(err).startswith(architecture) and " has no weights" in str(err) and "known: " in str(err)


def test_repositories_of_other_libraries_have_twins() -> None:
    for repository, architecture in TWINS.items():
        assert twin_of(repository) == f"{architecture}::webli"
    assert twin_of("openai/clip-vit-large-patch14-336") == "ViT-L-14-336::openai"
    assert twin_of("apple/DFN5B-CLIP-ViT-H-14-378@main") == "ViT-H-14-378::dfn5b"
    assert {twin_of(name) for name in ("google/siglip2-huge-patch14-1", "google/vit-base-patch16-224", "a/b")} == {None}


@pytest.mark.parametrize(
    ("repository", "twin", "is_of_transformers"),
    [
        ("google/siglip2-base-patch16-256", "weights as ViT-B-16-SigLIP2-256::webli", True),
        ("openai/clip-vit-base-patch32", "weights as ViT-B-32::openai", True),
        ("timm/ViT-B-16-SigLIP", "weights as ViT-B-16-SigLIP::webli", False),
        ("timm/vit_base_patch32_clip_224.openai", "weights as ViT-B-32", False),
        ("google/siglip2-base-patch16-naflex", "images of one size is ViT-B-16-SigLIP2-256::webli", False),
    ],
)
def test_a_repository_is_answered_with_what_is_true_of_it(repository: str, twin: str, is_of_transformers: bool) -> None:
    """Only some are of transformers, and NaFlex models have other weights than their twins."""
    with pytest.raises(UnknownModelError) as refused:
        resolve_model(repository)
    said = str(refused.value)
    assert twin in said and (f"'hf:{repository}'" in said) is is_of_transformers
    assert ("has its weights" in said) is ("naflex" not in repository)


def test_every_twin_is_a_name_of_the_catalog() -> None:
    known = set(named_models())
    hubs = {facts["hub"].rpartition("/")[0] for tags in weights().values() for facts in tags.values() if "hub" in facts}
    assert hubs and {twin_of(hub) for hub in hubs} <= known
