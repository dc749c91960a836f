"""Every runtime gives the vectors of the float32 towers, in every entrance; graphs are made once and kept whole."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx as onnx_format
import pytest
import torch
from hub_cache import put_repository
from pictures import photographs
from PIL import Image
from weights import drawn_module, relative_error, write_safetensors

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.encoders.catalog.tables import Preprocessing
from clipmill.encoders.combinations import Combination, has_native_bfloat16
from clipmill.encoders.errors import DeviceError, MissingExtraError, OutOfMemoryError, WeightsError
from clipmill.encoders.model import Runtime
from clipmill.encoders.runtimes import feeding, graphs, onnx, openvino, start_runtime, store
from clipmill.encoders.runtimes.feeding import normalise
from clipmill.encoders.runtimes.store import Store, smallest_cosine
from clipmill.encoders.towers import find_source

TOLERANCE, VISIBLE = 1e-4, 1e-2
TEXTS = ["a photo of a cat", "x", "she smiled, with pain", "word " * 60]

GAIN = 2.0
"""Of the drawn blocks: a wrong activation is seen, while bfloat16 stays within its bound."""

_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 3}
ARCHITECTURES: dict[str, dict] = {
    "transformer": {"image_size": 64, "layers": 3, "width": 128, "head_width": 64, "patch_size": 16},
    "ResNet": {"image_size": 64, "layers": [1, 2, 2, 1], "width": 32, "patch_size": None},
}
"""Both kinds of image towers, small. `test_parity.py` runs published sizes in every runtime."""


@dataclasses.dataclass
class Case:
    """One architecture: where its graphs are kept, inputs, and the float32 vectors of its towers."""

    config: dict
    store: Store
    inputs: dict[str, tuple[np.ndarray, ...]]
    expected: dict[str, np.ndarray]

    def start(self, runtime: str, precision: str = "fp32") -> Runtime:
        return start_runtime(self.store, Combination(runtime, precision), "cpu", 2)


def crops(size: int) -> np.ndarray:
    """Return 32 different crops (32, size, size, 3) uint8 of photographs."""
    pictures = list(photographs().values())
    rng = np.random.default_rng(5)
    found = []
    for number in range(32):
        picture = Image.fromarray(pictures[number % len(pictures)])
        left, top = (int(rng.integers(0, side // 3)) for side in picture.size)
        found.append(np.asarray(picture.crop((left, top, left + size, top + size))))
    return np.stack(found)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request, tmp_path_factory) -> Case:
    config = {"embed_dim": 96, "quick_gelu": True, "vision_cfg": ARCHITECTURES[request.param], "text_cfg": _TEXT}
    cache = tmp_path_factory.mktemp("cache")
    weights = write_safetensors(drawn_module(config, quick_gelu=True, gain=GAIN), cache / "drawn.safetensors")
    files = {
        "open_clip_config.json": json.dumps({"model_cfg": config}).encode(),
        "open_clip_model.safetensors": weights.read_bytes(),
    }
    put_repository(cache / "huggingface", "drawn/small", files)
    found = Store(find_source(EncoderSpec("hf-hub:drawn/small", cache_dir=str(cache))), str(cache))
    text = found.source.frontend.text
    images = crops(found.source.frontend.image.image_size)
    inputs = {
        "image": (images,),
        "normalised_image": (normalise(images, found.source.frontend.image),),
        "text": text.batch([text.tokenizer(t)[0] for t in TEXTS]),
    }
    towers = start_runtime(found, Combination("torch", "fp32"), "cpu", 2)
    return Case(config, found, inputs, {name: towers.encode(name, inputs[name]) for name in inputs})


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_float32_graphs_equal_the_towers(runtime: str, case: Case) -> None:
    """In every entrance, one row, three and thirty-two; rows that changed places would be seen."""
    started = case.start(runtime)
    assert (started.name, started.precision, started.device) == (runtime, "fp32", "cpu")
    for entrance, inputs in case.inputs.items():
        expected = case.expected[entrance]
        for rows in (1, 3, len(expected)):
            vectors = started.encode(entrance, [array[:rows] for array in inputs])
            assert vectors.dtype == np.float32
            assert relative_error(vectors, expected[:rows]) <= TOLERANCE, (entrance, rows)
        assert relative_error(np.roll(expected, 1, axis=0), expected) > VISIBLE


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_texts_of_any_length(runtime: str, case: Case) -> None:
    """Each text alone, as short as it is, gives the vector that it has in a batch of long ones."""
    started = case.start(runtime)
    text = case.store.source.frontend.text
    lengths = set()
    for number, words in enumerate(TEXTS):
        inputs = text.batch([text.tokenizer(words)[0]])
        lengths.add(inputs[0].shape[1])
        assert relative_error(started.encode("text", inputs), case.expected["text"][number][None]) <= TOLERANCE
    assert {3, 62} <= lengths


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_bfloat16_stays_within_its_bound(runtime: str, case: Case) -> None:
    """Near float32, and not float32 under another name."""
    if not has_native_bfloat16():
        with pytest.raises(DeviceError, match="multiplies bfloat16 itself"):
            case.start(runtime, "bf16")
        return
    started = case.start(runtime, "bf16")
    assert started.precision == "bf16"
    for entrance, inputs in case.inputs.items():
        vectors = started.encode(entrance, inputs)
        assert relative_error(vectors, case.expected[entrance]) > TOLERANCE, "that was float32"
        assert smallest_cosine(vectors, case.expected[entrance]) >= 0.999, entrance


def test_int8_stays_near(case: Case) -> None:
    """Weights and activations in int8: cosine of at least 0.995, on weights drawn larger than real ones are."""
    started = case.start("onnx", "int8")
    for entrance, graph in case.store.graphs("int8").files.items():
        nodes = onnx_format.load(case.store.graphs("int8").folder / graph, load_external_data=False).graph.node
        assert sum(node.op_type == "MatMulInteger" for node in nodes) >= 4, entrance
    for entrance, inputs in case.inputs.items():
        vectors = started.encode(entrance, inputs)
        cosine = smallest_cosine(vectors, case.expected[entrance])
        assert relative_error(vectors, case.expected[entrance]) > TOLERANCE, "that was float32"
        assert cosine >= 0.995, entrance


def test_negative_controls_are_seen(case: Case, tmp_path) -> None:
    """The other activation, another mean and standard deviation, and swapped channels all miss by far."""
    other = drawn_module(case.config, quick_gelu=False, gain=GAIN)
    padded = np.zeros((len(TEXTS), 77), np.int64)
    padded[:, : case.inputs["text"][0].shape[1]] = case.inputs["text"][0]
    with torch.inference_mode():
        texts = other.encode_text(torch.from_numpy(padded)).numpy()
    assert relative_error(texts, case.expected["text"]) > VISIBLE
    made = case.store.graphs("float")
    size = case.store.source.frontend.image.image_size
    for file in made.folder.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    graphs.prepend_normalisation(
        tmp_path / "normalised_image.onnx",
        tmp_path / "image.onnx",
        Preprocessing(size, mean=(0.5,) * 3, std=(0.5,) * 3),
    )
    half = dataclasses.replace(made, folder=tmp_path)
    started = onnx.OnnxRuntime(half, None, "cpu", "fp32", 2, tmp_path)
    few = case.inputs["image"][0][:3]
    assert relative_error(started.encode("image", (few,)), case.expected["image"][:3]) > VISIBLE
    swapped = case.start("onnx").encode("image", (np.ascontiguousarray(few[..., ::-1]),))
    assert relative_error(swapped, case.expected["image"][:3]) > VISIBLE


def test_weights_stand_once_beside_their_graphs(case: Case) -> None:
    """Both entrances of the image tower refer to one file; graphs themselves are small and name no path of ours."""
    folder = case.store.graphs("float").folder
    weights = sum(path.stat().st_size for path in case.store.source.files)
    data = sum((folder / name).stat().st_size for name in ("image.data", "text.data"))
    assert 0.9 * weights < data < 1.1 * weights
    for path in folder.glob("*.onnx"):
        assert path.stat().st_size < 5_000_000
        assert b"site-packages" not in path.read_bytes() and b".py" not in path.read_bytes()


@pytest.fixture
def demo_cache(tmp_path, monkeypatch):
    """An empty cache for one test."""
    monkeypatch.setenv("CLIPMILL_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    unload_all()


@pytest.mark.parametrize(("runtime", "precision"), [("onnx", "fp32"), ("openvino", "fp32"), ("onnx", "int8")])
def test_the_demo_model_runs_everywhere(runtime: str, precision: str) -> None:
    """Through the front door, with what the provenance says; normalised input goes past the graph's own."""
    picture = next(iter(photographs().values()))
    exact = load_encoder("demo", device="cpu", runtime="torch", precision="fp32")
    encoder = load_encoder("demo", device="cpu", runtime=runtime, precision=precision)
    assert (encoder.resolved["runtime"], encoder.resolved["precision"]) == (runtime, precision)
    bound = TOLERANCE if precision == "fp32" else 0.05
    assert relative_error(encoder.embed_texts(TEXTS), exact.embed_texts(TEXTS)) <= bound
    assert relative_error(encoder.embed_images([picture]), exact.embed_images([picture])) <= bound
    raw = {"device": "cpu", "preprocess": False}
    values = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    ours = load_encoder("demo", runtime=runtime, precision=precision, **raw).embed_images(values)
    theirs = load_encoder("demo", runtime="torch", precision="fp32", **raw).embed_images(values)
    assert relative_error(ours, theirs) <= bound


