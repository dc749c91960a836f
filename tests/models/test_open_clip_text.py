"""open_clip's other text towers: ids and vectors equal those of open_clip itself, with sensitive weights."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import tiny_tokenizers
import torch
from hub_cache import put_repository
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import image_transform
from open_clip.transformer import QuickGELU
from pictures import encode, photographs
from PIL import Image
from safetensors.torch import save
from weights import relative_error

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.errors import SpecError, WeightsError
from clipmill.models.catalog.backbones import BACKBONES
from clipmill.models.tokenizers.fast import FastTokenizer
from clipmill.models.tokenizers.repository import fetch_tokenizer
from clipmill.models.towers import find_source, open_clip_build

TEXTS = [
    "a photo of a cat",
    "Hello   WORLD!!! it's snake_case",
    "日本語 ünïcode",
    "x",
    "&amp;amp; fish &amp; chips",
    "word " * 100,
    "one </s> in the [SEP] middle <pad>",
]
TOLERANCE, VISIBLE = 1e-4, 2e-3
FP32 = {"device": "cpu", "runtime": "torch", "precision": "fp32"}
KINDS = {
    "roberta": tiny_tokenizers.roberta,
    "xlm-roberta": tiny_tokenizers.xlm_roberta,
    "bert": tiny_tokenizers.bert,
    "sentencepiece": tiny_tokenizers.sentencepiece,
}
VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
CLIP_TEXT = {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
TINY_ROBERTA = {
    **BACKBONES["xlm-roberta-base"],
    **{
        "vocab_size": 800,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
    },
}
TINY_MT5 = {
    **BACKBONES["google/mt5-base"],
    **{"vocab_size": 800, "d_model": 64, "d_kv": 32, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 2},
    **{"num_heads": 2, "pad_token_id": 1},
}
TINY_NLLB = {
    **BACKBONES["facebook/nllb-200-distilled-600M"],
    **{"vocab_size": 800, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2},
    **{"decoder_attention_heads": 2, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128},
}
BACKBONES_HERE = {"test/roberta": TINY_ROBERTA, "test/mt5": TINY_MT5, "test/nllb": TINY_NLLB}
HF_TEXT = {"hf_model_name": "test/roberta", "hf_tokenizer_name": "test/tokens", "hf_pooler_type": "mean_pooler"}
NLLB_TEXT = {**HF_TEXT, "hf_model_name": "test/nllb", "hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"}
SIGLIP_TEXT = {
    **{"context_length": 20, "vocab_size": 800, "width": 64, "heads": 2, "layers": 2, "no_causal_mask": True},
    **{"hf_tokenizer_name": "test/tokens", "tokenizer_kwargs": {"clean": "canonicalize"}, "pool_type": "last"},
    "proj_bias": True,
}
CLIPA_TEXT = {**SIGLIP_TEXT, "tokenizer_kwargs": {"strip_sep_token": True}, "proj_bias": False}
COCA_TEXT = {**CLIP_TEXT, "embed_cls": True, "output_tokens": True}
COCA_DECODER = {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2, "attn_pooler_heads": 2}


@pytest.fixture(autouse=True)
def _forget_models():
    yield
    unload_all()


@dataclasses.dataclass
class Case:
    """A repository in the cache, and open_clip's network and tokenizer for it."""

    model: str
    cache: Path
    module: torch.nn.Module
    tokenizer: object
    config: dict

    def reference(self, texts: list[str], module: torch.nn.Module | None = None) -> torch.Tensor:
        with torch.inference_mode():
            return (module or self.module).encode_text(self.tokenizer(texts))


