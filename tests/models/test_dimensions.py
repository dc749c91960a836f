"""`dimensions`: vectors cut to their leading values, where the model was trained for it, or by force."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import run
from encoder_processes import own_folder, pids
from index_helpers import clustered, write_dataset

from clipmill.datasets import read_provenance
from clipmill.datasets.tables.provenance import differences, provenance_of, spec_of_provenance
from clipmill.encoders import EncoderSpec, count_loads, load_encoder, unload_all
from clipmill.encoders.testing import fake_text_vector, read_log
from clipmill.errors import ClipmillError, SpecError, WeightsError
from clipmill.indexes import IndexOptions, build_index
from clipmill.indexes.targets import find_target
from clipmill.jobs.job import MAY_DIFFER
from clipmill.models.catalog import ModelFacts
from clipmill.models.catalog.manifest import read_manifest, write_manifest
from clipmill.models.exporting import export_model

TRAINED = "fake::dim=8&least_dimensions=2"
EXACT = {"device": "cpu", "runtime": "torch", "precision": "fp32"}
TEXTS = ["a red circle", "she smiled, with pain", "ÜBER-straße"]


# --- what is allowed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 5, 8])
def test_a_model_that_was_trained_for_it_has_any_number_down_to_its_least(dimensions: int) -> None:
    assert EncoderSpec(TRAINED, dimensions=dimensions).dim == dimensions
    assert load_encoder(TRAINED, dimensions=dimensions).embed_texts(TEXTS).shape == (3, dimensions)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (TRAINED, {"dimensions": 1}, "was trained for at least 2 of 8"),
        (TRAINED, {"dimensions": 9}, "is more than the 8 values"),
        (TRAINED, {"dimensions": 9, "force_dimensions": True}, "is more than the 8 values"),
        (TRAINED, {"dimensions": 0}, "is not an integer of at least 1"),
        (TRAINED, {"dimensions": -3, "force_dimensions": True}, "is not an integer of at least 1"),
        (TRAINED, {"dimensions": 2.0}, "is not an integer of at least 1"),
        (TRAINED, {"dimensions": True}, "is not an integer of at least 1"),
        ("fake::dim=8", {"dimensions": 7}, "was trained for vectors of 8 values only.*force_dimensions=True"),
        ("ViT-B-32::openai", {"dimensions": 256}, "was trained for vectors of 512 values only"),
        ("M-CLIP/XLM-Roberta-Large-Vit-B-32", {"dimensions": 256}, "was trained for vectors of 512 values only"),
        ("AudioCLIP", {"dimensions": 256}, "was trained for vectors of 1024 values only"),
    ],
)
def test_other_numbers_are_refused_when_the_spec_is_made(model: str, options: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message) as refused:
        EncoderSpec(model, **options)
    assert refused.value.option == "dimensions"


def test_force_takes_any_number_below_the_models() -> None:
    spec = EncoderSpec("ViT-B-32::openai", dimensions=7, force_dimensions=True)
    assert (spec.dim, spec.facts.dim) == (7, 512)
    with pytest.raises(SpecError, match="has no effect without dimensions") as refused:
        EncoderSpec(TRAINED, force_dimensions=True)
    assert refused.value.option == "force_dimensions"


@pytest.mark.parametrize("least", ["0", "9", "two"])
def test_a_fake_cannot_be_trained_for_more_than_its_values(least: str) -> None:
    with pytest.raises(SpecError, match=f"least_dimensions='{least}' is not an integer from 1 to dim=8"):
        EncoderSpec(f"fake::dim=8&least_dimensions={least}")


@pytest.mark.parametrize("least", [0, 9, "2", True])
def test_facts_of_a_file_are_checked(least: object) -> None:
    with pytest.raises(WeightsError, match="least_dimensions is"):
        ModelFacts(8, frozenset({"text"}), least_dimensions=least)  # type: ignore[arg-type]


def test_custom_encoders_say_what_they_were_trained_for(monkeypatch) -> None:
    """Their code is not run when a spec is made, so a wrong number is refused when it is needed."""

    class Own:
        dim, modalities, least_dimensions = 6, frozenset({"text"}), 4
        device, resolved = "cpu", {}

        def prepare(self, modality, content, spec):
            from clipmill.encoders import Prepared

            return Prepared(content)

        def encode(self, modality, payloads):
            return np.stack([fake_text_vector(text, 6) for text in payloads])

    module = type(sys)("own_dimensions")
    module.Own = Own
    monkeypatch.setitem(sys.modules, "own_dimensions", module)
    name = "custom:own_dimensions:Own"
    np.testing.assert_array_equal(load_encoder(name, dimensions=4).embed_texts(["abc"]), [[3, 97, 98, 99]])
    short = EncoderSpec(name, dimensions=3)
    for refused in (lambda: short.dim, lambda: load_encoder(short), lambda: provenance_of(short, "text")):
        with pytest.raises(SpecError, match="was trained for at least 4 of 6"):
            refused()


# --- the vectors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["torch", "onnx", "openvino"])
def test_vectors_are_the_first_values_and_then_have_length_one(runtime: str) -> None:
    """In every runtime, of texts and images; without `normalize` they are as the model computes them."""
    options = {**EXACT, "runtime": runtime}
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    whole = load_encoder("demo", **options)
    cut = load_encoder("demo", **options, dimensions=40, force_dimensions=True)
    scaled = load_encoder("demo", **options, dimensions=40, force_dimensions=True, normalize=True)
    assert (whole.dim, cut.dim, scaled.dim) == (96, 40, 40)
    kept = whole.embed_texts(TEXTS)[:, :40]
    np.testing.assert_array_equal(cut.embed_texts(TEXTS), kept)
    unit = scaled.embed_texts(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(unit, kept / np.linalg.norm(kept, axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(cut.embed_images([image]), whole.embed_images([image])[:, :40])


def test_a_cut_vector_does_not_hold_the_whole_one() -> None:
    """A view would keep the values that were cut in memory, for as long as the vector lives."""
    (vector,) = load_encoder(TRAINED, dimensions=2).embed("text", ["abc"])
    owner = vector.values if vector.values.base is None else vector.values.base  # type: ignore[union-attr]
    assert owner.size == 2


def test_one_copy_of_the_model_serves_all_numbers_and_no_cache_mixes_them(tmp_path: Path) -> None:
    unload_all()
    model = f"{TRAINED}&log={tmp_path}"
    for dimensions in (None, 2, 3, None, 2, 3):
        (vector,) = load_encoder(model, dimensions=dimensions).embed_texts(["abc"])
        np.testing.assert_array_equal(vector, fake_text_vector("abc")[:dimensions])
    log = read_log(tmp_path)
    assert list(log.loads.values()) == [1]
    assert log.rows == 3  # the second of each came from its cache


def test_workers_with_other_numbers_share_an_encoder_process(monkeypatch, tmp_path_factory) -> None:
    tmp_path_factory.getbasetemp()
    unload_all()
    options = {"device": "cpu", "runtime": "onnx", "precision": "fp32"}
    expected = load_encoder("demo", **options, encoder_process="off").embed_texts(TEXTS)
    with own_folder(monkeypatch) as folder:
        loads = count_loads()
        for dimensions in (10, 20):
            cut = {"dimensions": dimensions, "force_dimensions": True}
            found = load_encoder("demo", **options, **cut, encoder_process="per_host").embed_texts(TEXTS)
            np.testing.assert_array_equal(found, expected[:, :dimensions])
        assert len(pids(folder)) == 1
        assert count_loads() == loads + 1


# --- exported directories --------------------------------------------------------------------------------------------


def test_an_exported_directory_is_cut_when_it_is_loaded(tmp_path: Path) -> None:
    """It remembers what its model was trained for; directories of earlier versions do not say, and need force."""
    spec = EncoderSpec("demo", device="cpu", runtime="onnx", precision="fp32")
    with pytest.raises(SpecError, match="give it when the directory is loaded") as refused:
        export_model(EncoderSpec.of(spec, dimensions=10, force_dimensions=True), tmp_path / "cut")
    assert refused.value.option == "dimensions" and not (tmp_path / "cut").exists()
    name = f"onnx:{tmp_path}/whole"
    assert export_model(spec, tmp_path / "whole")["least_dimensions"] is None
    with pytest.raises(SpecError, match="was trained for vectors of 96 values only"):
        load_encoder(name, dimensions=10)
    whole = load_encoder(name).embed_texts(TEXTS)
    np.testing.assert_array_equal(
        load_encoder(name, dimensions=9, force_dimensions=True).embed_texts(TEXTS), whole[:, :9]
    )
    manifest = read_manifest(tmp_path / "whole")
    assert manifest is not None
    (tmp_path / "trained").mkdir()
    for file in (tmp_path / "whole").iterdir():
        (tmp_path / "trained" / file.name).write_bytes(file.read_bytes())
    write_manifest(tmp_path / "trained", {**manifest, "least_dimensions": 10})
    trained = f"onnx:{tmp_path}/trained"
    np.testing.assert_array_equal(load_encoder(trained, dimensions=10).embed_texts(TEXTS), whole[:, :10])
    with pytest.raises(SpecError, match="was trained for at least 10 of 96"):
        load_encoder(trained, dimensions=9)
    del manifest["least_dimensions"]
    write_manifest(tmp_path / "whole", manifest)
    unload_all()
    assert EncoderSpec(name, dimensions=11, force_dimensions=True).dim == 11


# --- provenance, datasets and indexes --------------------------------------------------------------------------------


def test_the_provenance_keeps_cut_vectors_apart_from_all_others() -> None:
    whole, cut, shorter = (provenance_of(EncoderSpec(TRAINED, dimensions=n), "text") for n in (None, 4, 3))
    assert (cut["dim"], cut["whole_dim"]) == (4, 8)
    assert "whole_dim" not in whole
    assert differences(whole, cut) == ["dim", "whole_dim"]
    assert differences(cut, shorter) == ["dim"]
    assert differences(whole, provenance_of(EncoderSpec(TRAINED, dimensions=8), "text")) == []
    forced = provenance_of(EncoderSpec(TRAINED, dimensions=4, force_dimensions=True), "text")
    assert differences(cut, forced) == []
    assert "force_dimensions" in MAY_DIFFER and "dimensions" not in MAY_DIFFER


def test_queries_are_cut_as_the_vectors_that_are_searched() -> None:
    provenance = provenance_of(EncoderSpec("fake::dim=8", dimensions=4, force_dimensions=True), "text")
    assert spec_of_provenance(provenance).dim == 4
    with pytest.raises(SpecError, match="dim is 3 and was 4"):
        spec_of_provenance(provenance, dimensions=3, force_dimensions=True)
    with pytest.raises(SpecError, match="dim is 8 and was 4; whole_dim is None and was 8"):
        spec_of_provenance(provenance, dimensions=None)
    with pytest.raises(SpecError, match="model is 'fake::dim=4' and was 'fake::dim=8'"):
        spec_of_provenance(provenance, model="fake::dim=4")


def test_an_index_takes_vectors_of_one_number_only(tmp_path: Path) -> None:
    """Also not those of a model whose whole vectors have as many."""
    vectors = clustered(60, 4)
    specs = {"cut": EncoderSpec(TRAINED, dimensions=4), "other": EncoderSpec(TRAINED, dimensions=3)}
    specs["whole"] = EncoderSpec("fake::dim=4")
    for name, spec in specs.items():
        write_dataset(tmp_path / name, vectors[:, : spec.dim], spec=spec, parts=1)
    options = IndexOptions(factory="Flat", queries=5)
    for other, differing in {"other": "dim differ", "whole": "model, weights, whole_dim differ"}.items():
        with pytest.raises(ClipmillError, match=differing):
            build_index([str(tmp_path / "cut"), str(tmp_path / other)], str(tmp_path / "mixed"), options)
    build_index([str(tmp_path / "cut")], str(tmp_path / "index"), options)
    provenance = find_target(str(tmp_path / "index")).provenance
    assert provenance is not None and spec_of_provenance(provenance).dim == 4


def test_the_command_line_cuts_and_searches(tmp_path: Path, capsys) -> None:
    """The flags reach the job, its dataset says so, and a job that resumes with another number is refused."""
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"id": f"r{n}", "caption": f"n{n}"}) + "\n" for n in range(9))
    )
    command = ["embed", tmp_path / "rows.jsonl", "-o", tmp_path / "out", "--model", TRAINED, "--column", "caption=text"]
    assert run(*command, "--dimensions", "1") == 2
    assert "--force-dimensions" in capsys.readouterr().err
    assert run(*command, "--dimensions", "3") == 0
    provenance = read_provenance(str(tmp_path / "out"))["caption_embedding"]
    assert (provenance["dim"], provenance["whole_dim"]) == (3, 8)
    assert run(*command, "--dimensions", "3", "--force-dimensions", "--resume") == 0
    assert run(*command, "--dimensions", "2", "--resume") == 2
    assert "dimensions" in capsys.readouterr().err
    assert run("index", tmp_path / "out", "-o", tmp_path / "index") == 0
    assert run("search", tmp_path / "index", "n4", "--top-k", "1") == 0
    assert "r4" in capsys.readouterr().out


def test_models_are_listed_with_what_they_were_trained_for(capsys) -> None:
    assert run("models", "demo", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["least_dimensions"] is None
