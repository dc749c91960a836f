"""`auto` selects the fastest combination whose vectors pass the check; given ones are used or refused."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from weights import drawn_module, write_safetensors

from clipmill.encoders import EncoderSpec, count_loads, load_encoder, registry, unload_all
from clipmill.encoders.testing import FakeModel
from clipmill.errors import ClipmillError, DeviceError, SpecError, WeightsError
from clipmill.models import support_matrix as table
from clipmill.models.frontend import Frontend
from clipmill.models.runtimes import candidates as candidates_of
from clipmill.models.runtimes import choice, probes, pytorch
from clipmill.models.runtimes.candidates import candidates
from clipmill.models.runtimes.store import Store
from clipmill.models.source import ModelSource
from clipmill.models.support_matrix import Combination
from clipmill.models.towers import find_source, open_clip
from clipmill.models.towers.open_clip import DEMO_PRECISION


@pytest.fixture(autouse=True)
def _forget_models(monkeypatch):
    """Treat the demo like any model, whose precision depends on the check alone, and whose graphs have to be made."""
    monkeypatch.setattr(open_clip, "DEMO_PRECISION", None)
    monkeypatch.setattr(open_clip, "_graphs_beside", lambda weights: None)
    unload_all()
    yield
    unload_all()


@pytest.fixture
def cold(quick_maker, tmp_path, monkeypatch):
    """An empty cache, into which the demo model's graphs are copied instead of being made."""
    monkeypatch.setenv("CLIPMILL_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(params=[True, False], ids=["bfloat16", "no bfloat16"])
def native(request, monkeypatch) -> bool:
    """A processor with native bfloat16, or one without."""
    monkeypatch.setattr(candidates_of, "has_native_bfloat16", lambda: request.param)
    return request.param


def _candidates(spec: EncoderSpec, device: str = "cpu", source: ModelSource | None = None) -> list[str]:
    return [str(way) for way in candidates(Store(source or find_source(spec), None), spec, device)]


@pytest.mark.parametrize(
    ("options", "with_bfloat16", "without"),
    [
        ({}, "openvino bf16, torch bf16, openvino fp32, onnx fp32, torch fp32", "openvino fp32, onnx fp32, torch fp32"),
        ({"precision": "fp32"}, "openvino fp32, onnx fp32, torch fp32", "openvino fp32, onnx fp32, torch fp32"),
        ({"runtime": "torch"}, "torch bf16, torch fp32", "torch fp32"),
        ({"runtime": "onnx"}, "onnx fp32", "onnx fp32"),
        ({"runtime": "openvino"}, "openvino bf16, openvino fp32", "openvino fp32"),
        ({"precision": "bf16"}, "openvino bf16, torch bf16", "openvino bf16, torch bf16"),
        ({"precision": "int8"}, "onnx int8, openvino int8", "onnx int8, openvino int8"),
    ],
    ids=str,
)
def test_candidates_on_a_cpu(options: dict, with_bfloat16: str, without: str, native: bool) -> None:
    """In the order of their speed, limited by the spec."""
    assert ", ".join(_candidates(EncoderSpec("demo", **options))) == (with_bfloat16 if native else without)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "torch bf16, torch fp32"),
        ({"runtime": "onnx"}, "onnx fp32"),
        ({"precision": "fp16"}, "torch fp16"),
        ({"runtime": "onnx", "precision": "fp16"}, "onnx fp16"),
    ],
    ids=str,
)
def test_candidates_on_a_gpu(options: dict, expected: str) -> None:
    """torch, unless another runtime is given; float16 only if it is given."""
    assert ", ".join(_candidates(EncoderSpec("demo", **options), "cuda:0")) == expected


