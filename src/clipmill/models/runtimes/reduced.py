"""Graphs with smaller weights, made from float32 ones."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import WeightsError
from ...messages import setting
from ..frontend import Frontend
from ..source import Graphs
from .graphs import prepend_normalisation, require

_QUANTISED_OPERATORS = ["MatMul", "Gemm"]
"""What is computed in int8. Convolutions are not: quantised as they come they are slower than in float32."""

_CALIBRATION_ROWS = 24


def turn_graphs(basis: Graphs, kind: str, frontend: Frontend, folder: Path) -> Graphs:
    """Write graphs of another kind.

    Args:
        basis: `float` graphs.
        kind: `fp16`, `int8` or `int8-openvino`.
        frontend: How values are prepared.
        folder: An empty directory.

    Returns:
        The graphs, not marked as whole yet.

    Raises:
        MissingExtraError: Without the packages that make them.
        WeightsError: If they cannot be made.
    """
    turn = {"fp16": _halve, "int8": _quantise, "int8-openvino": _quantise_for_openvino}[kind]
    files = {}
    for entrance in basis.files:
        if kind != "int8-openvino" and entrance == "image" and "normalised_image" in basis.files:
            continue  # made from the other one below, on the same weights
        try:
            files[entrance] = turn(basis.path(entrance), folder, entrance, frontend)
        except (OSError, MemoryError, ImportError):
            raise
        except Exception as err:  # the quantisers' own many kinds
            raise WeightsError(f"no {kind} graph could be made of the {entrance} tower: {err}") from err
    if "image" in basis.files and "image" not in files:
        assert frontend.image is not None
        files["image"] = "image.onnx"
        prepend_normalisation(folder / files["normalised_image"], folder / "image.onnx", frontend.image)
    return Graphs(folder, files, kind)


def _quantise(source: Path, folder: Path, entrance: str, frontend: Frontend) -> str:
    """Weights become int8, one scale for each output channel; activations are quantised as they come."""
    require("onnxruntime", "onnx", setting("precision", "int8") + " with " + setting("runtime", "onnx"))
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    draft = folder / f"{entrance}.float.onnx"
    target = folder / f"{entrance}.onnx"
    model = onnx.load(str(source))
    del model.graph.value_info[:]  # shapes that the exporter noted before it simplified: the quantiser infers its own
    onnx.save(model, str(draft), save_as_external_data=True, location=f"{entrance}.float.data")
    del model
    with _without_root_log():
        quantize_dynamic(
            draft,
            target,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=_QUANTISED_OPERATORS,
            use_external_data_format=True,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # of tensors whose type it cannot infer
        )
    draft.unlink()
    (folder / f"{entrance}.float.data").unlink(missing_ok=True)
    return target.name


def _halve(source: Path, folder: Path, entrance: str, frontend: Frontend) -> str:
    """Weights and arithmetic become float16; inputs and vectors stay as they are."""
    require("onnxruntime", "onnx-gpu", setting("precision", "fp16") + " with " + setting("runtime", "onnx"))
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = convert_float_to_float16(onnx.load(str(source)), keep_io_types=True, disable_shape_infer=True)
    OnnxModel(model).topological_sort()  # the casts that were added stand at the end
    target = folder / f"{entrance}.onnx"
    onnx.save(model, str(target), save_as_external_data=True, location=f"{entrance}.data")
    return target.name


def _quantise_for_openvino(source: Path, folder: Path, entrance: str, frontend: Frontend) -> str:
    """Weights and activations become int8, their ranges taken from drawn pictures and captions."""
    ov = require("openvino", "openvino", setting("precision", "int8") + " with " + setting("runtime", "openvino"))
    with _without_root_log():
        nncf = require("nncf", "openvino", setting("precision", "int8") + " with " + setting("runtime", "openvino"))
        from .probes import probes_of

        logging.getLogger("nncf").setLevel(logging.ERROR)
        model = ov.Core().read_model(str(source))
        samples = []
        for row in range(_CALIBRATION_ROWS):
            inputs = probes_of(frontend, entrance, rows=1, seed=1000 + row)
            names = [node.get_any_name() for node in model.inputs]
            samples.append(dict(zip(names, inputs, strict=True)))
        with contextlib.redirect_stdout(sys.stderr):  # its progress bars: standard output belongs to the program
            quantised = nncf.quantize(
                model,
                nncf.Dataset(samples),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=_CALIBRATION_ROWS,
            )
    ov.save_model(quantised, str(folder / f"{entrance}.xml"), compress_to_fp16=False)
    return f"{entrance}.xml"


@contextlib.contextmanager
def _without_root_log() -> Iterator[None]:
    """Keep advice that libraries write straight to the root logger, and the handler it would install, away."""
    root = logging.getLogger()
    silent = logging.NullHandler()

    def refuse(record: Any) -> bool:
        return False

    root.addHandler(silent)
    root.addFilter(refuse)
    try:
        yield
    finally:
        root.removeFilter(refuse)
        root.removeHandler(silent)
