"""Every runtime gives the vectors of the float32 towers, for every model input."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import numpy as np
import onnx as onnx_format
import pytest
import torch
from hub_cache import put_repository
from pictures import photographs
from PIL import Image
from weights import drawn_module, relative_error, write_safetensors

from clipmill.encoders import EncoderSpec, load_encoder
from clipmill.errors import DeviceError, MissingExtraError, OutOfMemoryError, WeightsError
from clipmill.media.options import Preprocessing
from clipmill.models.model import Runtime
from clipmill.models.runtimes import feeding, graphs, onnx, start_runtime
from clipmill.models.runtimes.feeding import normalise
from clipmill.models.runtimes.store import Store, smallest_cosine
from clipmill.models.support_matrix import Combination, has_native_bfloat16
from clipmill.models.towers import find_source

TOLERANCE, VISIBLE = 1e-4, 1e-2
TEXTS = ["a photo of a cat", "x", "she smiled, with pain", "word " * 60]

GAIN = 2.0
"""Scale of the random weights: a wrong activation is detected, while bfloat16 stays within its bound."""

_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 3}
ARCHITECTURES: dict[str, dict] = {
    "transformer": {"image_size": 64, "layers": 3, "width": 128, "head_width": 64, "patch_size": 16},
    "ResNet": {"image_size": 64, "layers": [1, 2, 2, 1], "width": 32, "patch_size": None},
}
"""Both kinds of image towers, small. `test_parity.py` runs published sizes in every runtime."""


@dataclasses.dataclass
class Case:
    """One architecture: its store of graphs, inputs, and the float32 vectors of its towers."""

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
    """For every model input, with 1, 3 and 32 rows; swapped rows are detected."""
    started = case.start(runtime)
    assert (started.name, started.precision, started.device) == (runtime, "fp32", "cpu")
    for model_input, inputs in case.inputs.items():
        expected = case.expected[model_input]
        for rows in (1, 3, len(expected)):
            vectors = started.encode(model_input, [array[:rows] for array in inputs])
            assert vectors.dtype == np.float32
            assert relative_error(vectors, expected[:rows]) <= TOLERANCE, (model_input, rows)
        assert relative_error(np.roll(expected, 1, axis=0), expected) > VISIBLE


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_texts_of_any_length(runtime: str, case: Case) -> None:
    """Each text alone has the same vector as in a batch with long ones."""
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
    """It is close to float32, and not float32 itself."""
    if not has_native_bfloat16():
        with pytest.raises(DeviceError, match="native bfloat16"):
            case.start(runtime, "bf16")
        return
    started = case.start(runtime, "bf16")
    assert started.precision == "bf16"
    for model_input, inputs in case.inputs.items():
        vectors = started.encode(model_input, inputs)
        assert relative_error(vectors, case.expected[model_input]) > TOLERANCE, "that was float32"
        assert smallest_cosine(vectors, case.expected[model_input]) >= 0.999, model_input


def test_int8_stays_near(case: Case) -> None:
    """Weights and activations in int8: cosine of at least 0.995, on random weights larger than real ones."""
    started = case.start("onnx", "int8")
    for model_input, graph in case.store.graphs("int8").files.items():
        nodes = onnx_format.load(case.store.graphs("int8").folder / graph, load_external_data=False).graph.node
        assert sum(node.op_type == "MatMulInteger" for node in nodes) >= 4, model_input
    for model_input, inputs in case.inputs.items():
        vectors = started.encode(model_input, inputs)
        cosine = smallest_cosine(vectors, case.expected[model_input])
        assert relative_error(vectors, case.expected[model_input]) > TOLERANCE, "that was float32"
        assert cosine >= 0.995, model_input


def test_negative_controls_are_detected(case: Case, tmp_path) -> None:
    """The other activation, another mean and standard deviation, and swapped channels all differ by far."""
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


def test_graphs_of_the_image_tower_share_one_file_of_weights(case: Case) -> None:
    """The graphs themselves are small and contain no local path."""
    folder = case.store.graphs("float").folder
    weights = sum(path.stat().st_size for path in case.store.source.files)
    data = sum((folder / name).stat().st_size for name in ("image.data", "text.data"))
    assert 0.9 * weights < data < 1.1 * weights
    for path in folder.glob("*.onnx"):
        assert path.stat().st_size < 5_000_000
        assert b"site-packages" not in path.read_bytes() and b".py" not in path.read_bytes()


@pytest.mark.parametrize(("runtime", "precision"), [("onnx", "fp32"), ("openvino", "fp32"), ("onnx", "int8")])
def test_the_demo_model_runs_everywhere(runtime: str, precision: str) -> None:
    """By `load_encoder`, with its provenance; normalised input skips the normalisation."""
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
    """NNCF's static quantisation of a tiny ResNet is inaccurate, and the log has a warning."""
    encoder = load_encoder("demo", device="cpu", runtime="openvino", precision="int8")
    exact = load_encoder("demo", device="cpu", runtime="torch", precision="fp32")
    assert encoder.resolved["precision"] == "int8"
    assert smallest_cosine(encoder.embed_texts(TEXTS), exact.embed_texts(TEXTS)) >= 0.98
    assert encoder.resolved["checked_cosine"] >= 0.98


