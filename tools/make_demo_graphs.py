"""Write the graphs of the demo model beside its weights, so that it runs without torch.

    python tools/make_demo_graphs.py

The directory is then what `clipmill export demo` writes, and smaller: weights that are float16 numbers are stored as
such and cast in the graph, and those that the weights' file has in the same order of bytes are read from it.
`tests/models/test_demo_graphs.py` compares the graphs with the weights.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from clipmill.encoders import EncoderSpec
from clipmill.models.catalog.manifest import read_manifest, write_manifest
from clipmill.models.demo import WEIGHTS
from clipmill.models.exporting import export_model
from clipmill.models.weight_files import sha256_of

TARGET = Path(__file__).parent.parent / "src" / "clipmill" / "models" / "demo"
DATA = "graphs.data"
LEAST_BYTES = 1024
"""Smaller tensors stay in the graph."""
_ALIGNMENT = 64


class Places:
    """Where tensors are stored: in the weights' file, or else in a new file, equal ones once."""

    def __init__(self, weights: Path) -> None:
        self.data = bytearray()
        content = weights.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])  # safetensors: a header of this length, then the tensors
        start = 8 + length
        entries = json.loads(content[8:start])
        spans = [entry["data_offsets"] for name, entry in entries.items() if name != "__metadata__"]
        self._places = {content[start + a : start + b]: (WEIGHTS, start + a) for a, b in spans}

    def place_of(self, content: bytes) -> tuple[str, int]:
        """Return the file and the offset of a tensor's bytes."""
        if content not in self._places:
            self.data += bytes(-len(self.data) % _ALIGNMENT)
            self._places[content] = (DATA, len(self.data))
            self.data += content
        return self._places[content]


def shrink(graph: Path, target: Path, places: Places) -> None:
    """Write a graph with its tensors in `places`."""
    model = onnx.load(str(graph))
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.nbytes < LEAST_BYTES:
            continue
        half = values.astype(np.float16)
        if np.array_equal(half.astype(np.float32), values):
            casts.append(helper.make_node("Cast", [tensor.name + "_float16"], [tensor.name], to=TensorProto.FLOAT))
            tensor.name, tensor.data_type, values = tensor.name + "_float16", TensorProto.FLOAT16, half
        location, offset = places.place_of(values.tobytes())
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", values.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    del model.graph.value_info[:]  # shapes of what lies between, which runtimes infer
    target.write_bytes(model.SerializeToString(deterministic=True))


def make(target: Path) -> None:
    """Write the graphs, the tokenizer and the manifest into a directory that has the weights."""
    with tempfile.TemporaryDirectory() as name:
        exported = Path(name) / "demo"
        export_model(EncoderSpec("demo", device="cpu"), exported)
        manifest = read_manifest(exported)
        assert manifest is not None
        places = Places(target / WEIGHTS)
        for graph in manifest["graphs"].values():
            shrink(exported / graph, target / graph, places)
        (target / DATA).write_bytes(places.data)
        tokenizer = manifest["text"]["tokenizer"]["file"]
        shutil.copyfile(exported / tokenizer, target / tokenizer)
    names = sorted({*manifest["graphs"].values(), DATA, WEIGHTS, tokenizer})
    write_manifest(target, {**manifest, "files": {name: sha256_of(target / name) for name in names}})


if __name__ == "__main__":
    make(TARGET)
    for path in sorted(TARGET.iterdir()):
        print(f"{path.stat().st_size:>10,} {path.name}")
