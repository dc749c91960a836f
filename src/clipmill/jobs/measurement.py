"""Embeds a sample in processes like an engine's workers, without the engine, and measures what a row takes."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import math
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, Self

from ..datasets.dataset import read_failures
from ..datasets.inputs.shards import Shard
from ..errors import ClipmillError, DatasetError
from ..files.json_shape import fits, mismatches
from ..files.processes import meaning_of_exit
from ..metrics.env_exporter import FILE_VARIABLE, PORT_VARIABLE
from .embed import embed_shard
from .job import Job
from .sample import shortened
from .start import start_job

ROUNDS = 4
"""Pieces that each process embeds after its warm-up; their rates show how steady the figure is."""
_WARM_UP_ROWS = 64
_SECONDS_TO_END = 5.0


def _is_positive(seconds: Any) -> bool:
    return isinstance(seconds, int | float) and 0 < seconds < math.inf


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and number > 0


_SHAPE: dict[str, Any] = {
    **dict.fromkeys(("processes", "cores", "rows"), _is_count),
    "row_s": lambda rounds: fits(rounds, [_is_positive]) and bool(rounds),
    "ready_s": _is_positive,
    "failed_rows": int,
    "failed": {str: int},
    "peak_bytes": int,
    "written_bytes": int,
    "resolved": {},
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What embedding a sample took.

    Attributes:
        processes: Processes that shared the cores of this machine.
        cores: Cores of the machine that they used together.
        rows: Rows of the sample, without those of the warm-up.
        row_s: Seconds for a row on the whole machine, in each round.
        ready_s: Seconds until the slowest process had loaded the model and was warm.
        failed_rows: Rows that failed.
        failed: Failures by reason code.
        peak_bytes: Largest peak of resident memory of a process.
        written_bytes: Bytes of the files that were written for the rows.
        resolved: The runtime, precision and device that were chosen.
    """

    processes: int
    cores: int
    rows: int
    row_s: tuple[float, ...]
    ready_s: float
    failed_rows: int
    failed: dict[str, int]
    peak_bytes: int
    written_bytes: int
    resolved: dict[str, Any]

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Make a measurement from the fields that `dataclasses.asdict` returned; raise `ValueError` for others."""
        if wrong := mismatches(fields, _SHAPE):
            raise ValueError(f"no measurement has such values of {', '.join(wrong)}")
        return cls(**{name: fields[name] for name in _SHAPE} | {"row_s": tuple(fields["row_s"])})

    @property
    def seconds_per_row(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.row_s)

    @property
    def spread(self) -> float:
        """How far the slowest and the fastest round are apart, as a share of the median."""
        return (max(self.row_s) - min(self.row_s)) / self.seconds_per_row


class _Report(NamedTuple):
    """What a process tells; `rounds` has the seconds and the manifest of each of its pieces."""

    ready_s: float
    rounds: list[tuple[float, dict[str, Any]]]
    peak_bytes: int


def measure(job: Job, pieces: Sequence[Shard], *, processes: int, cores: int) -> Measurement:
    """Embed pieces of a job's input in new processes that share the cores, and measure it.

    Each process warms up with some rows of its first piece, waits for the others, and embeds its other pieces, as
    `embed_shard` does it for every engine.

    Args:
        job: The job; its directory is empty, and only what is measured is written there.
        pieces: Two or more for each process, with names that differ.
        processes: How many processes there are.
        cores: Cores that they use together.

    Raises:
        ClipmillError: If a process raised it or died, or all rows failed.
    """
    warm = [shortened(piece, _WARM_UP_ROWS) for piece in pieces[:processes]]
    parts = [[first, *pieces[number + processes :: processes]] for number, first in enumerate(warm)]
    start_job(job, [piece for part in parts for piece in part])
    reports = _run(parts, job, max(1, cores // processes))
    rounds = [list(one) for one in zip(*(report.rounds for report in reports), strict=False)]
    manifests = [manifest for one in rounds for _, manifest in one]
    rates = [sum(manifest["input_rows"] / seconds for seconds, manifest in one) for one in rounds]
    failed = sum((collections.Counter(manifest["failed"]) for manifest in manifests), collections.Counter[str]())
    rows, failed_rows = (sum(manifest[name] for manifest in manifests) for name in ("input_rows", "failed_rows"))
    if not rows:
        raise DatasetError("the sample has no rows, so that there is nothing to measure")
    if failed_rows == rows:
        codes = ", ".join(f"{code} {count:,}" for code, count in sorted(failed.items()))
        first = next(read_failures(job.directory))
        raise DatasetError(
            f"all {rows:,} rows of the sample failed ({codes}), so that there is no rate of good ones; the first: "
            f"{first['row']}: {first['message']}"
        )
    return Measurement(
        processes=processes,
        cores=cores,
        rows=rows,
        row_s=tuple(1 / rate for rate in rates if rate),
        ready_s=max(report.ready_s for report in reports),
        failed_rows=failed_rows,
        failed=dict(sorted(failed.items())),
        peak_bytes=max(report.peak_bytes for report in reports),
        written_bytes=sum(file["bytes"] for manifest in manifests for file in manifest["files"]),
        resolved=manifests[0]["resolved"],
    )


def _run(parts: Sequence[Sequence[Shard]], job: Job, cores: int) -> list[_Report]:
    """Run a process for each part, and return their reports; none of the processes outlives the call."""
    context = multiprocessing.get_context("spawn")
    warm = context.Barrier(len(parts))
    running: dict[Any, Any] = {}
    with contextlib.ExitStack() as stack:
        for part in parts:
            receiving, sending = context.Pipe(duplex=False)
            stack.enter_context(receiving)
            process = context.Process(target=_work, args=(part, job, cores, time.time(), warm, sending), daemon=True)
            process.start()
            stack.callback(_end, process)
            sending.close()
            running[receiving] = process
        reports: list[_Report] = []
        while len(reports) < len(parts):
            for connection in wait(list(running)):
                reports.append(_received(connection, running.pop(connection)))
    return reports


def _received(connection: Any, process: Any) -> _Report:
    try:
        told = connection.recv()
    except EOFError:
        process.join()
        raise DatasetError(
            f"a process that embedded the sample died ({meaning_of_exit(process.exitcode)})",
            hint="a job isolates the row that kills; a smaller sample may leave it out",
        ) from None
    if isinstance(told, ClipmillError):
        raise told
    found: _Report = told
    return found


def _end(process: Any) -> None:
    process.terminate()
    process.join(_SECONDS_TO_END)
    process.kill()


def _work(part: Sequence[Shard], job: Job, cores: int, started: float, warm: Any, connection: Connection) -> None:
    """Embed the pieces of a process, and tell what it took."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the first one ends these
    logging.getLogger("clipmill").setLevel(logging.ERROR)  # the first process has loaded the model, and said it all
    for name in (FILE_VARIABLE, PORT_VARIABLE):
        os.environ.pop(name, None)
    try:
        embed_shard(part[0], job, cpus=cores)
        ready_s = time.time() - started
        warm.wait()
        rounds = []
        for piece in part[1:]:
            began = time.perf_counter()
            manifest = embed_shard(piece, job, cpus=cores)
            rounds.append((time.perf_counter() - began, manifest))
        connection.send(_Report(ready_s, rounds, _peak_bytes()))
    except Exception as err:
        connection.send(err if isinstance(err, ClipmillError) else ClipmillError(f"{type(err).__name__}: {err}"))


def _peak_bytes() -> int:
    """Return the peak of this process's resident memory; `getrusage` would count that of its parent too."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
