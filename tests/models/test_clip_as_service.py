"""Directories in the layout of clip-as-service load if their model can be identified."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import onnx
import open_clip
import pytest
import torch
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array
from pictures import photographs
from weights import relative_error

from clipmill.encoders import EncoderSpec, load_encoder
from clipmill.errors import SpecError, WeightsError
from clipmill.models.catalog.manifest import FILE
from clipmill.models.demo import demo_directory
from clipmill.models.runtimes.graphs import Graphs
from clipmill.models.runtimes.onnx import OnnxRuntime
from clipmill.models.runtimes.openvino import OpenVinoRuntime
from clipmill.models.tokenizers.clip_bpe import vocabulary_file
from clipmill.models.towers import exported

TEXTS = ["a red circle", "she smiled, with pain", "ÜBER-straße 日本 🙂 &amp;", "word " * 200]
TOLERANCE = 1e-4


def exact_vectors() -> tuple[np.ndarray, np.ndarray]:
    encoder = load_encoder("demo", device="cpu", runtime="torch", precision="fp32")
    return encoder.embed_texts(TEXTS), encoder.embed_images(list(photographs().values()))


class _Text(torch.nn.Module):
    """open_clip's text tower, for rows of 77 ids only."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.module.encode_text(ids)


class _Image(_Text):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.module.encode_image(images)


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Path:
    """A directory in clip-as-service's layout, written without our exporter: int32 ids, no manifest."""
    folder = tmp_path_factory.mktemp("service")
    module = open_clip.create_model(f"local-dir:{demo_directory()}").eval()
    rows = {0: torch.export.Dim("rows")}
    parts = {
        "textual": (_Text(module), torch.zeros(2, 77, dtype=torch.int32) + 5, "input_ids"),
        "visual": (_Image(module), torch.zeros(2, 3, 64, 64), "pixel_values"),
    }
    for name, (tower, example, given) in parts.items():
        torch.onnx.export(
            tower.eval(), (example,), str(folder / f"{name}.onnx"), dynamo=True, external_data=False,
            input_names=[given], output_names=["output"], dynamic_shapes=(rows,), verbose=False,
        )  # fmt: skip
    return folder


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_directory_of_clip_as_service_loads(runtime: str, service: Path, tmp_path) -> None:
    """Its model is named in a file next to the graphs; images are normalised, and ids get the graph's type."""
    folder = Path(shutil.copytree(service, tmp_path / "unnamed"))
    with pytest.raises(SpecError, match=r'{"model": "ViT-B-32::openai"}; \'unnamed\' is not the name of a model'):
        load_encoder(f"onnx:{folder}", device="cpu", runtime=runtime, precision="fp32")
    (folder / FILE).write_text('{"model": "demo"}')
    encoder = load_encoder(f"onnx:{folder}", device="cpu", runtime=runtime, precision="fp32")
    texts, images = exact_vectors()
    assert relative_error(encoder.embed_texts(TEXTS), texts) <= TOLERANCE
    assert relative_error(encoder.embed_images(list(photographs().values())), images) <= TOLERANCE
    assert encoder.resolved["exported_from"] == "demo"


def test_a_directory_of_another_model_is_refused(service: Path, tmp_path) -> None:
    """The name of a model with other shapes; and names that identify a model."""
    folder = Path(shutil.copytree(service, tmp_path / "ViT-B-32-laion2b-s34b-b79k"))
    assert EncoderSpec(f"onnx:{folder}").dim == 512
    assert exported.find_source(EncoderSpec(f"onnx:{folder}")).resolved["exported_from"] == (
        "ViT-B-32::laion2b_s34b_b79k"
    )
    with pytest.raises(WeightsError, match=r"the image graph .* does not accept the inputs of its model"):
        load_encoder(f"onnx:{folder}", device="cpu", runtime="onnx", precision="fp32")
    other = Path(shutil.copytree(service, tmp_path / "M-CLIP-LABSE-Vit-L-14"))
    assert EncoderSpec(f"onnx:{other}").dim == 768
    with pytest.raises(WeightsError, match=r"no tokenizer at .*tokenizer.json"):
        load_encoder(f"onnx:{other}", device="cpu", runtime="onnx", precision="fp32")


def test_clips_table_may_be_in_the_directory(service: Path, tmp_path, monkeypatch) -> None:
    """That one is read; without it, the one of the package, which is the same as open_clip's."""
    folder = Path(shutil.copytree(service, tmp_path / "demo"))
    table = gzip.decompress((Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes())
    assert gzip.decompress(vocabulary_file().read_bytes()) == table
    monkeypatch.setattr(
        "clipmill.models.tokenizers.saved.vocabulary_file", lambda: pytest.fail("not that of the package")
    )
    (folder / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress(table))
    encoder = load_encoder(f"onnx:{folder}", device="cpu", runtime="onnx", precision="fp32")
    assert relative_error(encoder.embed_texts(TEXTS), exact_vectors()[0]) <= TOLERANCE


def test_masked_towers_get_their_mask_in_the_graphs_own_type(tmp_path) -> None:
    """Two inputs of int32, matched by name and not by order, as in M-CLIP's graphs."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT32, ["rows", "tokens"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT32, ["rows", "tokens"])
    out = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["rows", 1])
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats", "axis"], ["vectors"], keepdims=1),
    ]
    constants = [from_array(np.array([1], np.int64), "axis")]
    graph = helper.make_graph(nodes, "masked", [mask, ids], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "text.onnx")
    made = Graphs(tmp_path, {"text": "text.onnx"})
    rows = (np.array([[5, 6, 9], [7, 9, 9]]), np.array([[1, 1, 0], [1, 0, 0]]))
    for runtime in (
        OnnxRuntime(made, None, "cpu", "fp32", 1, tmp_path),
        OpenVinoRuntime(made, None, "fp32", 1, tmp_path / "compiled"),
    ):
        assert runtime.encode("text", rows).tolist() == [[11.0], [7.0]]
