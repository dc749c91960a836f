"""Memory of whole `clipmill embed` commands with the demo model, and their rates by workers and rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from memory import watch
from workload import write_drawings

WORKERS = {"beam": 1, "spark": 2}
"""By engine, the default number of workers on two cores."""


class Job(NamedTuple):
    """One command.

    Attributes:
        engine: `beam` or `spark`.
        workers: Processes.
        rows: Pictures in the folder.
    """

    engine: str
    workers: int
    rows: int


class Figures(NamedTuple):
    """Memory, time and rate of a command.

    Attributes:
        peak_bytes: Peak memory of all its processes together.
        seconds: From its start to its end, including the startup of the interpreter and the engine.
        rows_per_second: Between its first and its last row; None if all came at once.
    """

    peak_bytes: int
    seconds: float
    rows_per_second: float | None


class Jobs:
    """Runs commands, each once for all the tables that show it."""

    def __init__(self, home: Path) -> None:
        """Start with nothing run: `found` is empty.

        Args:
            home: A folder for pictures and vectors.
        """
        self._home = home
        self.found: dict[Job, Figures] = {}

    def run(self, job: Job) -> Figures:
        """Return what a command took, run now if it was not yet."""
        if job not in self.found:
            self.found[job] = self.run_again(job)
        return self.found[job]

    def run_again(self, job: Job) -> Figures:
        """Embed a folder of drawn pictures."""
        command = self.command("embed", job.rows)
        command += ["--output", str(self._home / "vectors"), "--overwrite", "--json", "--engine", job.engine]
        if job.engine == "spark":
            command += ["--master", f"local[{job.workers}]"]
        elif job.workers > 1:
            command += [f"--direct_num_workers={job.workers}", "--direct_running_mode=multi_processing"]
        watched = watch(command)
        found = Figures(watched.peak_bytes, watched.seconds, _rate(json.loads(watched.printed)))
        click.echo(f"{job}: {found}", err=True)
        return found

    def command(self, verb: str, rows: int) -> list[str]:
        """Return the command on a folder of so many drawn pictures, drawn now if it is not there yet."""
        pictures = self._home / f"drawings-{rows}"
        if not pictures.is_dir():
            write_drawings(pictures, rows)
        command = [sys.executable, "-m", "clipmill", verb, str(pictures), "--model", "demo"]
        command += ["--max-cache-bytes", "0"]  # the same pictures are there repeatedly
        return [*command, "--rows-per-shard", str(min(1024, max(1, rows // 8)))]  # enough for two workers to share


def memory_table(jobs: Jobs, counts: Sequence[int]) -> list[str]:
    """Return the lines of the table of memory, with the ratio to the first job on the same engine."""
    lines = ["| job | peak RSS | against the small job | whole command |", "|---|---|---|---|"]
    for engine, workers in WORKERS.items():
        small = jobs.run(Job(engine, workers, counts[0])).peak_bytes
        for rows in counts:
            found = jobs.run(Job(engine, workers, rows))
            lines.append(
                f"| {engine}, {_workers_text(workers)}, {rows:,} images | {found.peak_bytes / 2**20:,.0f} MiB"
                f" | {found.peak_bytes / small:.2f} | {found.seconds:.1f} s |"
            )
    return lines


def scaling_table(jobs: Jobs, engines: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Return the lines of the table of rates: 1 and 2 workers, and so many rows."""
    lines = ["| job | rows/s, first to last row | whole command | rows/s of the whole |", "|---|---|---|---|"]
    for engine in engines:
        for workers in (1, 2):
            for rows in counts:
                found = jobs.run(Job(engine, workers, rows))
                rate = "–" if found.rows_per_second is None else f"{found.rows_per_second:,.0f}"
                lines.append(
                    f"| {engine}, {_workers_text(workers)}, {rows:,} images | {rate} | {found.seconds:.1f} s"
                    f" | {rows / found.seconds:,.0f} |"
                )
    return lines


def _rate(summary: Mapping[str, Any]) -> float | None:
    first, last = summary["first_row_at"], summary["last_row_at"]
    return None if first is None or last <= first else summary["input_rows"] / (last - first)


def _workers_text(workers: int) -> str:
    return f"{workers} worker" + ("s" if workers > 1 else "")
