"""Directories and repositories with a Hugging Face model: refusals, borrowed parts, and the cache."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
from hugging_face_weights import (
    EXACT,
    NEW_PROCESSOR,
    TEXTS,
    Case,
    drawn_clip,
    small_config,
    write_model,
    write_processor,
    write_tokenizer,
)
from pictures import encode, photographs
from transformers import CLIPModel
from weights import relative_error

from clipmill.datasets.tables.provenance import differences, provenance_of
from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.errors import WeightsError

TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def _forget_models():
    yield
    unload_all()


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Case:
    directory = write_model(tmp_path_factory.mktemp("small"), drawn_clip(small_config()))
    return Case(directory, CLIPModel.from_pretrained(directory).eval())


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model_type": "clip_text_model"}, "the text tower alone"),
        ({"model_type": "clip_vision_model"}, "the image tower alone"),
        ({"model_type": "siglip2"}, "NaFlex"),
        ({"modelBase": "xlm-roberta-large", "model_type": "M-CLIP"}, "M-CLIP/NAME::DIRECTORY"),
        ({}, "None"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_another_kind_of_model_is_named(tmp_path, config: dict, named: str) -> None:
    """The error has the kind of model and the allowed one."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"with both towers.*'clip' \(CLIPModel\)") as error:
        load_encoder(f"hf:{tmp_path}", **EXACT)
    assert named in str(error.value)


def test_messages_name_the_missing_file(small: Case, tmp_path) -> None:
    """No directory, an adapter, no weights, a missing shard, no tokenizer, no image processor."""
    with pytest.raises(WeightsError, match="there is no directory"):
        load_encoder(f"hf:{tmp_path / 'none'}", **EXACT)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(WeightsError, match="an adapter"):
        load_encoder(f"hf:{tmp_path}", **EXACT)
    (tmp_path / "config.json").write_text(json.dumps(small_config()))
    with pytest.raises(WeightsError, match=r"no image processor .*preprocessor_config.json.*base_image_processor="):
        load_encoder(f"hf:{tmp_path}", **EXACT)
    write_processor(tmp_path, NEW_PROCESSOR, 64)
    with pytest.raises(WeightsError, match=r"no tokenizer .*vocab.json with merges.txt.*base_tokenizer="):
        load_encoder(f"hf:{tmp_path}", **EXACT)
    write_tokenizer(tmp_path)
    with pytest.raises(WeightsError, match=r"no weights .*model.safetensors, .*pytorch_model.bin.*random weights"):
        load_encoder(f"hf:{tmp_path}", **EXACT)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"logit_scale": "part-1.safetensors"}}))
    with pytest.raises(WeightsError, match=r"no 'part-1\.safetensors'"):
        load_encoder(f"hf:{tmp_path}", **EXACT)
    index.write_text(json.dumps({"weight_map": {"logit_scale": "../secret.safetensors"}}))
    with pytest.raises(WeightsError, match="names of files next to it"):
        load_encoder(f"hf:{tmp_path}", **EXACT)


def test_weights_that_do_not_fit_are_refused(small: Case, tmp_path) -> None:
    """A missing and an unexpected name are an error."""
    write_model(tmp_path, small.module)
    state = dict(small.module.state_dict())
    state["surprise"] = state.pop("text_projection.weight")
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"1 names missing \['text_projection.weight'\], 1 unexpected"):
        load_encoder(f"hf:{tmp_path}", **EXACT)


def test_borrowed_parts_are_used_and_named(small: Case, tmp_path) -> None:
    """A model without tokenizer and image processor uses those of another place, which is in the provenance."""
    bare, lender = tmp_path / "bare", tmp_path / "lender"
    lender.mkdir()
    write_model(bare, small.module, processor=None, tokenizer=False)
    write_tokenizer(lender)
    write_processor(lender, {**NEW_PROCESSOR, "image_mean": [0.5] * 3}, 64)
    spec = EncoderSpec(f"hf:{bare}", base_tokenizer=str(lender), base_image_processor=str(lender), **EXACT)
    encoder = load_encoder(spec)
    assert relative_error(encoder.embed_texts(TEXTS), small.reference_texts(TEXTS)) <= TOLERANCE
    picture = [encode(photographs()["coffee"])]
    expected = small.reference_images(picture, image_mean=[0.5] * 3)
    assert relative_error(encoder.embed_images(picture), expected) <= TOLERANCE
    image, text = provenance_of(spec, "image"), provenance_of(spec, "text")
    assert image["image"]["base_image_processor"] == text["text"]["base_tokenizer"] == str(lender)
    assert image["image"]["mean"] == [0.5] * 3
    other = dataclasses.replace(spec, base_image_processor=str(small.directory), base_tokenizer=str(small.directory))
    assert "image.base_image_processor" in differences(image, provenance_of(other, "image"))
    assert "text.base_tokenizer" in differences(text, provenance_of(other, "text"))


def test_a_repository_is_read_from_the_hub_librarys_cache(small: Case, tmp_path, monkeypatch) -> None:
    """An id whose files are in the cache loads offline; otherwise the error has the caches that were searched."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--me--mine"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot.mkdir(parents=True)
    for path in small.directory.iterdir():
        os.link(path, snapshot / path.name)
    encoder = load_encoder("hf:me/mine", **EXACT, cache_dir=str(tmp_path))
    assert relative_error(encoder.embed_texts(TEXTS), small.reference_texts(TEXTS)) <= TOLERANCE
    with pytest.raises(WeightsError, match=r"'config.json' of 'me/other' could not be fetched") as refused:
        load_encoder("hf:me/other", **EXACT, cache_dir=str(tmp_path))
    assert refused.value.hint is None
    (tmp_path / "me" / "other").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"a directory of that name here.*'hf:\./me/other'"):
        load_encoder("hf:me/other", **EXACT, cache_dir=str(tmp_path))


def test_finding_a_source_loads_no_framework(small: Case) -> None:
    """A process with cached graphs imports neither torch nor transformers, not even for the tokenizer."""
    code = (
        "import sys; from clipmill.encoders import EncoderSpec; from clipmill.models.towers import find_source;"
        f"source = find_source(EncoderSpec({small.model!r})); source.key; source.frontend.text.tokenizer('a cat');"
        "print([name for name in ('torch', 'transformers', 'open_clip') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
