"""Shared by both graph runtimes: names and types of inputs, normalisation, translation of errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...errors import ClipmillError, DeviceError, OutOfMemoryError, WeightsError
from ...media.options import Preprocessing

TEXT_INPUTS = ("input_ids", "attention_mask")

_OUT_OF_MEMORY = (
    "bad_alloc",
    "bad allocation",
    "failed to allocate",
    "out of memory",
    "cannot allocate",
    "alloc_failed",
)
_BROKEN_GPU = "cuda failure"


def route(model_input: str, model_inputs: Mapping[str, object], preprocessing: Preprocessing | None) -> str:
    """Return the graph to run for a model input.

    Raises:
        WeightsError: If there is none.
    """
    if model_input in model_inputs:
        return model_input
    if model_input == "image" and "normalised_image" in model_inputs and preprocessing is not None:
        return "normalised_image"
    raise WeightsError(f"these graphs take {', '.join(sorted(model_inputs))}, not {model_input}")


def normalise(crops: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Normalise uint8 crops (n, S, S, 3) to (n, 3, S, S) float32, as the reference does."""
    values = np.ascontiguousarray(crops.transpose(0, 3, 1, 2)).astype(np.float32)
    values /= np.float32(255)
    values -= np.array(preprocessing.mean, np.float32).reshape(1, 3, 1, 1)
    values /= np.array(preprocessing.std, np.float32).reshape(1, 3, 1, 1)
    return values


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
    if any(sign in text.lower() for sign in _OUT_OF_MEMORY):
        return OutOfMemoryError(f"{device}: {text[:300]}")
    if _BROKEN_GPU in text.lower():
        return DeviceError(f"{device} failed, and so will every later call: {text[:300]}")
    return error