def test_a_fallback_from_gpu_to_cpu_is_an_error(monkeypatch) -> None:
    """ONNX Runtime only logs it; here it is refused, as is a build without CUDA."""
    with pytest.raises(DeviceError, match="CUDA devices here"):
        load_encoder("demo", device="cuda:7", runtime="onnx", precision="fp32")
    import onnxruntime

    found = Store(find_source(EncoderSpec("demo")), None)
    with pytest.raises(DeviceError, match=r"clipmill\[onnx-gpu\]"):
        start_runtime(found, Combination("onnx", "fp32"), "cuda:0", 1)
    offered = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    with pytest.raises(DeviceError, match="ONNX Runtime uses CPUExecutionProvider"):
        start_runtime(found, Combination("onnx", "fp32"), "cuda:0", 1)


def test_another_precision_than_requested_is_an_error(monkeypatch) -> None:
    """OpenVINO reports the precision that it uses."""
    found = Store(find_source(EncoderSpec("demo")), None)
    runtime = start_runtime(found, Combination("openvino", "fp32"), "cpu", 1)
    monkeypatch.setattr(runtime, "precision", "bf16")
    with pytest.raises(DeviceError, match="'bf16' was requested, but OpenVINO computes in f32"):
        runtime.encode("normalised_image", (np.zeros((1, 3, 64, 64), np.float32),))


@pytest.mark.parametrize(("runtime", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_runtime_names_its_extra(runtime: str, package: str, monkeypatch) -> None:
    found = Store(find_source(EncoderSpec("demo")), None)
    found.graphs("float")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'clipmill\[{runtime}\]'"):
        start_runtime(found, Combination(runtime, "fp32"), "cpu", 1)


def test_float32_is_not_rounded_by_a_gpu() -> None:
    """By default CUDA's convolutions round to TF32, and matrix products if a program allows it."""
    for backend in (torch.backends, torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul):
        backend.fp32_precision = "tf32"
    try:
        start_runtime(Store(find_source(EncoderSpec("demo")), None), Combination("torch", "fp32"), "cpu", 1)
    finally:
        torch.backends.fp32_precision = "none"
    assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cudnn.allow_tf32 is False, "older settings can still be read"


def test_out_of_memory_is_distinguished_from_other_errors() -> None:
    """The runtimes' errors become `OutOfMemoryError`, so that micro-batches are halved."""
    error = feeding.translated(RuntimeError("std::bad_alloc"), "cpu")
    assert isinstance(error, OutOfMemoryError)
    assert isinstance(
        feeding.translated(RuntimeError("Failed to allocate memory for requested buffer"), "cpu"), OutOfMemoryError
    )
    assert isinstance(feeding.translated(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), "cuda:0"), OutOfMemoryError)
    broken = feeding.translated(RuntimeError("CUDA failure 700: an illegal memory access was encountered"), "cuda:0")
    assert isinstance(broken, DeviceError), "no row's fault: the job ends instead of failing every row"
    other = RuntimeError("shape mismatch")
    assert feeding.translated(other, "cpu") is other


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_inputs_that_a_graph_does_not_accept_are_refused(runtime: str) -> None:
    started = start_runtime(Store(find_source(EncoderSpec("demo")), None), Combination(runtime, "fp32"), "cpu", 1)
    ids = np.array([[49406, 320, 49407]])
    with pytest.raises(WeightsError, match="takes input_ids; it got 2 arrays"):
        started.encode("text", (ids, ids))
    with pytest.raises(WeightsError, match="not audio"):
        started.encode("audio", (ids,))
