"""Graphs are made once per machine, atomically, by one process while others wait."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.errors import MissingExtraError
from clipmill.models.runtimes import openvino, start_runtime, store
from clipmill.models.runtimes.store import Store
from clipmill.models.support_matrix import Combination
from clipmill.models.towers import find_source, open_clip


@pytest.fixture
def demo_cache(tmp_path, monkeypatch):
    """An empty cache for one test, with the demo as a model whose graphs have to be made."""
    monkeypatch.setenv("CLIPMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(open_clip, "_graphs_beside", lambda weights: None)
    yield tmp_path / "cache"
    unload_all()


_WORKER = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from clipmill.encoders import load_encoder
from clipmill.models.towers import open_clip
open_clip._graphs_beside = lambda weights: None
precision = "auto" if sys.argv[1] == "auto" else "fp32"
encoder = load_encoder("demo", device="cpu", runtime=sys.argv[1], precision=precision)
print("vector", encoder.embed_texts(["a red circle"])[0, :3].tolist())
print("imported", [name for name in ("torch", "open_clip", "onnx") if name in sys.modules])
"""


def _start_worker(runtime: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", _WORKER, runtime], stdout=subprocess.PIPE, text=True, cwd=os.sep)


def test_workers_that_start_together_make_the_graphs_once(demo_cache) -> None:
    """Two processes with an empty cache: one makes them, one waits; later ones import neither torch nor open_clip."""
    runtimes = ("onnx", "openvino")
    together = [worker.communicate(timeout=300)[0] for worker in map(_start_worker, runtimes)]
    assert sum("made float graphs" in text for text in together) == 1, together
    later = [worker.communicate(timeout=120)[0] for worker in map(_start_worker, runtimes)]
    for first, second in zip(together, later, strict=True):
        assert "made float graphs" not in second and "imported []" in second
        vectors = {line for text in (first, second) for line in text.splitlines() if line.startswith("vector")}
        assert len(vectors) == 1
    assert not list(demo_cache.rglob("*draft*"))


def test_workers_that_start_together_decide_once(demo_cache) -> None:
    """One of two processes measures for `auto`; the other waits, uses the result and builds no towers."""
    outputs = [worker.communicate(timeout=300)[0] for worker in [_start_worker("auto"), _start_worker("auto")]]
    assert sum("made float graphs" in text for text in outputs) == 1, outputs
    assert sum("imported []" in text for text in outputs) == 1, outputs
    assert all("(auto)" in text for text in outputs)


def test_incomplete_graphs_are_not_used(quick_maker, demo_cache, monkeypatch) -> None:
    """A failure leaves nothing; graphs with a missing or changed file are made again."""
    made = Store(find_source(EncoderSpec("demo")), None)

    def fail_midway(towers, frontend, folder):
        (folder / "image.onnx").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "make_graphs", fail_midway)
        made.graphs("float")
    assert not [path for path in demo_cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    folder = made.graphs("float").folder
    assert Store(made.source, None).graphs("float").folder == folder
    with (folder / "text.data").open("r+b") as data:
        data.truncate(1000)
    again = Store(made.source, None)
    assert again.graphs("float").folder == folder and again.was_made("float")
    assert (folder / "text.data").stat().st_size > 1000


def test_a_read_only_cache(quick_maker, demo_cache, monkeypatch, caplog) -> None:
    """Graphs in it are used; missing ones are made elsewhere, with a warning."""
    source = find_source(EncoderSpec("demo"))
    monkeypatch.setattr(store, "is_writable", lambda folder: False)
    monkeypatch.setattr(openvino, "is_writable", lambda folder: False)
    with caplog.at_level(logging.WARNING, "clipmill"):
        elsewhere = Store(source, None).graphs("float").folder
    assert "is not writable" in caplog.text and demo_cache not in elsewhere.parents
    assert Store(source, None).graphs("float").folder == elsewhere, "once a process"
    kept = demo_cache / "graphs" / Store(source, None).key("float")
    shutil.copytree(elsewhere, kept)
    found = Store(source, None)
    assert found.graphs("float").folder == kept and not found.was_made("float")
    runtime = start_runtime(found, Combination("openvino", "fp32"), "cpu", 1)
    assert runtime.encode("text", (np.array([[49406, 320, 49407]]),)).shape == (1, 96)
    assert not (kept / "compiled").exists()


def test_an_incomplete_compiled_model_is_compiled_again(quick_maker, demo_cache) -> None:
    """OpenVINO's own cache has no marker of completeness; ours has."""
    found = Store(find_source(EncoderSpec("demo")), None)
    first = start_runtime(found, Combination("openvino", "fp32"), "cpu", 1)
    ids = (np.array([[49406, 320, 49407]]),)
    expected = first.encode("text", ids)
    blobs = list(found.compiled("float").rglob("*.blob"))
    assert blobs
    for blob in blobs:
        blob.write_bytes(blob.read_bytes()[:100])
        (blob.parent / "whole").unlink()
    again = start_runtime(found, Combination("openvino", "fp32"), "cpu", 1)
    np.testing.assert_array_equal(again.encode("text", ids), expected)


def test_a_result_that_cannot_be_cached_is_no_error(demo_cache, monkeypatch) -> None:
    """On a full disk, empty files can be created but not written to."""

    def full(*_):
        raise OSError(28, "No space left on device")

    found = Store(find_source(EncoderSpec("demo")), None)
    monkeypatch.setattr(store.os, "replace", full)
    found.remember("check", {}, {"cosine": 1.0})
    assert found.known("check", {}) is None
    assert not [path for path in demo_cache.rglob("*") if path.is_file()], "no draft is left"


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_making_graphs_without_a_package_names_the_extra(package: str, demo_cache, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*pip install 'clipmill\[onnx\]'"):
        load_encoder("demo", device="cpu", runtime="onnx", precision="fp32")


def test_writability_is_checked_with_a_file(tmp_path, monkeypatch) -> None:
    """A missing folder is created; if no file can be created in it, it is not writable."""
    assert store.is_writable(tmp_path / "deep" / "folder") and not list((tmp_path / "deep" / "folder").iterdir())
    (tmp_path / "file").touch()
    assert not store.is_writable(tmp_path / "file" / "folder")

    def full(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(store.tempfile, "TemporaryFile", full)
    assert not store.is_writable(tmp_path)
