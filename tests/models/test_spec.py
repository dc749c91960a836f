"""Specs: validated when created, canonical names, small pickles, no torch."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest

from clipmill.encoders import EncoderSpec, load_encoder
from clipmill.errors import SpecError, UnknownModelError, WeightsError
from clipmill.models.towers import find_source


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("ViT-B-32", "ViT-B-32::openai"),
        ("ViT-B/32", "ViT-B-32::openai"),
        ("ViT-L/14@336px", "ViT-L-14-336::openai"),
        ("rn50X64", "RN50x64::openai"),
        ("ViT-B-32::laion2b-s34b-b79k", "ViT-B-32::laion2b_s34b_b79k"),
        ("ViT-B-32-quickgelu::openai", "ViT-B-32::openai"),
        ("ViT-B-32-quickgelu::laion2b_e16", "ViT-B-32::laion2b_e16"),
        ("demo", "demo"),
        ("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
    ],
)
def test_spellings_of_a_model_are_equal(written: str, meant: str) -> None:
    """Case, dashes and OpenAI's spellings do not matter."""
    assert EncoderSpec(written).model == meant


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("ViT-B-99", "nearest: ViT-B-32"),
        ("ViT-H-14", "ViT-H-14::laion2b_s32b_b79k"),
        ("ViT-B-16-plus-240", "ViT-B-16-plus-240::laion400m_e3"),
        ("ViT-B-32::laion2b", "ViT-B-32::laion2b_e16"),
        ("openai/clip-vit-base-patch32", "'hf:openai/clip-vit-base-patch32'"),
        ("jinaai/jina-clip-v1", "is not supported; jina-clip-v2 is: hf:jinaai/jina-clip-v2"),
        ("google/siglip2-base-patch16-256", "the catalog has its weights as ViT-B-16-SigLIP2-256::webli"),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "ViT-B-32::laion2b_s34b_b79k"),
        ("jinaai/jina-clip-v2", "for a model of Hugging Face's transformers"),
        ("./my_model_directory/", "'hf:./my_model_directory/'"),
    ],
)
def test_unknown_models_fail_with_the_nearest(written: str, message: str) -> None:
    """An unknown name fails when the spec is made, with the right spelling."""
    with pytest.raises(UnknownModelError, match=message.replace("+", r"\+")):
        EncoderSpec(written)


def test_relative_weights_become_absolute(tmp_path, monkeypatch) -> None:
    """Workers have another working directory, so a path in a spec becomes absolute at once."""
    monkeypatch.chdir(tmp_path)
    assert EncoderSpec("ViT-B-32::./my/w.safetensors").model == f"ViT-B-32::{tmp_path}/my/w.safetensors"
    assert EncoderSpec("ViT-B-32::w.pt").ref.is_file
    assert EncoderSpec(cache_dir="./c").cache_dir == f"{tmp_path}/c"
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert EncoderSpec("ViT-B-32::./my/w.safetensors").model == f"ViT-B-32::{tmp_path}/other/my/w.safetensors"


def test_facts_are_cached(monkeypatch) -> None:
    """A custom factory that must be called for its dimension is called once, not for every batch."""
    made = []

    class Own:
        modalities = frozenset({"text"})

        def __init__(self) -> None:
            made.append(self)
            self.dim = 5

    module = type(sys)("own_facts")
    module.Own = Own
    monkeypatch.setitem(sys.modules, "own_facts", module)
    spec = EncoderSpec("custom:own_facts:Own")
    assert [spec.dim, spec.dim, sorted(spec.modalities)] == [5, 5, ["text"]]
    assert len(made) == 1


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("batch_size", "max_batch_rows"),
        ("minibatch_size", "max_batch_rows"),
        ("num_worker_preprocess", "preprocess_threads"),
        ("use_default_preprocessing", "preprocess"),
        ("pretrained_model_name_or_path", "model"),
        ("traversal_paths", "access_paths"),
    ],
)
def test_old_option_names_fail_with_the_new_one(option: str, name: str) -> None:
    """An option of clip-as-service or the executors is a TypeError with our name."""
    with pytest.raises(TypeError, match=f"{option!r} is called {name!r}"):
        EncoderSpec(**{option: 1})