def test_only_what_is_installed_is_a_candidate(monkeypatch) -> None:
    """A plain installation only has torch."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("openvino", "onnxruntime") else real(name)
    )
    assert _candidates(EncoderSpec("demo", precision="fp32")) == ["torch fp32"]


def test_a_family_limits_the_runtimes_of_its_towers() -> None:
    """`auto` respects it, and another runtime is refused with the supported ones."""
    source = ModelSource(Frontend(4), (), dict, runtimes=("torch",))
    assert _candidates(EncoderSpec("demo", precision="fp32"), source=source) == ["torch fp32"]
    with pytest.raises(SpecError, match=r"runtime='onnx'.* it can in torch bf16 on cpu, torch bf16 on cuda, torch fp"):
        _candidates(EncoderSpec("demo", runtime="onnx"), source=source)


@pytest.mark.parametrize(
    ("options", "supported"),
    [
        ({"runtime": "openvino", "device": "cuda"}, "openvino on cpu: fp32, bf16, int8"),
        ({"runtime": "openvino", "precision": "fp16"}, "openvino on cpu"),
        ({"runtime": "torch", "precision": "int8"}, "torch on cpu: fp32, bf16; torch on cuda: fp32, bf16, fp16"),
        ({"runtime": "onnx", "precision": "bf16"}, "onnx on cpu: fp32, int8; onnx on cuda: fp32, fp16"),
        ({"precision": "fp16", "device": "cpu"}, "torch on cpu: fp32, bf16"),
        ({"precision": "int8", "device": "cuda:1"}, "openvino on cpu: fp32, bf16, int8"),
        ({"runtime": "onnx", "precision": "int8", "device": "cuda"}, "onnx on cuda: fp32, fp16"),
    ],
    ids=str,
)
def test_unsupported_combinations_are_refused_when_the_spec_is_made(options: dict, supported: str) -> None:
    """Before anything is loaded; the message has the given and the supported values."""
    with pytest.raises(SpecError) as caught:
        EncoderSpec("demo", **options)
    assert supported in str(caught.value)
    assert all(f"{name}={value!r}" in str(caught.value) for name, value in options.items())


def test_bfloat16_is_refused_on_a_processor_without_it(monkeypatch) -> None:
    """If bf16 is given, it is refused at load and not emulated."""
    monkeypatch.setattr(pytorch, "has_native_bfloat16", lambda: False)
    with pytest.raises(DeviceError, match=r"avx512_bf16, amx_bf16 or Arm's bf16"):
        load_encoder("demo", device="cpu", runtime="torch", precision="bf16")


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("model name\t: A CPU\nflags\t\t: fpu avx2 avx512_bf16 sse\n", True),
        ("model name\t: A CPU\nflags\t\t: fpu avx2 sse avx512f\n", False),
        ("CPU part\t: 0xd40\nFeatures\t: fp asimd bf16 i8mm\n", True),
        ("", False),
    ],
    ids=["x86", "older x86", "Arm", "unknown"],
)
def test_native_bfloat16_is_read_from_the_processors_flags(cpuinfo: str, expected: bool, monkeypatch, tmp_path) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(table, "_CPUINFO", tmp_path / "cpuinfo")
    table._flags.cache_clear()
    try:
        assert table.has_native_bfloat16() is expected
    finally:
        table._flags.cache_clear()


@pytest.mark.parametrize(
    ("files", "expected"), [(["null", "sda"], False), (["nvidia0", "nvidiactl"], True), (["dxg"], True)], ids=str
)
def test_a_gpu_is_detected_without_torch(files: list[str], expected: bool, monkeypatch, tmp_path) -> None:
    """Without a driver there is no GPU, which needs no import of torch."""
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(table, "_DEVICES", tmp_path)
    assert table.may_have_gpu() is expected


def test_auto_is_checked_once_per_machine(cold, caplog, monkeypatch) -> None:
    """The first load measures; the second, and one in another process, use the cached result and build no towers."""
    with caplog.at_level(logging.INFO, "clipmill"):
        first = load_encoder("demo", device="cpu")
    expected = "bf16" if table.has_native_bfloat16() else "fp32"
    assert (first.resolved["runtime"], first.resolved["precision"]) == ("openvino", expected)
    assert 0.999 <= first.resolved["checked_cosine"] <= 1
    checked = {"checked_cosine": first.resolved["checked_cosine"]}
    assert f"demo runs with openvino {expected} (auto): {checked}" in caplog.text
    (note,) = (cold / "graphs/notes").glob("check-*.json")
    assert json.loads(note.read_text())["cosine"] == pytest.approx(first.resolved["checked_cosine"], abs=1e-6)
    unload_all()
    monkeypatch.setattr(Store, "towers", property(lambda self: pytest.fail("towers were built")))
    assert load_encoder("demo", device="cpu").resolved == first.resolved
    program = (
        "import sys; from clipmill.encoders import load_encoder; from clipmill.models.towers import open_clip\n"
        "open_clip.DEMO_PRECISION, open_clip._graphs_beside = None, lambda weights: None\n"
        "print(load_encoder('demo').resolved['checked_cosine'], [n for n in ('torch', 'onnx') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=os.sep)
    # with a GPU, `auto` is another device, which torch looks up
    imported = ["torch"] if table.may_have_gpu() else []
    assert done.stdout.strip().endswith(f" {imported}")


@pytest.fixture(scope="module")
def wild(small_architectures, tmp_path_factory) -> str:
    """A model whose random weights are so large that bfloat16 is inaccurate."""
    module = drawn_module("RN50", quick_gelu=True, gain=12.0)
    path = write_safetensors(module, tmp_path_factory.mktemp("wild") / "w.safetensors")
    return f"RN50::{path}"


def test_an_inaccurate_candidate_is_skipped(wild: str, caplog) -> None:
    """The next candidate is used; the log has the cosine."""
    if not table.has_native_bfloat16():
        with pytest.raises(DeviceError):
            load_encoder(wild, device="cpu", runtime="torch", precision="bf16")
        return
    with caplog.at_level(logging.INFO, "clipmill"):
        encoder = load_encoder(wild, device="cpu", runtime="torch")
    assert encoder.resolved["precision"] == "fp32" and "checked_cosine" not in encoder.resolved
    (line,) = [r.getMessage() for r in caplog.records if "torch bf16 is not used" in r.getMessage()]
    cosine = float(line.partition("against float32 is ")[2].partition(",")[0])
    assert cosine < 0.999
    exact = load_encoder(wild, device="cpu", runtime="torch", precision="fp32")
    np.testing.assert_array_equal(exact.embed_texts(["a cat"]), encoder.embed_texts(["a cat"]))
    named = load_encoder(wild, device="cpu", runtime="torch", precision="bf16")
    assert named.resolved["precision"] == "bf16", "a given precision is used"


def test_a_wrong_graph_is_skipped(cold, monkeypatch, caplog) -> None:
    """The same check detects graphs that compute something else, also in float32."""
    real = probes.probes_of
    calls = []

    def other_images(frontend, model_input, **options):
        calls.append(model_input)
        seed = 50 if len(calls) > len(frontend.modalities) else 0  # other probes, except for the reference
        return real(frontend, model_input, seed=seed, **options)

    monkeypatch.setattr(probes, "probes_of", other_images)
    with caplog.at_level(logging.INFO, "clipmill"):
        encoder = load_encoder("demo", device="cpu", precision="fp32")
    assert encoder.resolved["runtime"] == "torch"
    assert caplog.text.count("is not used") == 2


def test_a_graph_that_cannot_be_made_is_only_a_warning_with_auto(cold, monkeypatch, caplog) -> None:
    """`auto` uses another runtime, and does not retry in the next process; a given runtime fails with the reason."""

    def fail(*_):
        raise WeightsError("no graph could be made of the text tower: complex numbers")

    monkeypatch.setattr("clipmill.models.runtimes.store.make_graphs", fail)
    with caplog.at_level(logging.WARNING, "clipmill"):
        encoder = load_encoder("demo", device="cpu", precision="fp32")
    assert encoder.resolved["runtime"] == "torch"
    assert "demo cannot run with openvino fp32, trying the next: no graph could be made" in caplog.text
    unload_all()
    monkeypatch.setattr("clipmill.models.runtimes.store.make_graphs", lambda *_: pytest.fail("tried again"))
    assert load_encoder("demo", device="cpu", precision="fp32").resolved["runtime"] == "torch"
    unload_all()
    monkeypatch.setattr("clipmill.models.runtimes.store.make_graphs", fail)
    with pytest.raises(WeightsError, match="complex numbers"):
        load_encoder("demo", device="cpu", runtime="openvino", precision="fp32")


def test_missing_weights_fail_at_once(cold, tmp_path, caplog) -> None:
    """Not once for each candidate, and whatever the options are."""
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    for options in ({}, {"runtime": "onnx", "precision": "fp32"}):
        with caplog.at_level(logging.WARNING, "clipmill"):
            with pytest.raises(WeightsError, match=r"bad\.pt' is damaged, or no file of torch\.save"):
                load_encoder(f"ViT-B-32::{tmp_path}/bad.pt", device="cpu", **options)
            with pytest.raises(WeightsError, match=r"no weights at .*none.*random weights"):
                load_encoder(f"ViT-B-32::{tmp_path}/none.pt", device="cpu", **options)
    assert "trying the next" not in caplog.text


def test_a_transient_failure_is_not_cached(cold, monkeypatch) -> None:
    """After a full disk, the next process tries again."""

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("clipmill.models.runtimes.store.make_graphs", fail)
        assert load_encoder("demo", device="cpu", precision="fp32").resolved["runtime"] == "torch"
    unload_all()
    assert load_encoder("demo", device="cpu", precision="fp32").resolved["runtime"] == "openvino"


def test_auto_and_explicit_options_share_one_copy() -> None:
    """Whichever is loaded first; one load is counted."""
    chosen = load_encoder("demo", device="cpu").resolved
    named = {"runtime": chosen["runtime"], "precision": chosen["precision"]}
    unload_all()
    before = count_loads()
    a = load_encoder("demo", device="cpu")
    b = load_encoder("demo", device="cpu", **named)
    c = load_encoder("demo", device="cpu", runtime=chosen["runtime"])
    assert a._loaded is b._loaded is c._loaded and count_loads() == before + 1
    unload_all()
    b = load_encoder("demo", device="cpu", **named)
    a = load_encoder("demo", device="cpu", normalize=True)
    assert a._loaded is b._loaded and count_loads() == before + 2
    other = load_encoder("demo", device="cpu", runtime="torch", precision="fp32")
    assert other._loaded is not a._loaded and count_loads() == before + 3


def test_a_worker_on_another_gpu_releases_only_the_copies_on_gpus(monkeypatch) -> None:
    """In every precision; a copy on the CPU belongs to another spec, which would reload it again and again."""
    place = "cpu"
    monkeypatch.setattr(registry, "_resolve_device", lambda spec: place)

    def load(spec, device, cpus):
        return registry._key(spec, Combination("torch", spec.precision), device), FakeModel({"dim": "8"})

    monkeypatch.setattr(registry, "_load_catalog", load)
    kept = load_encoder("demo", precision="fp32")
    place = "cuda:0"
    exact, reduced = (load_encoder("demo", precision=precision, exclusive=True) for precision in ("fp32", "bf16"))
    assert exact._loaded is not reduced._loaded
    assert load_encoder("demo", precision="fp32", exclusive=True) is exact, "both stay on one GPU"
    place = "cuda:1"
    load_encoder("demo", precision="fp32", exclusive=True)
    assert {device for _, device, _ in registry._models} == {"cpu", "cuda:1"}
    place = "cpu"
    assert load_encoder("demo", precision="fp32") is kept


def test_auto_means_float32_for_the_demo(monkeypatch) -> None:
    """A cosine of 0.9999 does not keep the order of the demo's close neighbours, so its `auto` is exact."""
    monkeypatch.setattr(open_clip, "DEMO_PRECISION", DEMO_PRECISION)
    monkeypatch.setattr(candidates_of, "has_native_bfloat16", lambda: True)
    assert _candidates(EncoderSpec("demo")) == ["openvino fp32", "onnx fp32", "torch fp32"]
    assert _candidates(EncoderSpec("demo"), "cuda:0") == ["torch fp32"]
    assert _candidates(EncoderSpec("demo", precision="bf16")) == ["openvino bf16", "torch bf16"]


def test_options_of_a_family_make_another_model() -> None:
    """The limit of tokens is part of the tokenizer, so specs with different limits share no copy."""
    long, short = (load_encoder("demo", device="cpu", max_text_tokens=n) for n in (None, 4))
    text = "a small red circle on the left"
    assert long._loaded is not short._loaded
    assert not np.allclose(long.embed_texts([text]), short.embed_texts([text]), atol=1e-3)


def test_the_error_of_the_last_candidate_is_raised(monkeypatch) -> None:
    """If no candidate runs."""

    def fail(*_):
        raise DeviceError("no runtime at all")

    monkeypatch.setattr(choice, "start_runtime", fail)
    with pytest.raises(ClipmillError, match="no runtime at all"):
        load_encoder("demo", device="cpu", precision="fp32", max_text_tokens=9)


def test_combinations_print_as_people_write_them() -> None:
    assert str(Combination("openvino", "bf16")) == "openvino bf16"
