"""How many calls of a model should run at once on this machine's CPU, measured once for each model.

A call on all cores waits for its slowest thread after every layer; as many calls on a core each wait for nothing. But
they need more memory bandwidth together, and a call alone takes longer. Which is faster depends on the model, the
runtime and the processor.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..installed import versions
from ..support_matrix import PACKAGES, Combination, processor
from . import start_runtime
from .openvino import forget
from .store import Store

if TYPE_CHECKING:
    from ..frontend import Frontend
    from ..model import Runtime

_log = logging.getLogger("clipmill")

_SECONDS, _CALLS = 0.8, 20
"""How long each number of streams is measured, or for how many calls of each stream if that is shorter."""
_ROWS = 32
"""Rows of the calls of all streams together, as the default micro-batches have on a CPU."""
_CALL_SECONDS = 0.3
"""How long a call of a slow model should take: it has fewer rows."""
_LEAST_GAIN = 1.03
"""How much faster more streams must be: they take memory for each."""


def options(threads: int) -> list[int]:
    """Return the numbers of streams that are tried with this many cores: one, a core for each, and between."""
    return sorted({1, threads, *([threads // 4] if threads >= 8 else [])})


def best_streams(store: Store, combination: Combination, threads: int) -> int:
    """Return how many calls should run at once; measured if no process has done so before.

    Args:
        store: The model, and where the result is kept.
        combination: Runtime and precision, on the CPU.
        threads: Cores that this worker may use.
    """
    if combination.runtime == "torch" or threads == 1:
        return 1
    parts = {
        "way": list(combination),
        "on": processor(),
        "threads": threads,
        "versions": versions(*PACKAGES[combination.runtime]),
    }

    def known() -> int | None:
        streams = (store.known("streams", parts) or {}).get("streams")
        return streams if type(streams) is int and 1 <= streams <= threads else None

    if (found := known()) is not None:
        return found
    with store.locked_note("streams", parts):
        if (found := known()) is not None:  # another process was first
            return found
        rates, kept = _rates(store, combination, threads)
        best = min(rates)
        for streams, rate in rates.items():
            if rate > rates[best] * _LEAST_GAIN:
                best = streams
        for streams, folders in kept.items():
            if streams != best:
                forget(folders)
        shown = ", ".join(f"{streams}: {rate:.1f}" for streams, rate in rates.items())
        _log.info(
            "with %s, %d calls run at once on %d cores; rows per second by calls at once: %s",
            combination, best, threads, shown,
        )  # fmt: skip
        store.remember("streams", parts, {"streams": best, "rates": {str(n): rate for n, rate in rates.items()}})
    return best


def _rates(store: Store, combination: Combination, threads: int) -> tuple[dict[int, float], dict[int, Sequence[Path]]]:
    """Return rows per second by the number of calls at once, and what was compiled for each on disk.

    A number that cannot run, as for memory, has no rate.
    """
    rates: dict[int, float] = {}
    kept: dict[int, Sequence[Path]] = {}
    runtime: Runtime | None = None
    for streams in options(threads):
        runtime = None
        gc.collect()  # of the runtime before
        try:
            runtime = start_runtime(store, combination, "cpu", threads, streams)
            kept[streams] = runtime.kept
            rates[streams] = _rate(runtime, store.source.frontend)
        except Exception as err:  # the errors of runtimes
            if streams == 1:
                raise
            _log.warning("%d calls at once cannot run with %s: %s", streams, combination, err)
    return rates, kept


def _rate(runtime: Runtime, frontend: Frontend) -> float:
    """Return rows per second of the model's largest tower, with as many calls at once as the runtime has streams."""
    from .probes import probes_of

    streams = runtime.streams
    model_input = next(one for one in ("image", "audio", "text") if one in frontend.modalities)
    probes = probes_of(frontend, model_input, rows=1)
    # the first call prepares what later ones reuse
    seconds = [_seconds(lambda: runtime.encode(model_input, probes)) for _ in range(2)]
    rows = max(1, min(_ROWS // streams, int(_CALL_SECONDS / seconds[-1])))
    batch = tuple(np.resize(array, (rows, *array.shape[1:])) for array in probes)
    ends_at = time.perf_counter() + _SECONDS

    def work(_: int) -> int:
        calls = 0
        while not calls or (calls < _CALLS and time.perf_counter() < ends_at):
            runtime.encode(model_input, batch)
            calls += 1
        return calls * rows

    started = time.perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        done = sum(pool.map(work, range(streams)))
    return done / (time.perf_counter() - started)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