def test_int8_by_openvino_runs() -> None:
    """NNCF's static quantisation of a tiny ResNet: far from float32, and said so."""
    encoder = load_encoder("demo", device="cpu", runtime="openvino", precision="int8")
    exact = load_encoder("demo", device="cpu", runtime="torch", precision="fp32")
    assert encoder.resolved["precision"] == "int8"
    assert smallest_cosine(encoder.embed_texts(TEXTS), exact.embed_texts(TEXTS)) >= 0.98
    assert encoder.resolved["checked_cosine"] >= 0.98


_WORKER = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from clipmill.encoders import load_encoder
precision = "auto" if sys.argv[1] == "auto" else "fp32"
encoder = load_encoder("demo", device="cpu", runtime=sys.argv[1], precision=precision)
print("vector", encoder.embed_texts(["a red circle"])[0, :3].tolist())
print("imported", [name for name in ("torch", "open_clip", "onnx") if name in sys.modules])
"""


def _start_worker(runtime: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", _WORKER, runtime], stdout=subprocess.PIPE, text=True, cwd=os.sep)


def test_workers_that_start_together_make_the_graphs_once(demo_cache) -> None:
    """Two processes on a cold cache: one makes, one waits; later ones import neither torch nor open_clip."""
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
    """What `auto` means is measured by one of two processes; the other waits, believes it and builds no towers."""
    said = [worker.communicate(timeout=300)[0] for worker in [_start_worker("auto"), _start_worker("auto")]]
    assert sum("made float graphs" in text for text in said) == 1, said
    assert sum("imported []" in text for text in said) == 1, said
    assert all("chosen by auto" in text for text in said)


@pytest.fixture(scope="module")
def made_graphs() -> graphs.Graphs:
    """The demo model's."""
    return Store(find_source(EncoderSpec("demo")), None).graphs("float")


