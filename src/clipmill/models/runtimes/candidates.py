"""The runtimes and precisions among which `choice` selects for a spec, a model and a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import DeviceError, SpecError, is_installed
from ...messages import setting
from ..support_matrix import GRAPH_RUNTIMES, Combination, combinations, has_native_bfloat16
from . import GRAPH_KINDS

if TYPE_CHECKING:
    from ..source import ModelSource
    from ..spec import EncoderSpec
    from .store import Store

_ORDER = {
    "cpu": (
        Combination("openvino", "bf16"),
        Combination("torch", "bf16"),
        Combination("openvino", "fp32"),
        Combination("onnx", "fp32"),
        Combination("torch", "fp32"),
        Combination("onnx", "int8"),
        Combination("openvino", "int8"),
    ),
    "cuda": (
        Combination("torch", "bf16"),
        Combination("torch", "fp32"),
        Combination("onnx", "fp32"),
        Combination("torch", "fp16"),
        Combination("onnx", "fp16"),
    ),
}
"""By device, in order of measured speed; those after float32 are only used if the precision is given."""

_NEVER_AUTO = ("fp16", "int8")

_MODULES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}


def candidates(store: Store, spec: EncoderSpec, device: str) -> list[Combination]:
    """Return the combinations that a spec allows for a model on a device, fastest first.

    Raises:
        SpecError: If its towers support none of them on any device.
        DeviceError: If they do on another device.
    """
    kind = device.partition(":")[0]
    allowed = {found for found, where in combinations(spec.runtime, spec.precision, kind) if where == kind}
    able = [c for c in _ORDER[kind] if c in allowed and can_run(store.source, c)]
    if not able:
        supported = {(c, p) for p, order in _ORDER.items() for c in order if can_run(store.source, c)}
        requested = {(c, p) for c, p in combinations(spec.runtime, spec.precision, str(spec.device))}
        message = (
            f"{spec.model} cannot run with "
            + (
                setting("runtime", spec.runtime)
                + ", "
                + setting("precision", spec.precision)
                + f" on {kind}; it can in "
            )
            + ", ".join(sorted(f"{c} on {p}" for c, p in supported))
        )
        raise DeviceError(message) if supported & requested else SpecError(message)
    if (graphs := store.source.graphs) is not None:  # as it was exported, unless the spec differs
        if spec.precision == "auto":
            able = [c for c in able if c.precision == graphs.precision] or able
        if spec.runtime == "auto":
            able = [c for c in able if c.runtime == graphs.runtime] or able
    if spec.precision == "auto" and store.source.auto_precision is not None:
        able = [c for c in able if c.precision == store.source.auto_precision] or able
    if spec.precision == "auto" and any(c.precision not in _NEVER_AUTO for c in able):
        able = [c for c in able if c.precision not in _NEVER_AUTO]
    if spec.runtime == "auto" and len({c.runtime for c in able}) > 1:
        able = [c for c in able if is_installed(_MODULES[c.runtime])] or able[:1]
        if kind == "cuda" and any(c.runtime == "torch" for c in able):
            able = [c for c in able if c.runtime == "torch"]
    if spec.precision == "auto" and kind == "cpu" and not has_native_bfloat16():
        able = [c for c in able if c.precision != "bf16"] or able
    return able


def can_run(source: ModelSource, combination: Combination) -> bool:
    """Return whether a model supports a combination: towers by their runtimes, exported graphs by their kind."""
    if combination.runtime not in source.runtimes:
        return False
    audio = source.frontend.audio
    if combination.runtime in GRAPH_RUNTIMES and combination.precision != "fp32" and audio and audio.float32_graphs:
        return False
    return source.graphs is None or source.graphs.kind == GRAPH_KINDS[combination]
