"""A cost model of jobs: stages measured one by one, and the whole commands that they predict.

    python benchmarks/cost.py [--rows N]… [--rounds N]

A job of `rows` pictures takes `start + rows * (listing + row)` seconds on an engine. The three stages are measured
apart: a command with hardly any rows, listing alone, and shards embedded by as many processes as the engine has,
without it. Then commands of growing size run, and the table shows how far the sum is off.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import click
from jobs import WORKERS, Job, Jobs
from workload import write_drawings
from workplace import machine

from clipmill.datasets.inputs import Shard, plan_shards
from clipmill.encoders import EncoderSpec
from clipmill.jobs import embed_shard, plan_job, start_job
from clipmill.jobs.job import Job as ShardJob
from clipmill.threads import allowed_cpus

_FEW = 16
"""Rows of the job that shows the startup: enough that every worker loads the model."""
_SHARDS, _SHARD_ROWS = 14, 512


class Stages(NamedTuple):
    """What a job on an engine is made of.

    Attributes:
        start: Seconds of a command with hardly any rows.
        listing: Seconds to list a file.
        row: Seconds for a row, all workers of the machine together.
    """

    start: float
    listing: float
    row: float

    def seconds(self, rows: int) -> float:
        """Return the predicted seconds of a whole command."""
        return self.start + rows * (self.listing + self.row)


def measure_stages(jobs: Jobs, home: Path, engine: str, rounds: int) -> Stages:
    """Measure the stages of an engine; medians."""
    workers = WORKERS[engine]
    pictures = home / "stage"
    if not pictures.is_dir():
        write_drawings(pictures, _SHARDS * _SHARD_ROWS)
    starts = [jobs.run_again(Job(engine, workers, _FEW)).seconds for _ in range(rounds)]
    listings, rows = [], []
    for number in range(rounds):
        started = time.perf_counter()
        shards = plan_shards([str(pictures)], rows_per_shard=_SHARD_ROWS)
        listings.append((time.perf_counter() - started) / sum(len(shard.paths) for shard in shards))
        rows.append(_seconds_per_row(shards, workers, str(home / f"stage-{engine}-{number}")))
    return Stages(statistics.median(starts), statistics.median(listings), statistics.median(rows))


def _seconds_per_row(shards: Sequence[Shard], workers: int, output: str) -> float:
    """Embed shards in processes that share the cores, without an engine; the first shard of each warms it up."""
    job = plan_job(EncoderSpec("demo", max_cache_bytes=0), output, shards)
    start_job(job, shards)
    cpus = max(1, allowed_cpus() // workers)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        parts = [shards[number::workers] for number in range(workers)]
        seconds = list(pool.map(_embed, parts, [job] * workers, [cpus] * workers))
    rows = sum(len(shard.paths) for part in parts for shard in part[1:])
    return max(seconds) / rows


def _embed(shards: Sequence[Shard], job: ShardJob, cpus: int) -> float:
    embed_shard(shards[0], job, cpus=cpus)
    started = time.perf_counter()
    for shard in shards[1:]:
        embed_shard(shard, job, cpus=cpus)
    return time.perf_counter() - started


def table(stages: dict[str, Stages], measured: dict[Job, list[float]]) -> list[str]:
    """Return the lines of both tables."""
    lines = ["| engine | start, s | listing, µs a file | row, ms |", "|---|---|---|---|"]
    for engine, one in stages.items():
        lines.append(f"| {engine} | {one.start:.1f} | {one.listing * 1e6:.0f} | {one.row * 1e3:.2f} |")
    lines += ["", "| engine | rows | predicted, s | measured, s | off by |", "|---|---|---|---|---|"]
    for job, seconds in measured.items():
        predicted, found = stages[job.engine].seconds(job.rows), statistics.median(seconds)
        lines.append(f"| {job.engine} | {job.rows:,} | {predicted:.1f} | {found:.1f} | {found / predicted - 1:+.0%} |")
    return lines


@click.command()
@click.option("--rows", multiple=True, type=int, default=(1_000, 10_000, 100_000), show_default=True)
@click.option("--engine", "engines", multiple=True, type=click.Choice(list(WORKERS)), default=tuple(WORKERS))
@click.option("--rounds", default=3, show_default=True, help="Of each stage, and of each command.")
def main(rows: tuple[int, ...], engines: tuple[str, ...], rounds: int) -> None:
    """Measure, predict and compare."""
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        jobs = Jobs(home)
        stages = {engine: measure_stages(jobs, home, engine, rounds) for engine in engines}
        measured: dict[Job, list[float]] = {}
        for count in rows:
            for _ in range(rounds if count < 50_000 else 1):
                for engine in engines:
                    job = Job(engine, WORKERS[engine], count)
                    measured.setdefault(job, []).append(jobs.run_again(job).seconds)
    click.echo("\n".join([f"On {machine()}.", "", *table(stages, measured)]))


if __name__ == "__main__":
    main()