def test_a_misspelt_option_names_the_nearest() -> None:
    """No option is ignored."""
    with pytest.raises(TypeError, match="did you mean 'normalize'"):
        EncoderSpec(normalise=True)


@pytest.mark.parametrize(
    "options",
    [
        {"device": "gpu"},
        {"device": "cuda:x"},
        {"runtime": "tensorrt"},
        {"precision": "fp8"},
        {"max_batch_rows": 0},
        {"max_batch_rows": 2.5},
        {"normalize": "yes"},
        {"decode": "slow"},
        {"on_long_text": "drop"},
        {"fetch_timeout_s": 0},
        {"uri_schemes": "https"},
        {"uri_schemes": ("file",)},
        {"allow_buckets": ("photos",)},
        {"model": 5},
        {"model": "fake::dim=x"},
        {"model": "fake::dim=0"},
        {"max_image_pixels": 400_000_000},
    ],
    ids=str,
)
def test_invalid_values_are_refused(options: dict) -> None:
    """The message has the option and the value."""
    ((name, value),) = options.items()
    with pytest.raises(SpecError, match=name) as caught:
        EncoderSpec(**options)
    assert repr(value) in str(caught.value) or str(value).strip("()',") in str(caught.value)


def test_specs_pickle_small_and_compare_by_value() -> None:
    """Only the fields are pickled."""
    spec = EncoderSpec("ViT-L/14@336px", device=None, max_batch_rows=7)
    assert pickle.loads(pickle.dumps(spec)) == spec == EncoderSpec(**spec.as_dict())
    assert hash(spec) == hash(EncoderSpec(**spec.as_dict()))
    assert len(pickle.dumps(spec)) < 1000


def test_a_driver_needs_neither_torch_nor_weights() -> None:
    """Dimension and modalities are known, and a bad name fails, without importing torch or open_clip."""
    program = (
        "import sys; from clipmill.encoders import EncoderSpec\n"
        "spec = EncoderSpec('ViT-H-14::laion2b_s32b_b79k', device='cuda')\n"
        "print(spec.dim, sorted(spec.modalities), EncoderSpec('demo').dim > 0)\n"
        "print([m for m in ('torch', 'open_clip', 'apache_beam', 'pyspark') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=os.sep)
    assert done.stdout.split("\n")[:2] == ["1024 ['image', 'text'] True", "[]"]


def test_missing_custom_factories_are_named() -> None:
    """A factory that cannot be imported is an error with its name."""
    with pytest.raises(SpecError, match=r"custom:package\.module:factory"):
        EncoderSpec("custom:nowhere")
    with pytest.raises(WeightsError, match="no_such_module"):
        _ = EncoderSpec("custom:no_such_module:make").dim


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": 0}, "device=0 must be one of"),
        ({"device": ""}, "device='' must be one of"),
        ({"cache_dir": 3}, "cache_dir=3 is no path"),
        ({"cache_dir": ""}, "cache_dir='' is no path"),
    ],
)
def test_falsy_values_are_not_defaults(options: dict, message: str) -> None:
    """Only None means the default: GPU 0 must not become a CPU."""
    with pytest.raises(SpecError, match=message):
        EncoderSpec("demo", **options)


@pytest.mark.parametrize(
    "option", ["jit", "finetuned_checkpoint_path", "overwrite_embeddings", "tokenizer_path", "min_score"]
)
def test_options_without_counterpart_fail_with_a_hint(option: str) -> None:
    with pytest.raises(TypeError, match=f"there is no option '{option}' here: "):
        EncoderSpec("demo", **{option: True})


def test_errors_of_factories_and_models_without_towers() -> None:
    """The error of a custom encoder has its name; its export is refused."""
    with pytest.raises(WeightsError, match=r"'custom:os.path:join' could not be created: TypeError.*without arguments"):
        load_encoder("custom:os.path:join")
    with pytest.raises(SpecError, match="no towers that could be exported"):
        find_source(EncoderSpec("fake::dim=8"))