CASES = {
    "plain": ({"text_cfg": CLIP_TEXT}, None),
    "custom-text": ({"text_cfg": CLIP_TEXT, "custom_text": True}, None),
    "roberta": ({"text_cfg": HF_TEXT}, "xlm-roberta"),
    "mt5": ({"text_cfg": {**HF_TEXT, "hf_model_name": "test/mt5"}}, "xlm-roberta"),
    "nllb": ({"text_cfg": NLLB_TEXT}, "xlm-roberta"),
    "siglip": ({"text_cfg": SIGLIP_TEXT, "custom_text": True, "init_logit_bias": -10}, "sentencepiece"),
    "clipa": ({"text_cfg": CLIPA_TEXT}, "bert"),
    "worldwide": (
        {
            "text_cfg": {
                **CLIP_TEXT,
                "vocab_size": 800,
                "hf_tokenizer_name": "test/tokens",
                "pool_type": "eos",
                "eos_id": 2,
            }
        },
        "xlm-roberta",
    ),
    "coca": ({"text_cfg": COCA_TEXT, "multimodal_cfg": COCA_DECODER, "custom_text": True}, None),
    "not-causal": ({"text_cfg": {**CLIP_TEXT, "no_causal_mask": True}, "custom_text": True}, None),
}


@pytest.fixture(params=CASES)
def case(request, tmp_path: Path) -> Case:
    settings, kind = copy.deepcopy(CASES[request.param])
    config = {"embed_dim": 48, "vision_cfg": dict(VISION), **settings}
    if "multimodal_cfg" in config:
        config["vision_cfg"] |= {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    return make_case(config, kind, tmp_path)


def make_case(config: dict, kind: str | None, cache: Path) -> Case:
    """Write a repository, and those that it refers to, to a cache."""
    text = config["text_cfg"]
    backbone = BACKBONES_HERE.get(text.get("hf_model_name", ""))
    module = stirred(open_clip_build.build_module(config, backbone).eval())
    context = text.get("context_length", 77)
    tokenizer: object = open_clip.SimpleTokenizer(context_length=context)
    if kind:
        folder = put_repository(cache, "test/tokens", tiny_tokenizers.files_of(KINDS[kind]()))
        tokenizer = HFTokenizer(str(folder), context_length=context, **text.get("tokenizer_kwargs", {}))
    if backbone:
        put_repository(cache, text["hf_model_name"], {"config.json": json.dumps(backbone).encode()})
    state = {name: tensor.contiguous().clone() for name, tensor in module.state_dict().items()}
    files = {
        "open_clip_config.json": json.dumps({"model_cfg": config, "preprocess_cfg": {}}).encode(),
        "open_clip_model.safetensors": save(state),
    }
    put_repository(cache, "test/model", files, large=("open_clip_model.safetensors",))
    return Case("hf-hub:test/model", cache, module, tokenizer, config)


def stirred(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draw sensitive weights: scaled-up matrices, and norms and biases far from their initial values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.copy_(0.3 * noise if name.endswith("bias") else 1 + 0.2 * noise)
            else:
                parameter.copy_(noise * (1.5 / parameter[0].numel() ** 0.5))
    return module


def test_texts_equal_open_clips(case: Case) -> None:
    """Texts of many lengths in one call: relative error at most 1e-4, whatever the batch."""
    encoder = load_encoder(case.model, cache_dir=str(case.cache), **FP32)
    ours = encoder.embed_texts(TEXTS)
    assert relative_error(ours, case.reference(TEXTS)) <= TOLERANCE
    assert relative_error(np.concatenate([encoder.embed_texts([text]) for text in TEXTS]), ours) <= 1e-5


def test_images_equal_open_clips(case: Case) -> None:
    """The image tower of each of these models."""
    files = [encode(array) for array in photographs().values()]
    ours = load_encoder(case.model, cache_dir=str(case.cache), decode="exact", **FP32).embed_images(files)
    prepare = image_transform(32, is_train=False)
    with torch.inference_mode():
        reference = case.module.encode_image(torch.stack([prepare(Image.open(io.BytesIO(f))) for f in files]))
    assert relative_error(ours, reference) <= TOLERANCE


def test_negative_controls_are_detected(case: Case) -> None:
    """Another activation and texts in another order differ by far more than the tolerance."""
    ours = load_encoder(case.model, cache_dir=str(case.cache), **FP32).embed_texts(TEXTS)
    assert relative_error(ours, case.reference(TEXTS[::-1])) > VISIBLE
    other = copy.deepcopy(case.module)
    changed = 0
    for parent in other.modules():
        for name in ("gelu", "intermediate_act_fn", "activation_fn", "act"):
            if isinstance(getattr(parent, name, None), torch.nn.Module):
                setattr(parent, name, QuickGELU())
                changed += 1
    assert changed >= 2
    assert relative_error(ours, case.reference(TEXTS, other)) > VISIBLE


@pytest.mark.parametrize("name", ["siglip", "coca", "clipa", "not-causal"])
def test_towers_that_depend_on_padding_get_it(name: str, tmp_path: Path, monkeypatch) -> None:
    """Without padding to the context these towers' vectors differ, so the rule is needed."""
    from clipmill.models.towers import open_clip as towers

    settings, kind = copy.deepcopy(CASES[name])
    config = {"embed_dim": 48, "vision_cfg": dict(VISION), **settings}
    if "multimodal_cfg" in config:
        config["vision_cfg"] |= {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    case = make_case(config, kind, tmp_path)
    monkeypatch.setattr(towers, "depends_on_padding", lambda text: False)
    ours = load_encoder(case.model, cache_dir=str(case.cache), **FP32).embed_texts(TEXTS[:1])
    assert relative_error(ours, case.reference(TEXTS[:1])) > VISIBLE


def test_a_published_name_needs_no_configuration_from_the_hub(tmp_path: Path, monkeypatch) -> None:
    """roberta-ViT-B-32 is built from our table; only a file with its weights is read."""
    small = {**open_clip.get_model_config("roberta-ViT-B-32")}
    small["vision_cfg"] = {**VISION, "image_size": 224, "patch_size": 32}
    tiny = {**TINY_ROBERTA, "model_type": "roberta"}
    monkeypatch.setitem(BACKBONES, "roberta-base", tiny)
    monkeypatch.setattr(open_clip_build, "get_model_config", lambda name: copy.deepcopy(small))
    folder = put_repository(tmp_path, "roberta-base", tiny_tokenizers.files_of(tiny_tokenizers.roberta()))
    module = stirred(open_clip_build.build_module(small, tiny).eval())
    state = {**module.state_dict(), "text.transformer.embeddings.position_ids": torch.arange(514)[None]}
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "w.pt")
    encoder = load_encoder(f"roberta-ViT-B-32::{tmp_path}/w.pt", cache_dir=str(tmp_path), **FP32)
    with torch.inference_mode():
        reference = module.encode_text(HFTokenizer(str(folder), context_length=77)(TEXTS))
    assert relative_error(encoder.embed_texts(TEXTS), reference) <= TOLERANCE


@pytest.mark.parametrize("clean", ["whitespace", "lower", "canonicalize"])
@pytest.mark.parametrize("kind", KINDS)
def test_ids_equal_open_clips(kind: str, clean: str, tmp_path: Path) -> None:
    """Ids, padding and truncation of every kind, with every cleaning; and saved tokenizers are the same."""
    folder = put_repository(tmp_path, "test/tokens", tiny_tokenizers.files_of(KINDS[kind]()))
    strip = kind == "bert"
    reference = HFTokenizer(str(folder), context_length=20, clean=clean, strip_sep_token=strip)
    options = {"clean": clean, "strip_sep_token": strip}
    ours = fetch_tokenizer("test/tokens", 20, options, max_tokens=None, cache_dir=str(tmp_path))
    stored = {name: getattr(ours, name) for name in ("context_length", "pad_id", "clean", "blank_id", "max_tokens")}
    remade = FastTokenizer(ours.definition, **stored)
    for text in [*TEXTS, "", "schÃ¶n", "a" * 500]:
        expected = reference([text])[0].numpy()
        ids, truncated = ours(text)
        np.testing.assert_array_equal(np.pad(ids, (0, 20 - len(ids)), constant_values=ours.pad_id), expected, text)
        np.testing.assert_array_equal(remade(text)[0], ids)
        whole = reference.tokenizer(reference.clean_fn(text)).input_ids
        assert truncated == (len(whole) > 20), text


def test_nllbs_language_comes_first(tmp_path: Path) -> None:
    """The published file adds it after the text; open_clip's tokenizer, like the class, before it."""
    tokenizer, _ = tiny_tokenizers.roberta()
    tokenizer.add_special_tokens(["eng_Latn"])
    put_repository(tmp_path, "facebook/nllb-200-tiny", tiny_tokenizers.files_of((tokenizer, {"pad_token": "<pad>"})))
    ours = fetch_tokenizer("facebook/nllb-200-tiny", 20, {}, max_tokens=None, cache_dir=str(tmp_path))
    ids, _ = ours("a cat")
    inner = tokenizer.encode("a cat", add_special_tokens=False).ids
    assert ids.tolist() == [tokenizer.token_to_id("eng_Latn"), *inner, 2]


def test_max_text_tokens_cuts_earlier(tmp_path: Path) -> None:
    """A limit below the context cuts and counts texts; one above it is refused."""
    case = make_case({"embed_dim": 48, "vision_cfg": dict(VISION), **CASES["plain"][0]}, None, tmp_path)
    encoder = load_encoder(case.model, cache_dir=str(tmp_path), max_text_tokens=6, **FP32)
    with torch.inference_mode():
        ids = case.tokenizer(TEXTS, context_length=6)
        reference = case.module.encode_text(torch.nn.functional.pad(ids, (0, 14)))
    assert relative_error(encoder.embed_texts(TEXTS), reference) <= TOLERANCE
    assert [outcome.truncated for outcome in encoder.embed("text", ["x", "a b c d", "a b c d e"])] == [
        False,
        False,
        True,
    ]
    spec = EncoderSpec(case.model, cache_dir=str(tmp_path), max_text_tokens=21)
    with pytest.raises(SpecError) as refused:
        find_source(spec)
    assert refused.value.option == "max_text_tokens"


def test_max_text_tokens_with_fixed_length(tmp_path: Path) -> None:
    """SigLIP's tower gets its whole context, whatever the limit."""
    config = {"embed_dim": 48, "vision_cfg": dict(VISION), **copy.deepcopy(CASES["siglip"][0])}
    make_case(config, "sentencepiece", tmp_path)
    spec = EncoderSpec("hf-hub:test/model", cache_dir=str(tmp_path), max_text_tokens=4)
    text = find_source(spec).frontend.text
    ids, truncated = text.tokenizer("one two three four five six")
    assert truncated and len(ids) == 4 and ids[-1] == 2
    assert text.batch([ids])[0].shape == (1, 20)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, {}, "could not be fetched"),
        ({"tokenizer.json": b"{}", "tokenizer_config.json": b"{}"}, {}, "not a valid tokenizer.json"),
        ({"tokenizer.json": b"{}", "tokenizer_config.json": b"{"}, {}, "not a valid tokenizer_config.json"),
        (tiny_tokenizers.files_of(tiny_tokenizers.bert()), {"clean": "wash"}, "'wash'; known: whitespace, lower"),
        (tiny_tokenizers.files_of(tiny_tokenizers.bert()), {"language": "de"}, "needs the options language"),
    ],
    ids=["none", "empty", "truncated", "clean", "language"],
)
def test_missing_and_invalid_tokenizers(files, options, message, tmp_path: Path, monkeypatch) -> None:
    """Each has its message; no other tokenizer is used instead."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    put_repository(tmp_path, "test/tokens", files)
    with pytest.raises(WeightsError, match=message):
        fetch_tokenizer("test/tokens", 20, options, max_tokens=None, cache_dir=str(tmp_path))


def test_finding_a_source_imports_no_torch(tmp_path: Path) -> None:
    """A process with cached graphs starts without torch, open_clip and transformers."""
    make_case(
        {"embed_dim": 48, "vision_cfg": dict(VISION), **copy.deepcopy(CASES["roberta"][0])}, "xlm-roberta", tmp_path
    )
    code = (
        "import sys; from clipmill.models.spec import EncoderSpec; from clipmill.models.towers import find_source;"
        f"source = find_source(EncoderSpec('hf-hub:test/model', cache_dir={str(tmp_path)!r}));"
        "assert source.frontend.text.tokenizer('a cat')[0].size > 2;"
        "print(sorted({'torch', 'open_clip', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
