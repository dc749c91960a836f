"""The learnt scale of exported directories, without torch, of the fake and of custom encoders."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scale_weights import AUDIO_IMAGE, AUDIO_TEXT, LEARNT, PAIR, TEXTS, make_repository, state_with, write_pickle

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.errors import SpecError, WeightsError
from clipmill.models.catalog.manifest import FILE, read_manifest, write_manifest
from clipmill.models.exporting import export_model
from clipmill.models.towers import find_source


@pytest.fixture(autouse=True)
def _forget_models():
    yield
    unload_all()


# --- exported directories, and processes without torch ----------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "demo"
    export_model(EncoderSpec("demo", device="cpu", runtime="onnx", precision="fp32"), folder)
    return folder


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def scales_of_directory(folder: Path) -> dict:
    return dict(find_source(EncoderSpec(f"onnx:{folder}")).scales())


def rewrite(folder: Path, learnt_scales: object) -> None:
    """Write the manifest again, signed; `...` leaves the entry out, like older versions."""
    manifest = {**read_manifest(folder), "learnt_scales": learnt_scales}
    if learnt_scales is ...:
        del manifest["learnt_scales"]
    write_manifest(folder, manifest)


def test_an_exported_directory_has_the_scale_of_its_model(exported: Path, copy: Path) -> None:
    """Bit-identical; a scale in the manifest is the one that is used."""
    learnt = find_source(EncoderSpec("demo")).scales()
    assert load_encoder(f"onnx:{exported}", device="cpu", runtime="onnx").learnt_scales == learnt
    assert json.loads((exported / FILE).read_text())["learnt_scales"] == {"image-text": learnt[PAIR]}
    rewrite(copy, {"image-text": 7.25})
    assert scales_of_directory(copy) == {PAIR: 7.25} != learnt


def test_directories_of_earlier_exports_have_none(copy: Path) -> None:
    """They still load."""
    rewrite(copy, ...)
    encoder = load_encoder(f"onnx:{copy}", device="cpu", runtime="onnx", precision="fp32")
    assert encoder.learnt_scales == {}
    assert encoder.embed_texts(TEXTS).shape == (5, 96)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"image-text": math.nan}, "the learnt scale of image and text is nan"),
        ({"image-text": 0}, "is 0, not a finite number above 0"),
        ({"image-text": "100"}, "is '100', not a finite number"),
        ({"image-text": True}, "is True, not a finite number"),
        ({"image-sound": 100.0}, "allowed are frozensets of one or two of image, text"),
        ({"audio-text": 100.0}, "allowed are frozensets of one or two of image, text"),
        ([100.0], "it must have numbers by pair"),
    ],
)
def test_a_manifest_with_invalid_scales_is_refused(written: object, message: str, copy: Path) -> None:
    rewrite(copy, written)
    with pytest.raises(WeightsError, match=f"clipmill.json.*{message}"):
        scales_of_directory(copy)


def test_exporting_a_model_whose_scale_is_nan(tmp_path: Path, caplog) -> None:
    """Its vectors are right, so it is exported without a scale, with a warning."""
    case = make_repository("plain", tmp_path, math.nan)
    manifest = export_model(dataclasses.replace(case.spec, runtime="onnx"), tmp_path / "out")
    assert manifest["learnt_scales"] == {}
    assert "exported without learnt scales: 'logit_scale' in" in caplog.text
    assert scales_of_directory(tmp_path / "out") == {}


def test_clip_as_services_directories_have_none(tmp_path: Path) -> None:
    """Not even if the model is known, since its graphs may be made from other weights."""
    for name in ("visual.onnx", "textual.onnx"):
        (tmp_path / name).write_bytes(b"graph")
    (tmp_path / FILE).write_text('{"model": "demo"}')
    assert scales_of_directory(tmp_path) == {}


def test_neither_graphs_nor_safetensors_need_torch_for_it(exported: Path) -> None:
    """A process without torch runs cached graphs and an exported directory, and returns their scales."""
    load_encoder("demo", device="cpu", runtime="onnx", precision="fp32")  # its graphs are in the cache from now on
    program = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from clipmill.encoders import load_encoder\n"
        f"for model in ('demo', 'onnx:{exported}'):\n"
        "    encoder = load_encoder(model, device='cpu', runtime='onnx', precision='fp32')\n"
        "    print(encoder.embed_texts(['a red circle']).shape, *encoder.learnt_scales.values())\n"
        "try: load_encoder('demo', device='cpu', runtime='torch', precision='fp32')\n"
        "except ImportError: print('no torch')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=os.sep)
    scale = find_source(EncoderSpec("demo")).scales()[PAIR]
    assert done.stdout.splitlines() == [f"(1, 96) {scale}"] * 2 + ["no torch"], done.stderr


def test_a_pickle_without_torch(tmp_path: Path) -> None:
    """The error names the missing library."""
    path = write_pickle(state_with(LEARNT), tmp_path / "w.pt")
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from clipmill.errors import WeightsError\n"
        "from pathlib import Path\n"
        "from clipmill.models.towers.scales import clip_scales\n"
        f"try: clip_scales([Path({str(path)!r})])\n"
        "except WeightsError as err: print(err)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=os.sep)
    assert "w.pt' needs torch, which is not installed" in done.stdout, done.stderr


# --- the fake, and custom encoders ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("fake::", {}),
        ("fake::scale=7.5", {PAIR: 7.5}),
        ("fake::modalities=text,image,audio", {}),
        (
            "fake::modalities=text,image,audio&scale=7.5&scale_ai=2&scale_at=1e2",
            {PAIR: 7.5, AUDIO_IMAGE: 2.0, AUDIO_TEXT: 100.0},
        ),
        ("fake::modalities=text,audio&scale_at=3", {AUDIO_TEXT: 3.0}),
    ],
)
def test_the_fake_has_the_given_scales(model: str, expected: dict) -> None:
    assert load_encoder(model).learnt_scales == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("scale=x", "scale='x' is not a finite number above 0"),
        ("scale=0", "scale='0' is not"),
        ("scale=-1", "scale='-1' is not"),
        ("scale=inf", "scale='inf' is not"),
        ("scale=nan", "scale='nan' is not"),
        ("scale=", "scale='' is not"),
        ("scale_ai=2", "scale_ai is between audio and image; modalities=image,text"),
        ("scale=2&modalities=text", "scale is between image and text; modalities=text"),
    ],
)
def test_an_invalid_fake_scale_is_refused_when_the_spec_is_made(options: str, message: str) -> None:
    with pytest.raises(SpecError, match=f"model 'fake::{options}': {message}"):
        EncoderSpec(f"fake::{options}")


OWN = """
import numpy as np
from clipmill.encoders import Model

