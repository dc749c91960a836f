"""What both graph runtimes do before and after a call: names and types of inputs, normalising, errors."""

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


def route(entrance: str, entrances: Mapping[str, object], preprocessing: Preprocessing | None) -> str:
    """Return the entrance of the graphs that serves an entrance of the model.

    Raises:
        WeightsError: If none does.
    """
    if entrance in entrances:
        return entrance
    if entrance == "image" and "normalised_image" in entrances and preprocessing is not None:
        return "normalised_image"
    raise WeightsError(f"these graphs take {', '.join(sorted(entrances))}, not {entrance}")


def normalise(crops: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Return (n, 3, S, S) float32 of uint8 crops (n, S, S, 3), as the reference computes them."""
    values = np.ascontiguousarray(crops.transpose(0, 3, 1, 2)).astype(np.float32)
    values /= np.float32(255)
    values -= np.array(preprocessing.mean, np.float32).reshape(1, 3, 1, 1)
    values /= np.array(preprocessing.std, np.float32).reshape(1, 3, 1, 1)
    return values


def feed(inputs: Sequence[np.ndarray], wanted: Mapping[str, np.dtype], entrance: str) -> dict[str, np.ndarray]:
    """Give arrays to the inputs of a graph, in the types that it wants.

    Args:
        inputs: In the order of the entrance.
        wanted: Types by name, in the graph's order.
        entrance: Decides which input is which: texts' are told by their names, others by their order.

    Raises:
        WeightsError: If the graph takes other inputs.
    """
    names = list(wanted)
    if entrance == "text" and len(inputs) > 1:
        names = list(TEXT_INPUTS[: len(inputs)])
    if len(names) != len(inputs) or set(names) != set(wanted):
        raise WeightsError(f"the {entrance} graph takes {', '.join(wanted)}; it was to be given {len(inputs)} arrays")
    return {name: np.ascontiguousarray(array, dtype=wanted[name]) for name, array in zip(names, inputs, strict=True)}


def translated(error: Exception, device: str) -> Exception:
    """Return what an error of a runtime's own means here: memory that ran out, a broken GPU, or the error itself."""
    if isinstance(error, ClipmillError):
        return error
    text = str(error)
    if any(sign in text.lower() for sign in _OUT_OF_MEMORY):
        return OutOfMemoryError(f"{device}: {text[:300]}")
    if _BROKEN_GPU in text.lower():
        return DeviceError(f"{device} failed, and with it every later call: {text[:300]}")
    return error
