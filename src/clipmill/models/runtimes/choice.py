"""Select the runtime and precision for a spec on this machine.

Given ones are used or refused. `auto` selects the fastest combination whose vectors are close enough to those of the
float32 towers. That is measured on generated probes, once for each model and machine, and cached with the graphs.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ClipmillError, DeviceError, MissingExtraError, WeightsError, is_installed
from ..installed import versions
from ..progress import observed_step
from ..support_matrix import PACKAGES, Combination, processor
from . import GRAPH_KINDS, start_runtime
from .candidates import candidates
from .openvino import forget
from .store import Store, largest_error, smallest_cosine

if TYPE_CHECKING:
    from ..model import Runtime
    from ..source import ModelSource
    from ..spec import EncoderSpec

_log = logging.getLogger("clipmill")

MIN_COSINE = 0.999
"""The smallest cosine to float32 that reduced precisions promise."""

MAX_ERROR = 5e-5
"""Largest |a - b| / |b| of float32 on the probes: half of the promised bound, since there are few probes."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """The selected runtime and precision for a spec.

    Attributes:
        combination: Runtime and precision.
        figures: Results of the check, for the provenance; empty without a check.
        runtime: The runtime; None if it is loaded already.
    """

    combination: Combination
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    runtime: Runtime | None = None


def decide(
    store: Store,
    spec: EncoderSpec,
    device: str,
    threads: int,
    is_loaded: Callable[[Combination], bool],
    streams: int | None = None,
) -> Decision:
    """Select the runtime and precision for a spec on this machine, and start the runtime.

    Args:
        store: The model, and its cached graphs and results of checks.
        spec: Its `runtime` and `precision` limit the selection.
        device: `cpu` or `cuda:X`.
        threads: Cores that this worker may use.
        is_loaded: Whether this process has loaded the model in a combination; then it is not started again.
        streams: That of `start_runtime`; None for as many as are fastest here.

    Raises:
        SpecError: If no machine can run this model as the spec asks.
        DeviceError: If this machine cannot.
        WeightsError: If weights or graphs are not available.
        MissingExtraError: If the given runtime is not installed.
    """
    check_files(store.source)
    possible = candidates(store, spec, device)
    if len(possible) == 1:
        (only,) = possible
        return Decision(only) if is_loaded(only) else _Trial(store, device, threads, streams).insist(only)
    trial = _Trial(store, device, threads, streams)
    refusals: list[str] = []
    for combination in possible:
        if is_loaded(combination) and trial.is_known_good(combination):
            return Decision(combination)
        try:
            decision = trial.attempt(combination)
        except Exception as err:  # the errors of runtimes; another one may work
            if trial.is_broken or combination == possible[-1]:
                raise
            _log.warning("%s cannot run with %s, trying the next: %s", spec.model, combination, err)
            refusals.append(f"{combination}: {err}")
            continue
        if decision is not None:
            _log.info("%s runs with %s (auto): %s", spec.model, combination, dict(decision.figures) or "exact")
            return dataclasses.replace(decision, runtime=None) if is_loaded(combination) else decision
        refusals.append(f"{combination}: vectors differ too much from float32")
    raise DeviceError(f"{spec.model} cannot run on {device} within the bounds: {'; '.join(refusals)}")


def check_files(source: ModelSource) -> None:
    """Raise `WeightsError` if a file of the weights is not on this machine."""
    for path in source.files:
        if not path.is_file():
            raise WeightsError(f"no weights at {str(path)!r} on this machine; random weights are never used")


def measure(store: Store, combination: Combination, device: str, threads: int) -> dict[str, Any]:
    """Check one combination for a model, and return the results for its provenance.

    Args:
        store: The model.
        combination: Runtime and precision.
        device: `cpu` or `cuda:X`.
        threads: Cores that this worker may use.

    Raises:
        WeightsError: If it cannot run.
    """
    figures = _Trial(store, device, threads).figures(combination)
    _warn_if_inaccurate(combination, figures)
    return _provenance(figures)


class _Trial:
    """Starts and measures candidates; the float32 vectors of the probes are computed once, when first needed."""

    def __init__(self, store: Store, device: str, threads: int, streams: int | None = 1) -> None:
        self._store = store
        self._streams = streams
        self._device = device
        self._threads = threads
        self.is_broken = False
        """Whether the float32 towers cannot run, so that no candidate can."""

    def insist(self, combination: Combination) -> Decision:
        """Start the only candidate. If its graphs are new, measure it, and warn if it is inaccurate."""
        figures = self._known(combination)
        if combination.runtime == "torch" or figures is not None or self._store.source.graphs is not None:
            runtime = self._start(combination)
            return Decision(combination, _provenance(figures), runtime)
        kind = GRAPH_KINDS[combination]
        self._store.graphs(kind)
        if not self._store.was_made(kind):
            return Decision(combination, {}, self._start(combination))
        figures = self._measured(combination)
        _warn_if_inaccurate(combination, figures)
        return Decision(combination, _provenance(figures), self._start(combination))

    def attempt(self, combination: Combination) -> Decision | None:
        """Start and measure one of several candidates; return None if its vectors differ too much from float32."""
        if self._is_reference(combination):
            return Decision(combination, {}, self._start(combination))
        figures = self._known(combination)
        if figures is None:
            with self._store.locked_note("check", self._parts(combination)):
                figures = self._known(combination)  # another process may have been first
                if figures is None:
                    figures = self._measured(combination)
        if "failed" in figures:
            raise ClipmillError(str(figures["failed"]))
        if not _is_good(combination, figures):
            _log.info(
                "%s is not used: on the probes its smallest cosine against float32 is %.6f, its largest error %.1e",
                combination, figures["cosine"], figures["error"],
            )  # fmt: skip
            return None
        return Decision(combination, _provenance(figures), self._start(combination))

    def figures(self, combination: Combination) -> dict[str, Any]:
        """Return the results for a combination, measured now if they are not cached."""
        known = self._known(combination)
        return self._measured(combination) if known is None or "failed" in known else known

    def is_known_good(self, combination: Combination) -> bool:
        """Return whether a candidate is known to be accurate without measuring it."""
        figures = self._known(combination)
        return self._is_reference(combination) or (figures is not None and _is_good(combination, figures))

    def _is_reference(self, combination: Combination) -> bool:
        """Return whether a combination is exact by definition: float32 in torch, or in a model's own graphs."""
        if combination.precision != "fp32":
            return False
        source = self._store.source
        return combination.runtime == "torch" or (source.graphs or source.float_graphs) is not None

    def _start(self, combination: Combination) -> Runtime:
        if (streams := self._streams) is None:
            from .streams import best_streams

            streams = best_streams(self._store, combination, self._threads) if self._device == "cpu" else 1
        return start_runtime(self._store, combination, self._device, self._threads, streams)

    def _measured(self, combination: Combination) -> dict[str, Any]:
        """Start a runtime, measure it and cache the results."""
        try:
            with observed_step("computing vectors in float32 to check against"):
                _ = self._reference  # before a runtime converts the towers to another precision
        except Exception:
            self.is_broken = True
            raise
        runtime: Runtime | None = None
        try:
            # with the streams that will be measured first, so that nothing is compiled twice
            runtime = start_runtime(self._store, combination, self._device, self._threads, self._streams or 1)
            vectors = {model_input: self._probed(runtime, model_input) for model_input in self._reference}
        except (OSError, MemoryError, MissingExtraError, DeviceError):
            raise  # a retry may succeed
        except Exception as err:
            self._remember(combination, {"failed": f"{type(err).__name__}: {err}"})
            if runtime is not None:
                forget(runtime.kept)
            raise
        figures = {
            "cosine": min(smallest_cosine(vectors[e], self._reference[e]) for e in vectors),
            "error": max(largest_error(vectors[e], self._reference[e]) for e in vectors),
        }
        self._remember(combination, figures)
        if not _is_good(combination, figures):
            forget(runtime.kept)
        return figures

    @functools.cached_property
    def _reference(self) -> dict[str, np.ndarray]:
        """The float32 vectors of the probes, by model input; always computed on the CPU.

        A GPU may be too small for two copies of the towers, or only ONNX Runtime may support it; graphs are made from
        towers on the CPU. `normalised_image` is left out: its graph is that of `image` without the first nodes, and
        would be loaded a second time.
        """
        frontend = self._store.source.frontend
        if self._store.source.graphs is None:
            towers = self._store.towers
            from .pytorch import TorchRuntime, use_threads

            use_threads(self._threads)
            runtime: Runtime = TorchRuntime(towers, frontend.image, "cpu")
        else:
            name = "onnx" if is_installed("onnxruntime") else "openvino"
            runtime = start_runtime(self._store, Combination(name, "fp32"), "cpu", self._threads)
        return {model_input: self._probed(runtime, model_input) for model_input in sorted(frontend.modalities)}

    def _probed(self, runtime: Runtime, model_input: str) -> np.ndarray:
        """Return the vectors of the probes."""
        from .probes import probes_of  # late, since most processes find figures of earlier ones

        return runtime.encode(model_input, probes_of(self._store.source.frontend, model_input))

    def _known(self, combination: Combination) -> dict[str, Any] | None:
        return self._store.known("check", self._parts(combination))

    def _remember(self, combination: Combination, figures: dict[str, Any]) -> None:
        self._store.remember("check", self._parts(combination), figures)

    def _parts(self, combination: Combination) -> dict[str, Any]:
        """Return what results depend on besides the model: the combination, versions, the processor or GPU."""
        hardware = processor() if self._device == "cpu" else _gpu(self._device, combination.runtime)
        return {"way": list(combination), "on": hardware, "versions": versions(*PACKAGES[combination.runtime], "nncf")}


