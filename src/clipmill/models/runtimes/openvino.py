"""OpenVINO, on a CPU."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DeviceError, WeightsError
from ...files.cache import locked
from ...media.options import Preprocessing
from ...messages import setting
from ..source import Graphs
from ..support_matrix import processor
from .feeding import feed, normalise, route, translated
from .graphs import require
from .store import is_writable

_log = logging.getLogger("clipmill")

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""What is computed in where the graph says floating point."""

_TYPES = {"f32": np.float32, "f16": np.float16, "u8": np.uint8, "i32": np.int32, "i64": np.int64}


class OpenVinoRuntime:
    """Executes graphs with OpenVINO. bfloat16 is a way to compute the float32 graphs, int8 has graphs of its own."""

    name = "openvino"
    device = "cpu"

    def __init__(
        self, graphs: Graphs, preprocessing: Preprocessing | None, precision: str, threads: int, cache: Path
    ) -> None:
        """Compile every entrance but `normalised_image`, which is seldom used; or read what was compiled earlier.

        Args:
            graphs: `float` ones, or for `int8` quantised ones.
            preprocessing: For graphs that do not normalise.
            precision: `fp32`, `bf16` or `int8`.
            threads: Cores that this worker may use.
            cache: A folder for what is compiled.

        Raises:
            MissingExtraError: If OpenVINO is not installed.
            DeviceError: If this processor does not compute in the precision itself.
            WeightsError: If a graph cannot be read.
        """
        self.precision = precision
        ov = require("openvino", "openvino", setting("runtime", "openvino"))
        self._version = ov.__version__
        self._core = ov.Core()
        self._graphs = graphs
        self._cache = cache
        self._preprocessing = preprocessing
        self._requests: dict[str, Any] = {}
        self._lock = threading.Lock()
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in able:
            raise DeviceError(
                setting("precision", "bf16")
                + " needs a processor that multiplies bfloat16 itself (avx512_bf16 or amx_bf16);"
                f" OpenVINO finds {', '.join(able)} on this one"
            )
        self._settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "EXECUTION_MODE_HINT": "PERFORMANCE",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",  # calls come one at a time: one stream with all the threads
            "INFERENCE_NUM_THREADS": threads,
            # pinned, the threads of two workers would sit on the same cores
            "ENABLE_CPU_PINNING": False,
        }
        for entrance in graphs.files:
            if entrance != "normalised_image" or "image" not in graphs.files:
                self._request(entrance)

    def encode(self, entrance: str, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """See `Runtime.encode`."""
        served = route(entrance, self._graphs.files, self._preprocessing)
        if served != entrance:
            assert self._preprocessing is not None
            inputs = [normalise(inputs[0], self._preprocessing)]
        request = self._request(served)
        wanted = {
            node.get_any_name(): np.dtype(_TYPES.get(node.get_element_type().get_type_name(), np.float32))
            for node in request.model_inputs
        }
        values = feed(inputs, wanted, served)
        try:
            # a copy: the request writes the next call's vectors into the same memory
            return np.array(request.infer(values, share_inputs=True)[request.model_outputs[0]], np.float32)
        except RuntimeError as err:
            problem = translated(err, self.device)
            if problem is err:
                raise
        # outside of the handler: the error's traceback would keep the memory of the failed call
        raise problem

    def _request(self, entrance: str) -> Any:
        with self._lock:
            if entrance not in self._requests:
                self._requests[entrance] = self._compile(self._graphs.path(entrance)).create_infer_request()
            return self._requests[entrance]

    def _compile(self, path: Path) -> Any:
        """Compile a graph, or read what an earlier process compiled."""
        cache = self._compiled_folder(path)
        marker = cache / "whole"
        try:
            if marker.is_file():
                model = self._core.compile_model(str(path), "CPU", {**self._settings, "CACHE_DIR": str(cache)})
            elif not is_writable(cache.parent):
                model = self._core.compile_model(str(path), "CPU", self._settings)
            else:
                with locked(cache.with_suffix(".lock"), f"the compiled {path.stem}"):
                    if not marker.is_file():
                        shutil.rmtree(cache, ignore_errors=True)  # of a process that was killed while it wrote
                    model = self._core.compile_model(str(path), "CPU", {**self._settings, "CACHE_DIR": str(cache)})
                    marker.touch()
        except RuntimeError as err:
            raise WeightsError(f"OpenVINO {self._version} cannot run {str(path)!r}: {err}") from err
        self._check(model)
        return model

    def _compiled_folder(self, path: Path) -> Path:
        parts = json.dumps([path.name, self._settings, self._version, processor()], sort_keys=True)
        return self._cache / hashlib.sha256(parts.encode()).hexdigest()[:16]

    def _check(self, model: Any) -> None:
        """Refuse another precision or device than the one asked for."""
        found = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if found != _HINTS[self.precision]:
            raise DeviceError(setting("precision", self.precision) + f" was asked for and OpenVINO computes in {found}")
        devices = list(model.get_property("EXECUTION_DEVICES"))
        if devices != ["CPU"]:
            raise DeviceError(f"OpenVINO was to run on the CPU and runs on {', '.join(devices)}")
