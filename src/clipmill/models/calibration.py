"""Calibrates int8 graphs on values of the user's own, and measures their vectors on others of them."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import SpecError
from ..messages import setting
from ..threads import allowed_cpus
from .frontend import Frontend
from .model import ClipModel, Model
from .runtimes import start_runtime
from .runtimes.feeding import model_inputs
from .runtimes.probes import probes_of
from .runtimes.reduced import convert_graphs
from .runtimes.store import Store, row_cosines
from .source import Graphs
from .support_matrix import Combination

if TYPE_CHECKING:
    from .model import Runtime

_log = logging.getLogger("clipmill")

CALIBRATED = Combination("openvino", "int8")
"""The only runtime and precision with activations in int8, whose ranges have to be calibrated."""

MAX_CALIBRATED = 128
"""Values of a modality that are calibrated on, at most. The quantiser runs each of them several times, one by one."""
MAX_HELD_OUT = 500
"""Values of a modality that are measured on, at most."""
MAX_VALUES = MAX_CALIBRATED + MAX_HELD_OUT
NEIGHBOURS = 10
MIN_FOR_RECALL = 50
"""Held-out values that a recall needs: among few, ten neighbours are found by chance."""

_ROWS = 16
"""Rows of a call when vectors are measured."""


@dataclasses.dataclass(frozen=True)
class OwnValues:
    """Values of the user's own.

    Attributes:
        prepared: Prepared values (`Prepared.payload`) by modality, without repetitions, in the order they were drawn.
        failed: How many more could not be read or decoded.
        repeated: How many more were equal to another.
    """

    prepared: Mapping[str, Sequence[np.ndarray]]
    failed: int = 0
    repeated: int = 0


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How int8 graphs are calibrated.

    Attributes:
        values: Returns the user's values, prepared by a model: at most `MAX_VALUES` of a modality.
        recall: Returns the share of `NEIGHBOURS` nearest neighbours of each row by the first vectors that are also its
            neighbours by the second ones; both (n, dim) float32, in the same order.
    """

    values: Callable[[Model], OwnValues]
    recall: Callable[[np.ndarray, np.ndarray], float]


def check_is_calibrated(combination: Combination) -> None:
    """Raise `SpecError` if graphs for a runtime and precision are not calibrated."""
    if combination != CALIBRATED:
        raise SpecError(
            setting("calibration") + f" has no effect on graphs for {combination}: only those in int8 for OpenVINO have"
            " activations whose ranges are calibrated",
            hint="give " + setting("runtime", "openvino") + " and " + setting("precision", "int8") + " with it",
        )


def calibrated_graphs(store: Store, calibration: Calibration, folder: Path) -> tuple[Graphs, dict[str, Any]]:
    """Make int8 graphs for OpenVINO, calibrated on values of the user's own.

    Half of the values of a modality are calibrated on, at most `MAX_CALIBRATED`; the others are held out, and measured
    on. A modality without values is calibrated and measured on generated probes.

    Args:
        store: The model, with its float32 graphs.
        calibration: Where the values come from, and how neighbours are compared.
        folder: An empty directory for the graphs.

    Returns:
        The graphs, and entries of the manifest: `calibration_sha256`, `checked_cosine` (the smallest of a measured
        value to float32) and `calibration`: what failed or was repeated, and by modality the number of `calibrated` and
        `held_out` values (0 for generated probes), `cosine_mean`, `cosine_min` and `recall_at_10` (None if too few were
        held out).

    Raises:
        WeightsError: If graphs cannot be made.
        MissingExtraError: If NNCF or OpenVINO is not installed.
    """
    frontend, threads = store.source.frontend, allowed_cpus()
    exact = start_runtime(store, CALIBRATED._replace(precision="fp32"), "cpu", threads)
    own = calibration.values(ClipModel(frontend, exact, {}))
    samples, held_out = {}, {}
    for modality in sorted(frontend.modalities):
        values = own.prepared.get(modality, ())
        calibrated = min(MAX_CALIBRATED, (len(values) + 1) // 2)
        samples[modality] = values[:calibrated]
        held_out[modality] = values[calibrated : calibrated + MAX_HELD_OUT]
    _log.info("calibrating %s", ", ".join(f"{name} on {len(some) or 'probes'}" for name, some in samples.items()))
    reference = {name: _vectors(exact, frontend, name, some) for name, some in held_out.items()}
    del exact  # the quantiser needs the memory
    graphs = convert_graphs(
        store.graphs("float"),
        "int8-openvino",
        frontend,
        folder,
        samples=samples,
    )
    found: dict[str, Any] = {"failed": own.failed, "repeated": own.repeated}
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        quantised = Store(dataclasses.replace(store.source, graphs=graphs), cache)
        runtime = start_runtime(quantised, CALIBRATED, "cpu", threads)
        for name, some in held_out.items():
            vectors = _vectors(runtime, frontend, name, some)
            found[name] = {
                "calibrated": len(samples[name]),
                "held_out": len(some),
                **_figures(reference[name], vectors, calibration.recall if len(some) >= MIN_FOR_RECALL else None),
            }
    return graphs, {
        "calibration_sha256": _digest(samples),
        "checked_cosine": min(found[name]["cosine_min"] for name in held_out),
        "calibration": found,
    }


def _vectors(runtime: Runtime, frontend: Frontend, modality: str, values: Sequence[np.ndarray]) -> np.ndarray:
    """Return the vectors of prepared values, or of generated probes if there are none, (n, dim) float32."""
    return np.concatenate([runtime.encode(modality, inputs) for inputs in _calls(frontend, modality, values)])


def _calls(frontend: Frontend, modality: str, values: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
    if not values:
        yield probes_of(frontend, modality)
    for start in range(0, len(values), _ROWS):
        yield model_inputs(frontend, modality, values[start : start + _ROWS])


def _figures(
    exact: np.ndarray, vectors: np.ndarray, recall: Callable[[np.ndarray, np.ndarray], float] | None
) -> dict[str, float | None]:
    each = row_cosines(vectors, exact)
    return {
        "cosine_mean": round(float(each.mean()), 6),
        "cosine_min": round(float(each.min()), 6),
        f"recall_at_{NEIGHBOURS}": None if recall is None else round(recall(exact, vectors), 4),
    }


def _digest(samples: Mapping[str, Sequence[np.ndarray]]) -> str:
    """Return a hash of the values that graphs are calibrated on, which tells one calibration from another."""
    found = hashlib.sha256()
    for modality, values in samples.items():
        for value in values:
            found.update(f"{modality} {value.shape} {value.dtype}\n".encode())
            found.update(np.ascontiguousarray(value).data)
    return found.hexdigest()
