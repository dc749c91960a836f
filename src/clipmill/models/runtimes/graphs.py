"""Graphs made from the towers: what ONNX Runtime and OpenVINO execute.

A folder of graphs holds one file for each entrance and the weights beside them (`*.data`): those of the image tower
once, for both of its entrances. Rows and, for texts, tokens are free; images arrive as uint8 crops and are normalised
by the graph's first nodes, in the reference's own order (divide by 255, subtract, divide), or go past them.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import MissingExtraError, WeightsError
from ...media.options import Preprocessing
from ...messages import setting
from ..frontend import Frontend
from ..source import Graphs

if TYPE_CHECKING:
    import onnx
    import torch

_OPSET_DOMAIN = ""
_EXAMPLE_ROWS, _EXAMPLE_TOKENS = 3, 7
"""Sizes of the examples that graphs are traced with: neither 0 nor 1, which would be taken for constants."""


def make_graphs(towers: Mapping[str, torch.nn.Module], frontend: Frontend, folder: Path) -> Graphs:
    """Trace towers into graphs.

    Args:
        towers: By modality, in float32 on the CPU.
        frontend: How their values are prepared.
        folder: An empty directory.

    Returns:
        The graphs, not marked as whole yet.

    Raises:
        MissingExtraError: Without the packages that make graphs.
        WeightsError: If a tower cannot be turned into a graph.
    """
    files = {}
    for modality, tower in towers.items():
        entrance = "normalised_image" if modality == "image" else modality
        names, examples, free = _example(modality, frontend)
        file = f"{entrance}.onnx"
        _trace(tower, examples, names, free, folder / file, f"{modality}.data")
        files[entrance] = file
    if "image" in towers:
        assert frontend.image is not None
        files["image"] = "image.onnx"
        prepend_normalisation(folder / files["normalised_image"], folder / "image.onnx", frontend.image)
    return Graphs(folder, files)


def require(package: str, extra: str, purpose: str) -> Any:
    """Import an optional package.

    Raises:
        MissingExtraError: If it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as err:
        raise MissingExtraError(package, extra, purpose) from err


def _example(modality: str, frontend: Frontend) -> tuple[list[str], list[np.ndarray], list[dict[int, str]]]:
    """Return the names of a tower's inputs, an example of each, and which of their dimensions are free."""
    if modality == "image":
        assert frontend.image is not None
        size = frontend.image.image_size
        return ["pixel_values"], [np.zeros((_EXAMPLE_ROWS, 3, size, size), np.float32)], [{0: "rows"}]
    if modality == "text":
        assert frontend.text is not None
        context = frontend.text.tokenizer.context_length
        length = context if frontend.text.fixed_length else min(_EXAMPLE_TOKENS, context)
        rows = [np.arange(1, length + 1, dtype=np.int64)] * _EXAMPLE_ROWS
        free = {0: "rows"} if frontend.text.fixed_length else {0: "rows", 1: "tokens"}
        inputs = list(frontend.text.batch(rows))
        return ["input_ids", "attention_mask"][: len(inputs)], inputs, [free] * len(inputs)
    raise WeightsError(f"no graph can be made of a tower for {modality}", hint=setting("runtime", "torch") + " runs it")


def _trace(
    tower: torch.nn.Module,
    examples: Sequence[np.ndarray],
    names: Sequence[str],
    free: Sequence[Mapping[int, str]],
    path: Path,
    data: str,
) -> None:
    """Write one tower as a graph whose weights stand in the file `data` beside it."""
    purpose = "making graphs of a model"
    for package in ("onnx", "onnxscript"):
        require(package, "onnx", purpose)
    import torch

    dynamic = tuple({axis: torch.export.Dim.DYNAMIC for axis in axes} for axes in free)
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                tower.eval(),
                tuple(torch.from_numpy(example) for example in examples),
                dynamo=True,
                verbose=False,
                input_names=list(names),
                output_names=["vectors"],
                dynamic_shapes=dynamic,
            )
        assert program is not None
        _save(program.model, path, data)
    except (OSError, MemoryError):
        raise
    except Exception as err:  # the exporter's own many kinds: all mean that this tower has no graph
        reason = str(err).strip().splitlines()
        raise WeightsError(
            f"no graph could be made of the {path.stem} tower: {type(err).__name__}: {reason[0] if reason else ''}",
            hint=setting("runtime", "torch") + " runs it",
        ) from err


def _save(model: Any, path: Path, data: str) -> None:
    """Write a graph, all weights of more than a kilobyte in one file beside it."""
    import onnx_ir

    # nodes carry the traces and Python lines that they came from: a megabyte, and paths of this machine
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    onnx_ir.save(model, path, external_data=data, size_threshold_bytes=1024)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes about itself out of users' logs."""
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
    """Write a graph that takes uint8 crops (n, S, S, 3) out of one that takes normalised images (n, 3, S, S).

    Both refer to the same weights.

    Args:
        source: A graph with the input `pixel_values`, float32.
        target: The file to write, in the same folder.
        preprocessing: Whose mean and standard deviation are built in.
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
