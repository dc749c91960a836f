"""Shared by both graph runtimes: their base, names and types of inputs, normalisation, translation of errors."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ClipmillError, DeviceError, OutOfMemoryError, WeightsError, ran_out_of_memory
from ...media.options import Preprocessing
from ..frontend import Frontend
from ..source import Graphs

TEXT_INPUTS = ("input_ids", "attention_mask")

_BROKEN_GPU = "cuda failure"


def normalise(crops: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Normalise uint8 crops (n, S, S, 3) to (n, 3, S, S) float32, as the reference does."""
    values = np.ascontiguousarray(crops.transpose(0, 3, 1, 2)).astype(np.float32)
    values /= np.float32(255)
    values -= np.array(preprocessing.mean, np.float32).reshape(1, 3, 1, 1)
    values /= np.array(preprocessing.std, np.float32).reshape(1, 3, 1, 1)
    return values


def model_inputs(frontend: Frontend, model_input: str, values: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return prepared values of one shape (`Prepared.payload`) as the arrays of a model input; see `Runtime`."""
    if model_input == "text":
        assert frontend.text is not None
        return frontend.text.batch(values)
    stacked = np.stack(values)
    if model_input == "normalised_image":
        assert frontend.image is not None
        return (normalise(stacked, frontend.image),)
    return (stacked,)


def feed(inputs: Sequence[np.ndarray], expected: Mapping[str, np.dtype], model_input: str) -> dict[str, np.ndarray]:
    """Map arrays to the inputs of a graph, converted to its types.

    Args:
        inputs: In the order of the model input.
        expected: Types by name, in the graph's order.
        model_input: The model input. Arrays of `text` are matched by name, others by order.

    Raises:
        WeightsError: If the graph has other inputs.
    """
    names = list(expected)
    if model_input == "text" and len(inputs) > 1:
        names = list(TEXT_INPUTS[: len(inputs)])
    if len(names) != len(inputs) or set(names) != set(expected):
        raise WeightsError(f"the {model_input} graph takes {', '.join(expected)}; it got {len(inputs)} arrays")
    return {name: np.ascontiguousarray(array, dtype=expected[name]) for name, array in zip(names, inputs, strict=True)}


def translated(error: Exception, device: str) -> Exception:
    """Return our error for one of a runtime: out of memory, a broken GPU, or else the error itself."""
    if isinstance(error, ClipmillError):
        return error
    text = str(error)
    if ran_out_of_memory(error):
        return OutOfMemoryError(f"{device}: {text[:300]}")
    if _BROKEN_GPU in text.lower():
        return DeviceError(f"{device} failed, and so will every later call: {text[:300]}")
    return error


class GraphRuntime(ABC):
    """Executes graphs; a session for each model input.

    Attributes:
        device: As in `Runtime`.
        streams: As in `Runtime`.
        kept: As in `Runtime`.
    """

    device: str
    kept: Sequence[Path] = ()

    def __init__(self, graphs: Graphs, preprocessing: Preprocessing | None, streams: int = 1) -> None:
        """Start the sessions of all model inputs; that of `normalised_image`, which is rare, starts when first used.

        Args:
            graphs: The graphs for the precision.
            preprocessing: Normalises crops for graphs that do not.
            streams: Calls that run at once.
        """
        self.streams = streams
        self._graphs = graphs
        self._preprocessing = preprocessing
        self._sessions: dict[str, tuple[Any, Mapping[str, np.dtype]]] = {}
        self._lock = threading.Lock()
        for model_input in graphs.files:
            if model_input != "normalised_image" or "image" not in graphs.files:
                self._session(model_input)

    def encode(self, model_input: str, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """See `Runtime.encode`."""
        there = self._graphs.files
        is_left_to_us = model_input == "image" and "image" not in there
        if is_left_to_us and "normalised_image" in there and self._preprocessing is not None:
            model_input, inputs = "normalised_image", [normalise(inputs[0], self._preprocessing)]
        if model_input not in there:
            raise WeightsError(f"these graphs take {', '.join(sorted(there))}, not {model_input}")
        session, expected = self._session(model_input)
        values = feed(inputs, expected, model_input)
        try:
            return self._run(session, values)
        except Exception as err:  # ONNX Runtime's exceptions have no common base class
            problem = translated(err, self.device)
            if problem is err:
                raise
        # outside the handler, since the error's traceback would keep the memory of the failed call
        raise problem

    def _session(self, model_input: str) -> tuple[Any, Mapping[str, np.dtype]]:
        with self._lock:
            if model_input not in self._sessions:
                self._sessions[model_input] = self._start(self._graphs.path(model_input))
            return self._sessions[model_input]

    @abstractmethod
    def _start(self, path: Path) -> tuple[Any, Mapping[str, np.dtype]]:
        """Return a session for a graph, and the types of its inputs by name."""

    @abstractmethod
    def _run(self, session: Any, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the vectors of a batch, float32."""
