"""Which runtime and precision a spec means on this machine.

Named ones are taken or refused. What `auto` leaves open is filled with the fastest way whose vectors were found to be
near enough to those of the float32 towers: on drawn probes, once for each model and machine, the finding kept beside
the graphs.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ClipmillError, DeviceError, MissingExtraError, SpecError, WeightsError
from ...messages import setting
from ..support_matrix import Combination, combinations, has_native_bfloat16, processor
from . import GRAPH_KINDS, start_runtime
from .probes import probes_of
from .store import Store, largest_error, smallest_cosine, versions

if TYPE_CHECKING:
    from ..model import Runtime
    from ..source import ModelSource
    from ..spec import EncoderSpec

_log = logging.getLogger("clipmill")

MIN_COSINE = 0.999
"""What reduced precisions promise, against float32."""

MAX_ERROR = 5e-5
"""Largest |a - b| / |b| of float32 on the probes: half of what is promised, since probes are few."""

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
"""By device, fastest first as measured; behind float32 what is taken only where the precision is named."""

_ONLY_NAMED = ("fp16", "int8")

_PACKAGES = {"torch": ("torch",), "onnx": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino", "nncf")}
_MODULES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}


@dataclasses.dataclass(frozen=True)
class Decision:
    """What a spec means here.

    Attributes:
        combination: Runtime and precision.
        figures: What the check found, for the provenance; empty where there was none.
        runtime: Already started, where deciding needed it.
    """

    combination: Combination
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    runtime: Runtime | None = None


def decide(
    store: Store, spec: EncoderSpec, device: str, threads: int, is_loaded: Callable[[Combination], bool]
) -> Decision:
    """Find out what a spec means here.

    Args:
        store: The model, and where its graphs and earlier findings are kept.
        spec: Whose `runtime` and `precision` hold.
        device: `cpu` or `cuda:X`.
        threads: Cores that this worker may use.
        is_loaded: Whether this process has a model running so: then nothing is started.

    Raises:
        SpecError: If this model cannot run as the spec says, on any machine.
        DeviceError: If this machine cannot run it so.
        WeightsError: If weights or graphs cannot be had.
        MissingExtraError: If the runtime that was named is not installed.
    """
    for path in store.source.files:
        if not path.is_file():
            raise WeightsError(f"no weights at {str(path)!r} on this machine; nothing is run with random weights")
    possible = candidates(store, spec, device)
    if len(possible) == 1:
        (only,) = possible
        return Decision(only) if is_loaded(only) else _Trial(store, device, threads).insist(only)
    trial = _Trial(store, device, threads)
    refusals: list[str] = []
    for combination in possible:
        if is_loaded(combination) and trial.is_known_good(combination):
            return Decision(combination)
        try:
            decision = trial.attempt(combination)
        except Exception as err:  # whatever a runtime raises: another one may do
            if trial.is_hopeless or combination == possible[-1]:
                raise
            _log.warning("%s cannot run in %s, trying the next: %s", spec.model, combination, err)
            refusals.append(f"{combination}: {err}")
            continue
        if decision is not None:
            _log.info("%s runs in %s: chosen by auto, %s", spec.model, combination, dict(decision.figures) or "exact")
            return decision
        refusals.append(f"{combination}: too far from float32")
    raise DeviceError(f"{spec.model} cannot run on {device} within the bounds: {'; '.join(refusals)}")


def candidates(store: Store, spec: EncoderSpec, device: str) -> list[Combination]:
    """Return the ways to run a model that a spec allows here, fastest first.

    Raises:
        SpecError: If its towers cannot run so anywhere.
        DeviceError: If they can, on a machine with another device.
        MissingExtraError: If what is left is not installed.
    """
    place = device.partition(":")[0]
    allowed = {found for found, where in combinations(spec.runtime, spec.precision, place) if where == place}
    able = [c for c in _ORDER[place] if c in allowed and can_run(store.source, c)]
    if not able:
        ways = {(c, p) for p, order in _ORDER.items() for c in order if can_run(store.source, c)}
        asked = {(c, p) for c, p in combinations(spec.runtime, spec.precision, str(spec.device))}
        message = (
            f"{spec.model} cannot run with "
            + (
                setting("runtime", spec.runtime)
                + ", "
                + setting("precision", spec.precision)
                + f" on {place}; it can in "
            )
            + ", ".join(sorted(f"{c} on {p}" for c, p in ways))
        )
        raise DeviceError(message) if ways & asked else SpecError(message)
    if (graphs := store.source.graphs) is not None:  # what it was exported for, unless the spec says otherwise
        if spec.precision == "auto":
            able = [c for c in able if c.precision == graphs.precision] or able
        if spec.runtime == "auto":
            able = [c for c in able if c.runtime == graphs.runtime] or able
    if spec.precision == "auto" and store.source.auto_precision is not None:
        able = [c for c in able if c.precision == store.source.auto_precision] or able
    if spec.precision == "auto" and any(c.precision not in _ONLY_NAMED for c in able):
        able = [c for c in able if c.precision not in _ONLY_NAMED]
    if spec.runtime == "auto" and len({c.runtime for c in able}) > 1:
        able = [c for c in able if importlib.util.find_spec(_MODULES[c.runtime])] or able[:1]
        if place == "cuda" and any(c.runtime == "torch" for c in able):
            able = [c for c in able if c.runtime == "torch"]
    if spec.precision == "auto" and place == "cpu" and not has_native_bfloat16():
        able = [c for c in able if c.precision != "bf16"] or able
    return able


def measure(store: Store, combination: Combination, device: str, threads: int) -> dict[str, Any]:
    """Return what a check finds of one way to run a model, for its provenance.

    Args:
        store: The model.
        combination: Runtime and precision.
        device: `cpu` or `cuda:X`.
        threads: Cores that this worker may use.

    Raises:
        WeightsError: If it cannot run so.
    """
    figures = _Trial(store, device, threads).figures(combination)
    _warn_if_far(combination, figures)
    return _told(figures)


def can_run(source: ModelSource, combination: Combination) -> bool:
    """Tell whether a model can run so: its towers in every runtime that it names, graphs as they were made."""
    if combination.runtime not in source.runtimes:
        return False
    return source.graphs is None or source.graphs.kind == GRAPH_KINDS[combination]


class _Trial:
    """Starts candidates and measures them; the float32 vectors are computed once, for the first that needs them."""

    def __init__(self, store: Store, device: str, threads: int) -> None:
        self._store = store
        self._device = device
        self._threads = threads
        self.is_hopeless = False
        """Whether the towers themselves cannot be run: no candidate can be, then."""

    def insist(self, combination: Combination) -> Decision:
        """Start the only way there is; where its graphs are new it is measured, and a warning says if it is far off."""
        figures = self._known(combination)
        if combination.runtime == "torch" or figures is not None or self._store.source.graphs is not None:
            runtime = self._start(combination)
            return Decision(combination, _told(figures), runtime)
        kind = GRAPH_KINDS[combination]
        self._store.graphs(kind)
        if not self._store.was_made(kind):
            return Decision(combination, {}, self._start(combination))
        runtime, figures = self._measured(combination)
        _warn_if_far(combination, figures)
        return Decision(combination, _told(figures), runtime)

    def attempt(self, combination: Combination) -> Decision | None:
        """Start and measure one of several candidates; None if its vectors are too far from float32."""
        if self._is_reference(combination):
            return Decision(combination, {}, self._start(combination))
        runtime, figures = None, self._known(combination)
        if figures is None:
            with self._store.finding_out("check", self._parts(combination)):
                figures = self._known(combination)  # another process may have been first
                if figures is None:
                    runtime, figures = self._measured(combination)
        if "failed" in figures:
            raise ClipmillError(str(figures["failed"]))
        if not _is_good(combination, figures):
            _log.info(
                "%s is not taken: on the probes its smallest cosine against float32 is %.6f, its largest error %.1e",
                combination, figures["cosine"], figures["error"],
            )  # fmt: skip
            return None
        return Decision(combination, _told(figures), runtime or self._start(combination))

    def figures(self, combination: Combination) -> dict[str, Any]:
        """Return what is known of a way to run the model, measured now if it is not."""
        known = self._known(combination)
        return self._measured(combination)[1] if known is None or "failed" in known else known

    def is_known_good(self, combination: Combination) -> bool:
        """Tell whether a candidate needs no measuring."""
        figures = self._known(combination)
        return self._is_reference(combination) or (figures is not None and _is_good(combination, figures))

    def _is_reference(self, combination: Combination) -> bool:
        """Tell whether a combination is exact by what it is: the towers, or graphs whose towers are elsewhere."""
        if combination.precision != "fp32":
            return False
        return combination.runtime == "torch" or self._store.source.graphs is not None

    def _start(self, combination: Combination) -> Runtime:
        return start_runtime(self._store, combination, self._device, self._threads)

    def _measured(self, combination: Combination) -> tuple[Runtime, dict[str, Any]]:
        """Start a runtime, measure it and write down what was found."""
        try:
            _ = self._reference  # before a runtime turns the towers into another precision
        except Exception:
            self.is_hopeless = True
            raise
        try:
            runtime = self._start(combination)
            vectors = {e: runtime.encode(e, probes_of(self._store.source.frontend, e)) for e in self._reference}
        except (OSError, MemoryError, MissingExtraError, DeviceError):
            raise  # another try may go well
        except Exception as err:
            self._remember(combination, {"failed": f"{type(err).__name__}: {err}"})
            raise
        figures = {
            "cosine": min(smallest_cosine(vectors[e], self._reference[e]) for e in vectors),
            "error": max(largest_error(vectors[e], self._reference[e]) for e in vectors),
        }
        self._remember(combination, figures)
        return runtime, figures

    @functools.cached_property
    def _reference(self) -> dict[str, np.ndarray]:
        """The float32 vectors of the probes, by entrance; from the CPU, whatever is measured.

        A GPU may be too small for the towers twice, or only ONNX Runtime's to use; graphs are made of towers on the
        CPU. Without `normalised_image`: it is the same graph less its first nodes, and would be held a second time.
        """
        frontend = self._store.source.frontend
        if self._store.source.graphs is None:
            from .pytorch import TorchRuntime, use_threads

            use_threads(self._threads)
            runtime: Runtime = TorchRuntime(self._store.towers, frontend.image, "cpu")
        else:
            name = "onnx" if importlib.util.find_spec("onnxruntime") else "openvino"
            runtime = start_runtime(self._store, Combination(name, "fp32"), "cpu", self._threads)
        return {
            entrance: runtime.encode(entrance, probes_of(frontend, entrance))
            for entrance in sorted(frontend.modalities)
        }

    def _known(self, combination: Combination) -> dict[str, Any] | None:
        return self._store.known("check", self._parts(combination))

    def _remember(self, combination: Combination, figures: dict[str, Any]) -> None:
        self._store.remember("check", self._parts(combination), figures)

    def _parts(self, combination: Combination) -> dict[str, Any]:
        """What a finding depends on beside the model: the way it runs, versions, the processor or GPU."""
        place = processor() if self._device == "cpu" else _gpu(self._device, combination.runtime)
        return {"way": list(combination), "on": place, "versions": versions(*_PACKAGES[combination.runtime])}


def _gpu(device: str, runtime: str) -> str:
    """Return a GPU's name, from torch where torch runs on it, else from its driver."""
    if runtime == "torch":
        import torch

        return torch.cuda.get_device_name(device)
    told = [path.read_text() for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    names = re.findall(r"^Model:\s*(.*)$", "\n".join(told), re.MULTILINE)
    number = int(device.partition(":")[2] or 0)
    return names[number] if number < len(names) else device


def _is_good(combination: Combination, figures: Mapping[str, Any]) -> bool:
    if "failed" in figures:
        return False
    if combination.precision == "fp32":
        return bool(figures["error"] <= MAX_ERROR)
    return bool(figures["cosine"] >= MIN_COSINE)


def _warn_if_far(combination: Combination, figures: Mapping[str, Any]) -> None:
    if not _is_good(combination, figures):
        _log.warning(
            "%s is taken since it was named: on the probes its smallest cosine against float32 is %.6f, its largest"
            " error %.1e; auto takes a cosine of %s, and of float32 an error of %s",
            combination, figures["cosine"], figures["error"], MIN_COSINE, MAX_ERROR,
        )  # fmt: skip


def _told(figures: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the figures as the provenance holds them."""
    return {"checked_cosine": round(figures["cosine"], 6)} if figures and "cosine" in figures else {}
