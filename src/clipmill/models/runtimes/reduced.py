"""Make graphs with float16 or int8 weights from float32 ones."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ...errors import WeightsError, require
from ...messages import setting
from ..frontend import Frontend
from ..source import Graphs
from .feeding import model_inputs
from .graphs import prepend_normalisation
from .probes import probes_of

_QUANTISED_OPERATORS = ["MatMul", "Gemm"]
"""Operators in int8. Convolutions are not included: dynamically quantised, they are slower than in float32."""

_PROBES = 24
"""Generated probes that ranges are calibrated on, where there are no samples."""

Samples = Mapping[str, Sequence[np.ndarray]]


def convert_graphs(
    basis: Graphs, kind: str, frontend: Frontend, folder: Path, samples: Samples = MappingProxyType({})
) -> Graphs:
    """Convert graphs to another kind.

    Args:
        basis: `float` graphs.
        kind: `fp16`, `int8` or `int8-openvino`.
        frontend: How values are prepared.
        folder: An empty directory.
        samples: Prepared values by modality, on which ranges are calibrated for `int8-openvino`; a modality without any
            is calibrated on generated probes.

    Returns:
        The graphs, not yet marked as complete.

    Raises:
        MissingExtraError: If the packages that make them are not installed.
        WeightsError: If they cannot be made.
    """
    quantise_for_openvino = functools.partial(_quantise_for_openvino, samples=samples)
    converters: dict[str, Callable[[Path, Path, str, Frontend], str]]
    converters = {"fp16": _halve, "int8": _quantise, "int8-openvino": quantise_for_openvino}
    convert = converters[kind]
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


def _quantise_for_openvino(source: Path, folder: Path, model_input: str, frontend: Frontend, samples: Samples) -> str:
    """Convert weights and activations to int8, with ranges calibrated on samples, or else on generated probes."""
    ov = require("openvino", "openvino", setting("precision", "int8") + " with " + setting("runtime", "openvino"))
    with _without_root_log():
        nncf = require("nncf", "openvino", setting("precision", "int8") + " with " + setting("runtime", "openvino"))
        logging.getLogger("nncf").setLevel(logging.ERROR)
        model = ov.Core().read_model(str(source))
        names = [node.get_any_name() for node in model.inputs]
        values = samples.get("image" if model_input == "normalised_image" else model_input, ())

        def named(row: int) -> dict[str, np.ndarray]:
            return dict(zip(names, _calibration_row(frontend, model_input, values, row), strict=True))

        rows = len(values) or _PROBES
        with contextlib.redirect_stdout(sys.stderr):  # its progress bars must not go to the program's standard output
            quantised = nncf.quantize(
                model,
                nncf.Dataset(range(rows), named),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=rows,
            )
    ov.save_model(quantised, str(folder / f"{model_input}.xml"), compress_to_fp16=False)
    return f"{model_input}.xml"


def _calibration_row(
    frontend: Frontend, model_input: str, values: Sequence[np.ndarray], row: int
) -> tuple[np.ndarray, ...]:
    if values:
        return model_inputs(frontend, model_input, [values[row]])
    return probes_of(frontend, model_input, rows=1, seed=1000 + row)


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
