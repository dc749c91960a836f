"""ONNX Runtime, on a CPU or a CUDA device."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DeviceError, WeightsError, is_installed, require
from ...media.options import Preprocessing
from ...messages import setting
from ..source import Graphs
from .feeding import GraphRuntime

TENSORRT = "CLIPMILL_TENSORRT"
"""Environment variable; with 1, CUDA devices use TensorRT: it takes minutes for each new shape, and is then faster."""

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class OnnxRuntime(GraphRuntime):
    """Executes graphs with ONNX Runtime."""

    name = "onnx"

    def __init__(
        self,
        graphs: Graphs,
        preprocessing: Preprocessing | None,
        device: str,
        precision: str,
        threads: int,
        cache: Path,
        streams: int = 1,
    ) -> None:
        """Start the sessions of all model inputs; that of `normalised_image`, which is rare, starts when first used.

        Args:
            graphs: The graphs for the precision.
            preprocessing: Normalises crops for graphs that do not.
            device: `cpu` or `cuda:X`.
            precision: The precision of the graphs: `fp32`, `fp16` or `int8`.
            threads: Cores for each call.
            cache: A folder for the engines that TensorRT compiles.
            streams: Calls that run at once.

        Raises:
            MissingExtraError: If ONNX Runtime is not installed.
            DeviceError: If the requested GPU cannot be used.
            WeightsError: If a graph cannot be read.
        """
        self.device = device
        self.precision = precision
        self._ort: Any = require("onnxruntime", "onnx-gpu" if device != "cpu" else "onnx", setting("runtime", "onnx"))
        self._threads = threads
        self._cache = cache
        self._providers = self._choose_providers()
        super().__init__(graphs, preprocessing, streams)

    def _choose_providers(self) -> list[Any]:
        if self.device == "cpu":
            return ["CPUExecutionProvider"]
        available = self._ort.get_available_providers()
        if "CUDAExecutionProvider" not in available:
            raise DeviceError(
                (setting("device", self.device) + " with " + setting("runtime", "onnx"))
                + " needs a build of ONNX Runtime for GPUs; this one has"
                f" {', '.join(available)}: pip uninstall onnxruntime && pip install 'clipmill[onnx-gpu]'"
            )
        if (is_installed("torch") or is_installed("nvidia")) and hasattr(self._ort, "preload_dlls"):
            self._ort.preload_dlls()  # CUDA's libraries from the packages of NVIDIA, which come with torch
        number = {"device_id": int(self.device.partition(":")[2] or 0)}
        # float32 results are promised within 1e-4, which the 10-bit mantissa of TF32 does not give
        providers: list[Any] = [("CUDAExecutionProvider", {**number, "use_tf32": 0}), "CPUExecutionProvider"]
        if os.environ.get(TENSORRT) == "1":
            cache = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(self._cache / "tensorrt")}
            providers.insert(0, ("TensorrtExecutionProvider", {**number, **cache}))
        return providers

    def _run(self, session: Any, values: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.asarray(session.run(None, values)[0], np.float32)

    def _start(self, path: Path) -> tuple[Any, dict[str, np.dtype]]:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # decoding threads share the cores, so waiting threads must not spin
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if self.device == "cpu":
            # it would keep a block of memory for each shape of calls, and calls have many
            options.enable_mem_pattern = False
        else:
            # higher levels only add layouts for CPUs, which crash 1.31 on float16 graphs
            options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        try:
            session = self._ort.InferenceSession(str(path), options, providers=self._providers)
        except Exception as err:
            raise WeightsError(f"ONNX Runtime {self._ort.__version__} cannot run {str(path)!r}: {err}") from err
        self._check_provider(session.get_providers())
        return session, {node.name: np.dtype(_TYPES.get(node.type, np.float32)) for node in session.get_inputs()}

    def _check_provider(self, active: Sequence[str]) -> None:
        """Refuse a fallback to another provider, which ONNX Runtime only logs."""
        first = self._providers[0]
        requested = first if isinstance(first, str) else first[0]
        if active[0] != requested:
            raise DeviceError(
                f"{requested} was requested (" + setting("device", self.device) + ")"
                f", but ONNX Runtime uses {active[0]}: the GPU"
                " or the CUDA, cuDNN or TensorRT libraries of this build are missing"
            )


def resolve_device(device: str) -> str:
    """Resolve the device of a spec on this machine for ONNX Runtime.

    Args:
        device: `auto`, `cuda` or `cuda:X`.

    Returns:
        `cpu` or `cuda:X`. Whether the GPU is usable is only known when the first session starts.

    Raises:
        DeviceError: If the requested GPU does not exist.
    """
    if device == "auto" and not is_installed("onnxruntime"):
        return "cpu"  # the graphs run with OpenVINO
    ort = require("onnxruntime", "onnx", setting("runtime", "onnx"))
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))  # missing in some containers, so 0 may mean unknown
    if device == "auto":
        return "cuda:0" if "CUDAExecutionProvider" in ort.get_available_providers() else "cpu"
    index = int(device.partition(":")[2] or 0)
    if gpus and index >= gpus:
        raise DeviceError(setting("device", device) + f" does not exist; CUDA devices here: {gpus}, numbered from 0")
    return f"cuda:{index}"
