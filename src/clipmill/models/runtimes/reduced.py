"""Make graphs with float16 or int8 weights from float32 ones."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import WeightsError, require
from ...messages import setting
from ..frontend import Frontend
from ..source import Graphs
from .graphs import prepend_normalisation

_QUANTISED_OPERATORS = ["MatMul", "Gemm"]
"""Operators in int8. Convolutions are not included: dynamically quantised, they are slower than in float32."""

_CALIBRATION_ROWS = 24


def convert_graphs(basis: Graphs, kind: str, frontend: Frontend, folder: Path) -> Graphs:
    """Convert graphs to another kind.

    Args:
        basis: `float` graphs.
        kind: `fp16`, `int8` or `int8-openvino`.
        frontend: How values are prepared.
        folder: An empty directory.

    Returns:
        The graphs, not yet marked as complete.

    Raises:
        MissingExtraError: If the packages that make them are not installed.
        WeightsError: If they cannot be made.
    """
    convert = {"fp16": _halve, "int8": _quantise, "int8-openvino": _quantise_for_openvino}[kind]
    files = {}
    for model_input in basis.files:
        if kind != "int8-openvino" and model_input == "image" and "normalised_image" in basis.files:
            continue  # made below from the normalised one, with the same weights
        try:
            files[model_input] = convert(basis.path(model_input), folder, model_input, frontend)
        except (OSError, MemoryError, ImportError):
            raise
        except Exception as err:  # the quantisers' errors of many kinds
            raise WeightsError(f"no {kind} graph could be made of the {model_input} tower: {err}") from err
    if "image" in basis.files and "image" not in files:
        assert frontend.image is not None
        files["image"] = "image.onnx"
        prepend_normalisation(folder / files["normalised_image"], folder / "image.onnx", frontend.image)
    return Graphs(folder, files, kind)


def _quantise(source: Path, folder: Path, model_input: str, frontend: Frontend) -> str:
    """Convert weights to int8 with a scale for each output channel; activations are quantised dynamically."""
    require("onnxruntime", "onnx", setting("precision", "int8") + " with " + setting("runtime", "onnx"))
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    draft = folder / f"{model_input}.float.onnx"
    target = folder / f"{model_input}.onnx"
    model = onnx.load(str(source))
    del model.graph.value_info[:]  # outdated by the exporter's optimisations; the quantiser infers its own
    onnx.save(model, str(draft), save_as_external_data=True, location=f"{model_input}.float.data")
    del model
    with _without_root_log():
        quantize_dynamic(
            draft,
            target,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=_QUANTISED_OPERATORS,
            use_external_data_format=True,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # for tensors whose type it cannot infer
        )
    draft.unlink()
    (folder / f"{model_input}.float.data").unlink(missing_ok=True)
    return target.name


def _halve(source: Path, folder: Path, model_input: str, frontend: Frontend) -> str:
    """Convert weights and arithmetic to float16; inputs and vectors keep their types."""
    require("onnxruntime", "onnx-gpu", setting("precision", "fp16") + " with " + setting("runtime", "onnx"))
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = convert_float_to_float16(onnx.load(str(source)), keep_io_types=True, disable_shape_infer=True)
    OnnxModel(model).topological_sort()  # added casts are at the end
    target = folder / f"{model_input}.onnx"
    onnx.save(model, str(target), save_as_external_data=True, location=f"{model_input}.data")
    return target.name


def _quantise_for_openvino(source: Path, folder: Path, model_input: str, frontend: Frontend) -> str:
    """Convert weights and activations to int8, with ranges calibrated on generated probes."""
    ov = require("openvino", "openvino", setting("precision", "int8") + " with " + setting("runtime", "openvino"))
    with _without_root_log():
        nncf = require("nncf", "openvino", setting("precision", "int8") + " with " + setting("runtime", "openvino"))
        from .probes import probes_of

        logging.getLogger("nncf").setLevel(logging.ERROR)
        model = ov.Core().read_model(str(source))
        samples = []
        for row in range(_CALIBRATION_ROWS):
            inputs = probes_of(frontend, model_input, rows=1, seed=1000 + row)
            names = [node.get_any_name() for node in model.inputs]
            samples.append(dict(zip(names, inputs, strict=True)))
        with contextlib.redirect_stdout(sys.stderr):  # its progress bars must not go to the program's standard output
            quantised = nncf.quantize(
                model,
                nncf.Dataset(samples),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=_CALIBRATION_ROWS,
            )
    ov.save_model(quantised, str(folder / f"{model_input}.xml"), compress_to_fp16=False)
    return f"{model_input}.xml"


@contextlib.contextmanager
def _without_root_log() -> Iterator[None]:
    """Drop messages that libraries log to the root logger, and keep them from installing a handler."""
    root = logging.getLogger()
    silent = logging.NullHandler()

    def drop(record: Any) -> bool:
        return False

    root.addHandler(silent)
    root.addFilter(drop)
    try:
        yield
    finally:
        root.removeFilter(drop)
        root.removeHandler(silent)