@pytest.fixture
def quick_maker(made_graphs: graphs.Graphs, monkeypatch) -> None:
    """Let stores make the demo model's graphs by copying them, for tests of where they are kept."""

    def copy(towers, frontend, folder) -> graphs.Graphs:
        for path in made_graphs.folder.iterdir():
            if path.is_file() and path.name != graphs.NOTE:
                shutil.copy(path, folder)
        return dataclasses.replace(made_graphs, folder=folder)

    monkeypatch.setattr(store, "make_graphs", copy)


def test_half_made_graphs_are_not_taken(quick_maker, demo_cache, monkeypatch) -> None:
    """A maker that fails leaves nothing; graphs that lost or changed a file are made again."""
    made = Store(find_source(EncoderSpec("demo")), None)

    def break_off(towers, frontend, folder):
        (folder / "image.onnx").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "make_graphs", break_off)
        made.graphs("float")
    assert not [path for path in demo_cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    folder = made.graphs("float").folder
    assert Store(made.source, None).graphs("float").folder == folder
    with (folder / "text.data").open("r+b") as data:
        data.truncate(1000)
    again = Store(made.source, None)
    assert again.graphs("float").folder == folder and again.was_made("float")
    assert (folder / "text.data").stat().st_size > 1000


def test_a_cache_that_cannot_be_written(quick_maker, demo_cache, monkeypatch, caplog) -> None:
    """Graphs in it are used; without them they are made elsewhere, and a warning says so."""
    source = find_source(EncoderSpec("demo"))
    monkeypatch.setattr(store, "is_writable", lambda folder: False)
    monkeypatch.setattr(openvino, "is_writable", lambda folder: False)
    with caplog.at_level(logging.WARNING, "clipmill"):
        elsewhere = Store(source, None).graphs("float").folder
    assert "cannot be written" in caplog.text and demo_cache not in elsewhere.parents
    assert Store(source, None).graphs("float").folder == elsewhere, "once a process"
    kept = demo_cache / "graphs" / Store(source, None).key("float")
    shutil.copytree(elsewhere, kept)
    found = Store(source, None)
    assert found.graphs("float").folder == kept and not found.was_made("float")
    runtime = start_runtime(found, Combination("openvino", "fp32"), "cpu", 1)
    assert runtime.encode("text", (np.array([[49406, 320, 49407]]),)).shape == (1, 96)
    assert not (kept / "compiled").exists()


def test_a_compiled_model_that_was_not_finished_is_compiled_again(quick_maker, demo_cache) -> None:
    """OpenVINO's own cache has no sign of being whole; ours has."""
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


def test_a_gpu_that_fell_back_to_the_cpu_is_an_error(monkeypatch) -> None:
    """ONNX Runtime only logs it; here, and in a build without CUDA, it is refused."""
    with pytest.raises(DeviceError, match="CUDA devices here"):
        load_encoder("demo", device="cuda:7", runtime="onnx", precision="fp32")
    import onnxruntime

    found = Store(find_source(EncoderSpec("demo")), None)
    with pytest.raises(DeviceError, match=r"clipmill\[onnx-gpu\]"):
        start_runtime(found, Combination("onnx", "fp32"), "cuda:0", 1)
    offered = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    with pytest.raises(DeviceError, match="fell back to CPUExecutionProvider"):
        start_runtime(found, Combination("onnx", "fp32"), "cuda:0", 1)


def test_another_precision_than_asked_for_is_an_error(monkeypatch) -> None:
    """OpenVINO is asked what it really computes in."""
    found = Store(find_source(EncoderSpec("demo")), None)
    runtime = start_runtime(found, Combination("openvino", "fp32"), "cpu", 1)
    monkeypatch.setattr(runtime, "precision", "bf16")
    with pytest.raises(DeviceError, match="'bf16' was asked for and OpenVINO computes in f32"):
        runtime.encode("normalised_image", (np.zeros((1, 3, 64, 64), np.float32),))


@pytest.mark.parametrize(("runtime", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_runtime_that_is_not_installed_names_its_extra(runtime: str, package: str, monkeypatch) -> None:
    found = Store(find_source(EncoderSpec("demo")), None)
    found.graphs("float")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'clipmill\[{runtime}\]'"):
        start_runtime(found, Combination(runtime, "fp32"), "cpu", 1)


def test_float32_is_not_rounded_by_a_gpu() -> None:
    """CUDA's convolutions round to TF32 unless torch is told otherwise, matrix products where a program allows it."""
    for backend in (torch.backends, torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul):
        backend.fp32_precision = "tf32"
    try:
        start_runtime(Store(find_source(EncoderSpec("demo")), None), Combination("torch", "fp32"), "cpu", 1)
    finally:
        torch.backends.fp32_precision = "none"
    assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cudnn.allow_tf32 is False, "older settings can still be read"


def test_a_finding_that_cannot_be_written_is_no_error(demo_cache, monkeypatch) -> None:
    """A full disk: empty files can be made, and nothing put into them."""

    def full(*_):
        raise OSError(28, "No space left on device")

    found = Store(find_source(EncoderSpec("demo")), None)
    monkeypatch.setattr(store.os, "replace", full)
    found.remember("check", {}, {"cosine": 1.0})
    assert found.known("check", {}) is None
    assert not [path for path in demo_cache.rglob("*") if path.is_file()], "no draft is left"


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_making_graphs_names_what_it_needs(package: str, demo_cache, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*pip install 'clipmill\[onnx\]'"):
        load_encoder("demo", device="cpu", runtime="onnx", precision="fp32")


def test_memory_that_runs_out_is_told_from_other_errors() -> None:
    """The runtimes' messages for it become ours, so that micro-batches are halved."""
    told = feeding.translated(RuntimeError("std::bad_alloc"), "cpu")
    assert isinstance(told, OutOfMemoryError)
    assert isinstance(
        feeding.translated(RuntimeError("Failed to allocate memory for requested buffer"), "cpu"), OutOfMemoryError
    )
    assert isinstance(feeding.translated(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), "cuda:0"), OutOfMemoryError)
    broken = feeding.translated(RuntimeError("CUDA failure 700: an illegal memory access was encountered"), "cuda:0")
    assert isinstance(broken, DeviceError), "no row's fault: the job ends instead of failing every row"
    other = RuntimeError("shape mismatch")
    assert feeding.translated(other, "cpu") is other


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_inputs_that_a_graph_does_not_take_are_refused(runtime: str) -> None:
    started = start_runtime(Store(find_source(EncoderSpec("demo")), None), Combination(runtime, "fp32"), "cpu", 1)
    ids = np.array([[49406, 320, 49407]])
    with pytest.raises(WeightsError, match="takes input_ids; it was to be given 2 arrays"):
        started.encode("text", (ids, ids))
    with pytest.raises(WeightsError, match="not audio"):
        started.encode("audio", (ids,))
