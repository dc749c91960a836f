"""OpenVINO, on a CPU."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import queue
import shutil
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DeviceError, WeightsError, require
from ...files.cache import locked
from ...media.options import Preprocessing
from ...messages import setting
from ..progress import observed_step
from ..source import Graphs
from ..support_matrix import processor
from .feeding import GraphRuntime
from .store import is_writable

_log = logging.getLogger("clipmill")

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""The type of floating-point computations for each precision."""

_first_calls = threading.Lock()
"""Held during the first call of each graph. OpenVINO's bindings prepare the conversion of arrays when it is first used,
and of two threads that do so at once each may wait for the other for ever (2026.4)."""

_TYPES = {"f32": np.float32, "f16": np.float16, "u8": np.uint8, "i32": np.int32, "i64": np.int64}


class OpenVinoRuntime(GraphRuntime):
    """Executes graphs with OpenVINO. bfloat16 uses the float32 graphs; int8 has separate graphs."""

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        graphs: Graphs,
        preprocessing: Preprocessing | None,
        precision: str,
        threads: int,
        cache: Path,
        streams: int = 1,
    ) -> None:
        """Compile the graphs of all model inputs, or load them compiled; `normalised_image`, which is rare, when used.

        Args:
            graphs: `float` ones, or quantised ones for `int8`.
            preprocessing: Normalises crops for graphs that do not.
            precision: `fp32`, `bf16` or `int8`.
            threads: Cores that this worker may use.
            cache: A folder for compiled graphs.
            streams: Calls that run at once.

        Raises:
            MissingExtraError: If OpenVINO is not installed.
            DeviceError: If this processor does not support the precision natively.
            WeightsError: If a graph cannot be read.
        """
        self.precision = precision
        ov = require("openvino", "openvino", setting("runtime", "openvino"))
        self._version = ov.__version__
        self._core = ov.Core()
        self._cache = cache
        self.kept: list[Path] = []
        self._called: set[int] = set()  # sessions that are past their first call
        supported = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in supported:
            raise DeviceError(
                setting("precision", "bf16") + " needs a processor with native bfloat16 (avx512_bf16 or amx_bf16);"
                f" OpenVINO finds {', '.join(supported)} on this one"
            )
        self._settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "EXECUTION_MODE_HINT": "PERFORMANCE",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": str(streams),  # each has an equal part of the threads
            "INFERENCE_NUM_THREADS": threads,
            # with pinning, the threads of two workers would share the same cores
            "ENABLE_CPU_PINNING": False,
        }
        super().__init__(graphs, preprocessing, streams)

    def _run(self, session: Any, values: Mapping[str, np.ndarray]) -> np.ndarray:
        if id(session) in self._called:
            return self._infer(session, values)
        with _first_calls:
            found = self._infer(session, values)
            self._called.add(id(session))
            return found

    def _infer(self, session: Any, values: Mapping[str, np.ndarray]) -> np.ndarray:
        request = session.get()
        try:
            # a copy, since the next call overwrites the request's memory
            return np.array(request.infer(values, share_inputs=True)[request.model_outputs[0]], np.float32)
        finally:
            session.put(request)

    def _start(self, path: Path) -> tuple[Any, dict[str, np.dtype]]:
        model = self._compile(path)
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.streams):
            requests.put(model.create_infer_request())
        return requests, {
            node.get_any_name(): np.dtype(_TYPES.get(node.get_element_type().get_type_name(), np.float32))
            for node in model.inputs
        }

    def _compile(self, path: Path) -> Any:
        """Compile a graph, or load one that an earlier process compiled."""
        folder = self._compiled_folder(path)
        self.kept.append(folder)
        step = observed_step(f"compiling the {path.stem} graph for this processor")
        try:
            if (folder / "whole").is_file():
                model = self._compiled(path, folder)
            elif not is_writable(folder.parent):
                with step:
                    model = self._compiled(path)
            else:
                with _locked(folder), step:
                    if not (folder / "whole").is_file():
                        shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed while writing
                    model = self._compiled(path, folder)
                    with contextlib.suppress(FileNotFoundError):  # where there are no locks, `forget` may come between
                        (folder / "whole").touch()
        except RuntimeError as err:
            raise WeightsError(f"OpenVINO {self._version} cannot run {str(path)!r}: {err}") from err
        self._check(model)
        return model

    def _compiled(self, path: Path, folder: Path | None = None) -> Any:
        kept = {} if folder is None else {"CACHE_DIR": str(folder)}
        return self._core.compile_model(str(path), "CPU", {**self._settings, **kept})

    def _compiled_folder(self, path: Path) -> Path:
        parts = json.dumps([path.name, self._settings, self._version, processor()], sort_keys=True)
        return self._cache / hashlib.sha256(parts.encode()).hexdigest()[:16]

    def _check(self, model: Any) -> None:
        """Refuse a precision or device other than the requested one."""
        found = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if found != _HINTS[self.precision]:
            asked = setting("precision", self.precision)
            raise DeviceError(asked + f" was requested, but OpenVINO computes in {found}")
        devices = list(model.get_property("EXECUTION_DEVICES"))
        if devices != ["CPU"]:
            raise DeviceError(f"OpenVINO should run on the CPU, but runs on {', '.join(devices)}")


def forget(folders: Iterable[Path]) -> None:
    """Delete what was compiled for a runtime that was only measured (`Runtime.kept`).

    Processes that compile or load it under its lock end first. One that loads it without compiles it again.
    """
    for folder in folders:
        if is_writable(folder.parent):
            with _locked(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: Path) -> contextlib.AbstractContextManager[None]:
    return locked(folder.with_suffix(".lock"), "a compiled graph")
