"""int8 graphs calibrated on values of one's own: measured on others, and different with other values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from cli_helpers import run
from pictures import encode, photographs

from clipmill.datasets.own_values import draw_values, plan_inputs
from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.errors import SpecError
from clipmill.models import calibration as module
from clipmill.models.calibration import Calibration, OwnValues
from clipmill.models.exporting import export_model
from clipmill.models.model import ClipModel
from clipmill.models.source import Graphs

INT8 = EncoderSpec("demo", runtime="openvino", precision="int8")
FLAGS = ("--runtime", "openvino", "--precision", "int8")


def _crops(count: int, *, brightness: float = 1.0, seed: int = 0) -> list[np.ndarray]:
    """Return pieces of photographs, 64 by 64 pixels."""
    rng = np.random.default_rng(seed)
    sources = list(photographs().values())
    found = []
    for number in range(count):
        source = sources[number % len(sources)]
        top, left = (int(rng.integers(side - 64)) for side in source.shape[:2])
        found.append((source[top : top + 64, left : left + 64] * brightness).astype(np.uint8))
    return found


def _write(folder: Path, crops: list[np.ndarray], captions: int = 0) -> Path:
    folder.mkdir()
    for number, crop in enumerate(crops):
        (folder / f"{number:03d}.png").write_bytes(encode(crop))
        if number < captions:
            (folder / f"{number:03d}.txt").write_text(f"photograph {number}, taken in {1900 + 7 * number}")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """110 pictures, a tenth of them with captions, and one that is broken."""
    folder = _write(tmp_path_factory.mktemp("input") / "photos", _crops(110), captions=11)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture(scope="module")
def exported(photos: Path, tmp_path_factory, made_graphs) -> Path:
    """The demo model, calibrated by the command line."""
    folder = tmp_path_factory.mktemp("calibrated") / "demo"
    assert run("export", "demo", folder, *FLAGS, "--calibrate", photos) == 0
    return folder


def _manifest(folder: Path) -> dict:
    return json.loads((folder / "clipmill.json").read_text())


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (a.astype(float), b.astype(float)))
    return a @ b.T


def test_the_figures_are_those_of_the_pictures_that_were_held_out(exported: Path, photos: Path) -> None:
    """Computed again: which were drawn, their vectors in both precisions, and their neighbours."""
    found = _manifest(exported)["calibration"]
    assert (found["failed"], found["repeated"]) == (1, 0)
    assert (found["image"]["calibrated"], found["image"]["held_out"]) == (55, 55)
    exact = load_encoder("demo", device="cpu", runtime="onnx", precision="fp32")
    quantised = load_encoder(f"onnx:{exported}", device="cpu")
    assert (quantised.resolved["runtime"], quantised.resolved["precision"]) == ("openvino", "int8")
    values = draw_values(plan_inputs([str(photos)]), exact._loaded.model, INT8, count=1000)
    held_out = values.prepared["image"][55:]
    a, b = (one._loaded.model.encode("image", held_out) for one in (exact, quantised))
    each = np.diagonal(_cosines(a, b))
    assert found["image"]["cosine_mean"] == pytest.approx(each.mean(), abs=2e-5)
    assert found["image"]["cosine_min"] == pytest.approx(each.min(), abs=1e-4)
    assert 0.5 < each.min() < 0.99999, "int8"
    nearest = [np.argsort(np.eye(55) * 9 - _cosines(one, one), axis=1)[:, :10] for one in (a, b)]
    kept = np.mean([len({*true} & {*other}) / 10 for true, other in zip(*nearest, strict=True)])
    assert found["image"]["recall_at_10"] == pytest.approx(kept, abs=0.005)
    assert 0.2 < kept < 1


def test_few_captions_are_measured_without_a_recall(exported: Path) -> None:
    found = _manifest(exported)
    text = found["calibration"]["text"]
    assert (text["calibrated"], text["held_out"], text["recall_at_10"]) == (6, 5, None)
    assert found["checked_cosine"] == min(text["cosine_min"], found["calibration"]["image"]["cosine_min"])


def test_the_provenance_tells_one_calibration_from_another(exported: Path, tmp_path) -> None:
    """Other pictures, other ranges, other vectors; and without captions generated ones, as one is told."""
    dark = _write(tmp_path / "dark", _crops(8, brightness=0.1))
    assert run("export", "demo", tmp_path / "dark-demo", *FLAGS, "--calibrate", dark) == 0
    encoders = [load_encoder(f"onnx:{folder}", device="cpu") for folder in (exported, tmp_path / "dark-demo")]
    kept = [_manifest(folder)["calibration_sha256"] for folder in (exported, tmp_path / "dark-demo")]
    assert [encoder.resolved["calibration_sha256"] for encoder in encoders] == kept
    assert kept[0] != kept[1]
    exact = load_encoder("demo", device="cpu", runtime="onnx", precision="fp32")
    pictures = _crops(30, seed=1)
    right, wrong = (
        np.diagonal(_cosines(one.embed_images(pictures), exact.embed_images(pictures))).mean() for one in encoders
    )
    assert wrong < right - 0.01, "ranges of dark pictures cut those of bright ones"
    text = _manifest(tmp_path / "dark-demo")["calibration"]["text"]
    assert (text["calibrated"], text["held_out"]) == (0, 0)
    unload_all()


def test_it_is_printed(photos: Path, tmp_path, monkeypatch, capsys, caplog) -> None:
    """As a table and, for programs, as the manifest; the graphs are not made again."""
    monkeypatch.setattr(module, "convert_graphs", lambda basis, kind, frontend, folder, samples: _copied(basis, folder))
    assert run("export", "demo", tmp_path / "a", *FLAGS, "--calibrate", photos) == 0
    said = capsys.readouterr().out
    assert "calibrated on 55 of the input's; on 55 others, cosine to float32 1.0000 in the mean" in said
    assert "recall@10 1.0000" in said and "recall@10 not measured, since that takes 50 others" in said
    assert "broken.png (undecodable" in caplog.text
    few = _write(tmp_path / "few", _crops(1))
    assert run("export", "demo", tmp_path / "b", *FLAGS, "--calibrate", few, "--json") == 0
    found = json.loads(capsys.readouterr().out)["calibration"]
    assert (found["image"]["calibrated"], found["image"]["held_out"], found["text"]["calibrated"]) == (1, 0, 0)
    assert found["image"]["recall_at_10"] is None


def _copied(basis: Graphs, folder: Path) -> Graphs:
    """Stand in for the quantiser: the float32 graphs, as OpenVINO saves them."""
    for name in basis.files:
        ov.save_model(ov.Core().read_model(str(basis.path(name))), folder / f"{name}.xml", compress_to_fp16=False)
    return Graphs(folder, {name: f"{name}.xml" for name in basis.files}, "int8-openvino")


def test_at_most_so_many_are_calibrated_and_measured_on(made_graphs, tmp_path, monkeypatch) -> None:
    """The first half, up to the limit; no value is in both."""
    taken = {}

    def convert(basis, kind, frontend, folder, samples):
        taken.update(samples)
        return _copied(basis, folder)

    monkeypatch.setattr(module, "convert_graphs", convert)
    monkeypatch.setattr(module, "MAX_CALIBRATED", 4)
    monkeypatch.setattr(module, "MAX_HELD_OUT", 60)
    crops = _crops(100)
    given: list[ClipModel] = []

    def values(model: ClipModel) -> OwnValues:
        given.append(model)
        return OwnValues({"image": crops, "text": []})

    measured = []

    def recall(exact: np.ndarray, other: np.ndarray) -> float:
        measured.append((exact, other))
        return 0.25

    found = export_model(INT8, tmp_path / "out", calibration=Calibration(values, recall))["calibration"]
    assert (found["image"]["calibrated"], found["image"]["held_out"]) == (4, 60)
    assert found["image"]["recall_at_10"] == 0.25
    np.testing.assert_array_equal(np.stack(taken["image"]), np.stack(crops[:4]))
    ((exact, _),) = measured
    np.testing.assert_allclose(exact, given[0].encode("image", crops[4:64]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "flags", [(), ("--runtime", "openvino"), ("--precision", "int8"), ("--runtime", "onnx", "--precision", "int8")]
)
def test_only_int8_for_openvino_is_calibrated(flags, photos: Path, tmp_path, capsys) -> None:
    """Refused before anything is read, with what works."""
    assert run("export", "demo", tmp_path / "out", *flags, "--calibrate", photos) == 2
    said = capsys.readouterr().err
    assert "--calibrate has no effect" in said and "give --runtime 'openvino' and --precision 'int8'" in said
    assert not (tmp_path / "out").exists()


def test_python_refuses_the_same(tmp_path) -> None:
    nothing = Calibration(lambda model: OwnValues({}), lambda exact, other: 1.0)
    with pytest.raises(SpecError) as refused:
        export_model(EncoderSpec("demo", runtime="onnx", precision="int8"), tmp_path / "out", calibration=nothing)
    assert refused.value.option == "calibration"


def test_inputs_that_cannot_be_used_leave_nothing(made_graphs, tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    assert run("export", "demo", out, *FLAGS, "--calibrate", tmp_path / "empty") == 2
    assert "holds no files" in capsys.readouterr().err
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert run("export", "demo", out, *FLAGS, "--calibrate", broken) == 1
    assert "is of use to calibrate demo" in capsys.readouterr().err
    assert run("export", "demo", out, *FLAGS, "--text-column", "words") == 2
    assert "--text-column has no effect without --calibrate" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "empty"]
