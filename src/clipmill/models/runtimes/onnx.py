"""ONNX Runtime, on a CPU or a CUDA device."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DeviceError, WeightsError
from ...media.options import Preprocessing
from ...messages import setting
from ..source import Graphs
from .feeding import feed, normalise, route, translated
from .graphs import require

TENSORRT = "CLIPMILL_TENSORRT"
"""Set to 1 in the environment, CUDA devices are driven by TensorRT: minutes for each new shape, then faster."""

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class OnnxRuntime:
    """Executes graphs with ONNX Runtime. Sessions start when their entrance is first used."""

    name = "onnx"

    def __init__(
        self,
        graphs: Graphs,
        preprocessing: Preprocessing | None,
        device: str,
        precision: str,
        threads: int,
        cache: Path,
    ) -> None:
        """Start the sessions of every entrance but `normalised_image`, which is seldom used.

        Args:
            graphs: Of the precision.
            preprocessing: For graphs that do not normalise.
            device: `cpu` or `cuda:X`.
            precision: What the graphs compute in: `fp32`, `fp16` or `int8`.
            threads: Cores that this worker may use.
            cache: A folder for what TensorRT compiles.

        Raises:
            MissingExtraError: If ONNX Runtime is not installed.
            DeviceError: If the GPU asked for cannot be used.
            WeightsError: If a graph cannot be read.
        """
        self.device = device
        self.precision = precision
        self._ort: Any = require("onnxruntime", "onnx-gpu" if device != "cpu" else "onnx", setting("runtime", "onnx"))
        self._graphs = graphs
        self._preprocessing = preprocessing
        self._threads = threads
        self._cache = cache
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._providers = self._choose_providers()
        for entrance in graphs.files:
            if entrance != "normalised_image" or "image" not in graphs.files:
                self._session(entrance)

    def encode(self, entrance: str, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """See `Runtime.encode`."""
        served = route(entrance, self._graphs.files, self._preprocessing)
        if served != entrance:
            assert self._preprocessing is not None
            inputs = [normalise(inputs[0], self._preprocessing)]
        session = self._session(served)
        wanted = {node.name: np.dtype(_TYPES.get(node.type, np.float32)) for node in session.get_inputs()}
        values = feed(inputs, wanted, served)
        try:
            vectors = session.run(None, values)[0]
        except Exception as err:  # its own exceptions share no base of theirs
            problem = translated(err, self.device)
            if problem is err:
                raise
        else:
            return np.asarray(vectors, np.float32)
        # outside of the handler: the error's traceback would keep the memory of the failed call
        raise problem

    def _choose_providers(self) -> list[Any]:
        if self.device == "cpu":
            return ["CPUExecutionProvider"]
        offered = self._ort.get_available_providers()
        if "CUDAExecutionProvider" not in offered:
            raise DeviceError(
                (setting("device", self.device) + " with " + setting("runtime", "onnx"))
                + " needs a build of ONNX Runtime for GPUs; this one offers"
                f" {', '.join(offered)}: pip uninstall onnxruntime && pip install 'clipmill[onnx-gpu]'"
            )
        if importlib.util.find_spec("torch") is not None and hasattr(self._ort, "preload_dlls"):
            self._ort.preload_dlls()  # CUDA's libraries where torch's packages brought them
        number = {"device_id": int(self.device.partition(":")[2] or 0)}
        # results of float32 are promised to 1e-4: not with 10 bits of mantissa
        providers: list[Any] = [("CUDAExecutionProvider", {**number, "use_tf32": 0}), "CPUExecutionProvider"]
        if os.environ.get(TENSORRT) == "1":
            cache = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(self._cache / "tensorrt")}
            providers.insert(0, ("TensorrtExecutionProvider", {**number, **cache}))
        return providers

    def _session(self, entrance: str) -> Any:
        with self._lock:
            if entrance not in self._sessions:
                self._sessions[entrance] = self._start(self._graphs.path(entrance))
            return self._sessions[entrance]

    def _start(self, path: Path) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # decoding threads share the cores: waiting ones must not burn them
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if self.device != "cpu":
            # what comes after it are layouts for CPUs; on float16 graphs 1.31 dies of them
            options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        try:
            session = self._ort.InferenceSession(str(path), options, providers=self._providers)
        except Exception as err:
            raise WeightsError(f"ONNX Runtime {self._ort.__version__} cannot run {str(path)!r}: {err}") from err
        self._check_provider(session.get_providers())
        return session

    def _check_provider(self, taken: Sequence[str]) -> None:
        """Refuse what ONNX Runtime does by itself: to fall back to another provider with a line in its log."""
        first = self._providers[0]
        wanted = first if isinstance(first, str) else first[0]
        if taken[0] != wanted:
            raise DeviceError(
                f"{wanted} was asked for (" + setting("device", self.device) + ")"
                f" and ONNX Runtime fell back to {taken[0]}: the GPU"
                " or the CUDA, cuDNN or TensorRT libraries of this build are not here"
            )


def resolve_device(device: str) -> str:
    """Choose the device that a spec means on this machine, where ONNX Runtime is what executes.

    Args:
        device: `auto`, `cuda` or `cuda:X`.

    Returns:
        `cpu` or `cuda:X`. Whether the GPU can really be used is seen when the first session starts.

    Raises:
        DeviceError: If a GPU was asked for that is not here.
    """
    ort = require("onnxruntime", "onnx", setting("runtime", "onnx"))
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))  # not there in some containers: then 0 is not known
    if device == "auto":
        return "cuda:0" if "CUDAExecutionProvider" in ort.get_available_providers() else "cpu"
    index = int(device.partition(":")[2] or 0)
    if gpus and index >= gpus:
        raise DeviceError(setting("device", device) + f" was asked for; CUDA devices here: {gpus}, numbered from 0")
    return f"cuda:{index}"