class Silent(Model):
    dim, modalities = 4, frozenset({"text", "image"})
    def encode(self, modality, payloads):
        return np.ones((len(payloads), 4), np.float32)

class Speaking(Silent):
    def learnt_scales(self):
        return {frozenset({"text", "image"}): np.float32(12.5), frozenset({"text"}): 3}

class Tuple(Silent):
    def learnt_scales(self):
        return {("text", "image"): 12.5}

class Negative(Silent):
    def learnt_scales(self):
        return {frozenset({"text", "image"}): -1.0}

class Unrelated:
    dim, modalities, device, resolved = 4, frozenset({"text"}), "cpu", {}
    prepare = encode = lambda *_: None
"""


def test_custom_encoders(tmp_path: Path, monkeypatch) -> None:
    """They have none by default, subclass or not; their scales are checked and returned as plain numbers."""
    (tmp_path / "own_scales.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("Silent", "Unrelated"):
        assert load_encoder(f"custom:own_scales:{name}").learnt_scales == {}
    speaking = load_encoder("custom:own_scales:Speaking").learnt_scales
    assert speaking == {PAIR: 12.5, frozenset({"text"}): 3.0}
    assert {type(scale) for scale in speaking.values()} == {float}
    with pytest.raises(WeightsError, match=r"own_scales:Tuple: learnt_scales has \('text', 'image'\)"):
        _ = load_encoder("custom:own_scales:Tuple").learnt_scales
    with pytest.raises(WeightsError, match=r"own_scales:Negative: the learnt scale of image and text is -1\.0"):
        _ = load_encoder("custom:own_scales:Negative").learnt_scales
