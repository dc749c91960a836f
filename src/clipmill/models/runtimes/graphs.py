"""Make graphs from towers, for ONNX Runtime and OpenVINO.

A folder of graphs has one file for each model input, and the weights next to them (`*.data`); both inputs of the image
tower share its weights. The dimensions of rows are dynamic, and so are those of tokens, of a waveform's channels and
samples, and of a clip's windows. The graph of `image` takes uint8 crops and normalises them in its first nodes, in the
order of the reference (divide by 255, subtract, divide); that of `normalised_image` takes normalised images.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import WeightsError, require
from ...media.options import Preprocessing
from ...messages import setting
from ..frontend import Frontend
from ..progress import observed_step
from ..source import Graphs

if TYPE_CHECKING:
    import onnx
    import torch

_OPSET_DOMAIN = ""
_EXAMPLE_ROWS, _EXAMPLE_TOKENS = 3, 7
_EXAMPLE_CHANNELS, _EXAMPLE_SAMPLES = 2, 9_000
"""Sizes of the examples that graphs are traced with; neither 0 nor 1, which would become constants."""


def make_graphs(towers: Mapping[str, torch.nn.Module], frontend: Frontend, folder: Path) -> Graphs:
    """Trace towers into graphs.

    Args:
        towers: By modality, in float32 on the CPU.
        frontend: How their values are prepared.
        folder: An empty directory.

    Returns:
        The graphs, not yet marked as complete.

    Raises:
        MissingExtraError: If the packages that make graphs are not installed.
        WeightsError: If a tower cannot be converted to a graph.
    """
    files = {}
    for modality, tower in towers.items():
        model_input = "normalised_image" if modality == "image" else modality
        names, examples, dynamic = _example(modality, frontend)
        file = f"{model_input}.onnx"
        with observed_step(f"making the {modality} graph"):
            _trace(tower, examples, names, dynamic, folder / file, f"{modality}.data")
        files[model_input] = file
    if "image" in towers:
        assert frontend.image is not None
        files["image"] = "image.onnx"
        prepend_normalisation(folder / files["normalised_image"], folder / "image.onnx", frontend.image)
    return Graphs(folder, files)


def _example(modality: str, frontend: Frontend) -> tuple[list[str], list[np.ndarray], list[dict[int, str]]]:
    """Return the names of a tower's inputs, an example of each, and their dynamic dimensions."""
    if modality == "image":
        assert frontend.image is not None
        size = frontend.image.image_size
        return ["pixel_values"], [np.zeros((_EXAMPLE_ROWS, 3, size, size), np.float32)], [{0: "rows"}]
    if modality == "text":
        assert frontend.text is not None
        context = frontend.text.tokenizer.context_length
        length = context if frontend.text.fixed_length else min(_EXAMPLE_TOKENS, context)
        rows = [np.arange(1, length + 1, dtype=np.int64)] * _EXAMPLE_ROWS
        dynamic = {0: "rows"} if frontend.text.fixed_length else {0: "rows", 1: "tokens"}
        inputs = list(frontend.text.batch(rows))
        return ["input_ids", "attention_mask"][: len(inputs)], inputs, [dynamic] * len(inputs)
    assert modality == "audio", modality
    assert frontend.audio is not None
    if (mel := frontend.audio.mel) is not None:
        shape = (_EXAMPLE_ROWS, _EXAMPLE_CHANNELS, mel.frames, mel.bins)
        return ["spectrograms"], [np.zeros(shape, np.float32)], [{0: "rows", 1: "windows"}]
    waves = np.zeros((_EXAMPLE_ROWS, _EXAMPLE_CHANNELS, _EXAMPLE_SAMPLES), np.float32)
    return ["waveforms"], [waves], [{0: "rows", 1: "channels", 2: "samples"}]


def _trace(
    tower: torch.nn.Module,
    examples: Sequence[np.ndarray],
    names: Sequence[str],
    dynamic: Sequence[Mapping[int, str]],
    path: Path,
    data: str,
) -> None:
    """Write one tower as a graph with its weights in the file `data` next to it."""
    purpose = "making graphs of a model"
    for package in ("onnx", "onnxscript"):
        require(package, "onnx", purpose)
    import torch

    if not hasattr(torch.export.Dim, "DYNAMIC"):
        raise WeightsError(
            f"{purpose} needs torch 2.6 or newer, and this is {torch.__version__}",
            hint="use " + setting("runtime", "torch") + ", or a directory that clipmill export made elsewhere",
        )
    dims = tuple({axis: torch.export.Dim.DYNAMIC for axis in axes} for axes in dynamic)
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                tower.eval(),
                tuple(torch.from_numpy(example) for example in examples),
                dynamo=True,
                verbose=False,
                input_names=list(names),
                output_names=["vectors"],
                dynamic_shapes=dims,
            )
        assert program is not None
        _save(program.model, path, data)
    except (OSError, MemoryError):
        raise
    except Exception as err:  # the exporter's errors of many kinds: all mean that this tower has no graph
        reason = str(err).strip().splitlines()
        raise WeightsError(
            f"no graph could be made of the {path.stem} tower: {type(err).__name__}: {reason[0] if reason else ''}",
            hint="use " + setting("runtime", "torch"),
        ) from err


def _save(model: Any, path: Path, data: str) -> None:
    """Write a graph, with all weights of more than a kilobyte in one file next to it."""
    import onnx_ir

    # nodes have stack traces with the Python code that made them: a megabyte, and local paths
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    onnx_ir.save(model, path, external_data=data, size_threshold_bytes=1024)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's internal messages out of users' logs."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def prepend_normalisation(source: Path, target: Path, preprocessing: Preprocessing) -> None:
    """Turn a graph for normalised images (n, 3, S, S) into one for uint8 crops (n, S, S, 3).

    Both refer to the same weights.

    Args:
        source: A graph with the input `pixel_values`, float32.
        target: The file to write, in the same folder.
        preprocessing: Has the mean and standard deviation.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(str(source), load_external_data=False)
    (inner,) = model.graph.input
    size = preprocessing.image_size
    outer = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["rows", size, size, 3])
    shape = (1, 3, 1, 1)
    model.graph.initializer.extend(
        [
            _constant("normalise_255", np.array(255, np.float32)),
            _constant("normalise_mean", np.array(preprocessing.mean, np.float32).reshape(shape)),
            _constant("normalise_std", np.array(preprocessing.std, np.float32).reshape(shape)),
        ]
    )
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["normalise_planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["normalise_planes"], ["normalise_float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["normalise_float", "normalise_255"], ["normalise_unit"]),
        helper.make_node("Sub", ["normalise_unit", "normalise_mean"], ["normalise_centred"]),
        helper.make_node("Div", ["normalise_centred", "normalise_std"], [inner.name]),
    ]
    for number, node in enumerate(nodes):
        model.graph.node.insert(number, node)
    del model.graph.input[:]
    model.graph.input.append(outer)
    onnx.save(model, str(target))


def _constant(name: str, values: np.ndarray) -> onnx.TensorProto:
    from onnx import numpy_helper

    return numpy_helper.from_array(values, name)
