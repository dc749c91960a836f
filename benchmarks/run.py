"""`make bench`: speed as ratios of interleaved rounds, overhead, startup, memory, scaling, ranking, recall, indexes.

    python benchmarks/run.py [--quick] [--only PART]… [--profile] [--output DIR] [--work DIR]

Prints Markdown tables and writes them, with the raw figures as JSON, to the output directory.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from first_vector import SHORT_WAYS, WAYS, first_table, measure_first
from goals import goal_table
from index import index_tables, measure_index
from jobs import WORKERS, Jobs, memory_table, scaling_table
from overhead import measure_overhead, overhead_table, profile_overhead
from ranking import measure_all, measure_rank_memory, rank_memory_table, rank_tables
from recall import measure_recall, recall_table
from speed import Size, measure_images, measure_large, measure_long_texts, measure_texts, speed_table
from workplace import ARCHITECTURE, Workplace, machine

from clipmill.pipelines.doctor import examine

QUICK = {
    "speed": Size(slow=8, fast=32, rounds=1, batches=2, engines=("auto",)),
    "big": Size(slow=4, fast=8, rounds=1, batches=2),
    "texts": Size(slow=8, fast=128, rounds=1, batches=2),
}
"""Sizes with which all parts together take under five minutes on two idle cores."""

FULL = {
    "speed": Size(slow=96, fast=576, rounds=3),
    "big": Size(slow=24, fast=72, rounds=3),
    "texts": Size(slow=256, fast=4_096, rounds=3),
}


class Bench:
    """One run: its size, and the results so far.

    Attributes:
        lines: The lines of the report.
        raw: The raw figures, by part.
    """

    def __init__(self, place: Workplace, *, quick: bool) -> None:
        """Start without results."""
        self.place = place
        self.quick = quick
        self.sizes = QUICK if quick else FULL
        self.lines: list[str] = []
        self.raw: dict[str, Any] = {}
        self._machine = machine()
        self._jobs = Jobs(place.home)
        self._counts = (800,) if quick else (1_000, 5_000, 20_000)

    def add(self, heading: str, lines: list[str]) -> None:
        """Add a table under its heading, with the machine and its load."""
        load = f"load average of the last minute, this run's own included: {os.getloadavg()[0]:.1f}"
        self.lines += [f"## {heading}", "", f"On {self._machine}; {load}.", "", *lines, ""]

    def speed(self) -> None:
        """Measure images with all contenders."""
        size = self.sizes["speed"]
        rates = self.raw["speed"] = measure_images(self.place, size)
        heading = f"Images: {ARCHITECTURE}, photographs of 480-900 px, {_rounds(size)}"
        self.add(heading, speed_table(rates, "images"))

    def big(self) -> None:
        """Measure large photos."""
        size = self.sizes["big"]
        rates = self.raw["big"] = measure_large(self.place, size)
        self.add(f"12-megapixel JPEGs: {ARCHITECTURE}, {_rounds(size)}", speed_table(rates, "images"))

    def texts(self) -> None:
        """Measure captions, short and long."""
        size = self.sizes["texts"]
        rates = self.raw["texts"] = measure_texts(self.place, size)
        self.add(f"Captions of 5-15 words: {ARCHITECTURE}, {_rounds(size)}", speed_table(rates, "captions"))
        if self.quick:
            return
        rates = self.raw["long texts"] = measure_long_texts(self.place, size)
        self.add(f"Captions of 60 words: {ARCHITECTURE}, {_rounds(size)}", speed_table(rates, "captions"))

    def overhead(self) -> None:
        """Measure the fake encoder."""
        rows, rounds = (5_000, 1) if self.quick else (50_000, 5)
        rates = self.raw["overhead"] = measure_overhead(self.place, rows, rounds)
        self.add(f"Without a model: 512 values, {rows:,} short texts", overhead_table(rates))

    def first(self) -> None:
        """Measure new processes."""
        ways, rounds = (SHORT_WAYS, 1) if self.quick else (WAYS, 5)
        model = f"{ARCHITECTURE}::{self.place.weights}"
        found = measure_first(model, ways, rounds, dict(os.environ))
        self.raw["first"] = {" ".join(way): figures for way, figures in found.items()}
        self.add(f"A new process to its first vectors: {ARCHITECTURE}, cache filled", first_table(found))

    def memory(self) -> None:
        """Measure peak memory of whole commands."""
        counts = sorted({self._counts[0], self._counts[-1]})
        self.add("Memory: `clipmill embed`, demo model", memory_table(self._jobs, counts))
        self._keep_jobs()

    def scaling(self) -> None:
        """Measure rates of whole commands."""
        engines = ("beam",) if self.quick else tuple(WORKERS)  # Spark's second job would be nothing but startup
        self.add("Scaling: `clipmill embed`, demo model", scaling_table(self._jobs, engines, self._counts))
        self._keep_jobs()

    def _keep_jobs(self) -> None:
        self.raw["jobs"] = [{**job._asdict(), **found._asdict()} for job, found in self._jobs.found.items()]

    def rank(self) -> None:
        """Rank queries and their candidates."""
        self.place.stop_spark()  # the ranking starts and stops its own session
        self.raw["rank"] = measure_all(self.place.home, self.place.weights, quick=self.quick)
        for heading, lines in rank_tables(self.raw["rank"], quick=self.quick):
            self.add(heading, lines)
        if not self.quick:
            self.raw["rank memory"] = measure_rank_memory(1_000, self.place.home)
            self.add("Memory: `clipmill rank`, demo model", rank_memory_table(self.raw["rank memory"]))

    def recall(self) -> None:
        """Compare the neighbours by reduced precision."""
        pictures, queries = (1_000, 100) if self.quick else (20_000, 1_000)
        found = self.raw["recall"] = measure_recall(pictures, queries)
        self.add("Recall: demo model, drawn pictures", recall_table(found, pictures, queries))

    def index(self) -> None:
        """Build and search an index."""
        self.place.stop_spark()  # leaves the machine's memory and cores to the index
        self.raw["index"] = measure_index(self.place.home, quick=self.quick)
        for heading, lines in index_tables(self.raw["index"]):
            self.add(heading, lines)

    def profiles(self) -> None:
        """Profile the overhead."""
        rows = 5_000 if self.quick else 50_000
        self.raw["profiles"] = profile_overhead(self.place, rows)
        for name, text in self.raw["profiles"].items():
            self.add(f"Where the time goes: {name}, {rows:,} rows", ["```", text, "```"])

    def ratios(self) -> None:
        """Add the ratios of the parts that were measured."""
        lines = goal_table(self.raw)
        if len(lines) > 2:
            self.add("Ratios", lines)


def _rounds(size: Size) -> str:
    return f"median of {size.rounds} round{'s' if size.rounds > 1 else ''} of {size.slow} to {size.fast:,} rows"


PARTS: dict[str, Callable[[Bench], None]] = {
    "speed": Bench.speed,
    "big": Bench.big,
    "texts": Bench.texts,
    "overhead": Bench.overhead,
    "first": Bench.first,
    "memory": Bench.memory,
    "scaling": Bench.scaling,
    "rank": Bench.rank,
    "recall": Bench.recall,
    "index": Bench.index,
}


@click.command()
@click.option("--quick", is_flag=True, help="Under 5 minutes on two idle cores: fewer rows and rounds; rates waver.")
@click.option("--only", type=click.Choice(list(PARTS)), multiple=True, help="This part alone; may be repeated.")
@click.option("--profile", is_flag=True, help="Also print which functions take the time around a model.")
@click.option("--output", default="bench-output", show_default=True, help="Where the tables and the figures go.")
@click.option("--work", help="A folder for weights, graphs and pictures that the next run uses again; else temporary.")
def main(quick: bool, only: tuple[str, ...], profile: bool, output: str, work: str | None) -> None:
    """Measure, print and write."""
    target = Path(output)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(work or temporary).absolute()
        home.mkdir(parents=True, exist_ok=True)
        os.environ["CLIPMILL_CACHE"] = str(home / "cache")  # workers and commands inherit it
        place = Workplace(home)
        bench = Bench(place, quick=quick)
        bench.raw |= {"machine": examine(), "described": machine(), "seconds": {}}
        try:
            for name in only or PARTS:
                started = time.perf_counter()
                PARTS[name](bench)
                bench.raw["seconds"][name] = time.perf_counter() - started
                click.echo(f"{name} took {bench.raw['seconds'][name]:.0f} s", err=True)
            bench.ratios()
            if profile:
                bench.profiles()
        finally:
            place.stop_spark()
            # keep what was measured, also after an error
            (target / "benchmarks.json").write_text(json.dumps(bench.raw, indent=1))
            (target / "benchmarks.md").write_text("\n".join(bench.lines))
    click.echo("\n".join(bench.lines))


if __name__ == "__main__":
    main()