def _gpu(device: str, runtime: str) -> str:
    """Return a GPU's name, from torch if torch runs on it, else from its driver."""
    if runtime == "torch":
        import torch

        return torch.cuda.get_device_name(device)
    reports = [path.read_text() for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    names = re.findall(r"^Model:\s*(.*)$", "\n".join(reports), re.MULTILINE)
    number = int(device.partition(":")[2] or 0)
    return names[number] if number < len(names) else device


def _is_good(combination: Combination, figures: Mapping[str, Any]) -> bool:
    if "failed" in figures:
        return False
    if combination.precision == "fp32":
        return bool(figures["error"] <= MAX_ERROR)
    return bool(figures["cosine"] >= MIN_COSINE)


def _warn_if_inaccurate(combination: Combination, figures: Mapping[str, Any]) -> None:
    if not _is_good(combination, figures):
        _log.warning(
            "%s is used as requested, but on the probes its smallest cosine against float32 is %.6f and its largest"
            " error %.1e; auto requires a cosine of %s, and for float32 an error of %s",
            combination, figures["cosine"], figures["error"], MIN_COSINE, MAX_ERROR,
        )  # fmt: skip


def _provenance(figures: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the figures for the provenance."""
    return {"checked_cosine": round(figures["cosine"], 6)} if figures and "cosine" in figures else {}
