"""The demo model's graphs in the package are its weights: as `clipmill export` writes them, and never made again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from make_demo_graphs import DATA, make
from pictures import photographs

from clipmill.encoders import load_encoder, unload_all
from clipmill.models.catalog.manifest import read_manifest
from clipmill.models.demo import CONFIG, VOCABULARY, WEIGHTS, demo_directory
from clipmill.models.runtimes import store
from clipmill.models.weight_files import sha256_of

TEXTS = ["a red circle", "two small blue stars", "", "she smiled, with pain " * 20]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that the tool filled, from the weights in the package."""
    folder = tmp_path_factory.mktemp("made")
    for name in (CONFIG, WEIGHTS):
        shutil.copy(demo_directory() / name, folder)
    make(folder)
    return folder


def vectors(model: str, runtime: str) -> list[np.ndarray]:
    """Return vectors of texts, photographs, and normalised arrays."""
    options = {"device": "cpu", "runtime": runtime, "precision": "fp32"}
    encoder = load_encoder(model, **options)
    arrays = list(np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32))
    normalised = load_encoder(model, preprocess=False, **options).embed_images(arrays)
    return [encoder.embed_texts(TEXTS[:2] + TEXTS[3:]), encoder.embed_images([*photographs().values()]), normalised]


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_they_give_the_vectors_of_torch(runtime: str, made: Path) -> None:
    """Those in the package, and those that the tool makes of the same weights now."""
    reference = vectors("demo", "torch")
    for model in ("demo", f"onnx:{made}"):
        for expected, found in zip(reference, vectors(model, runtime), strict=True):
            errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
            assert errors.max() < 5e-6, model


def test_the_package_has_what_the_tool_writes(made: Path) -> None:
    """The same files, of the same weights; each tensor has the same values."""
    ours, theirs = read_manifest(demo_directory()), read_manifest(made)
    assert ours is not None and theirs is not None
    assert ours["weights_sha256"] == theirs["weights_sha256"] == sha256_of(demo_directory() / WEIGHTS)
    assert ours["files"].keys() == theirs["files"].keys() == {*ours["graphs"].values(), DATA, VOCABULARY, WEIGHTS}
    assert ours["graphs"] == theirs["graphs"] and ours["text"] == theirs["text"] and ours["image"] == theirs["image"]
    for name, digest in ours["files"].items():
        assert sha256_of(demo_directory() / name) == digest, name
    for name in ours["graphs"].values():
        here, there = (
            sorted((list(t.dims), t.data_type) for t in onnx.load(folder / name).graph.initializer)
            for folder in (demo_directory(), made)
        )
        assert here == there


def test_none_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither with a given runtime nor with `auto`, which needs no check of them."""
    monkeypatch.setenv("CLIPMILL_CACHE", str(tmp_path))
    monkeypatch.setattr(store, "make_graphs", lambda *_: pytest.fail("made"))
    unload_all()
    try:
        for options in ({}, {"runtime": "onnx"}, {"runtime": "openvino", "precision": "fp32"}):
            resolved = load_encoder("demo", device="cpu", **options).resolved
            assert resolved["precision"] == "fp32" and resolved["runtime"] in ("onnx", "openvino")
    finally:
        unload_all()


def test_graphs_import_neither_torch_nor_open_clip() -> None:
    """Although both are installed: images are decoded, and texts tokenized, without them."""
    program = (
        "import sys, io, numpy as np\n"
        "from PIL import Image\n"
        "from clipmill.encoders import load_encoder\n"
        "file = io.BytesIO(); Image.new('RGB', (300, 200), 'red').save(file, 'JPEG')\n"
        "for runtime in ('onnx', 'openvino'):\n"
        "    encoder = load_encoder('demo', device='cpu', runtime=runtime)\n"
        "    encoder.embed_images([file.getvalue()]), encoder.embed_texts(['a red circle'])\n"
        "print([name for name in ('torch', 'open_clip', 'onnx', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
