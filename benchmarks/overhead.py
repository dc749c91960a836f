"""Overhead around a model, measured with the fake encoder (512 values, short texts), and profiles of it."""

from __future__ import annotations

import contextlib
import io
import pstats
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator
from cProfile import Profile
from pathlib import Path

from ours import core, embed_fn, on_beam, on_spark
from turns import Contender, Rates, take_turns
from workload import captions
from workplace import Workplace

from clipmill.encoders import EncoderSpec

SPEC = EncoderSpec("fake::dim=512", max_cache_bytes=0)
_TOP = 25
"""The number of functions that a profile shows."""


def contenders(place: Workplace, rows: int) -> list[Contender]:
    """Return the fake encoder in the core, in Beam's `DoFn` alone, on Beam and on Spark."""
    texts = captions(rows)
    table = place.table("short-texts", texts)
    return [
        core("fake", SPEC, "text", texts),
        embed_fn("fake", SPEC, "text", texts),
        on_beam("fake", SPEC, "text", table, rows),
        on_spark("fake", SPEC, "text", *place.frames(table), rows),
    ]


def measure_overhead(place: Workplace, rows: int, rounds: int) -> Rates:
    """Return rows per second on each engine."""
    return take_turns(contenders(place, rows), rounds)


def overhead_table(rates: Rates) -> list[str]:
    """Return the lines of the table, with microseconds per row."""
    lines = ["| way | rows/s | µs a row |", "|---|---|---|"]
    for name, values in rates.items():
        rate = statistics.median(values)
        lines.append(f"| {name} | {rate:,.0f} | {1e6 / rate:.1f} |")
    return lines


def profile_overhead(place: Workplace, rows: int) -> dict[str, str]:
    """Return the slowest functions by engine. The profile of Spark covers one of its Python workers."""
    found = {}
    for contender in contenders(place, rows):
        contender.run()
        if contender.name.startswith("Spark"):
            found[contender.name] = _spark_profile(place, contender.run)
        else:
            found[contender.name] = _top(profiled(contender.run))
    return found


def profiled(run: Callable[[], object]) -> pstats.Stats:
    """Run a function and return the profile of this thread and of the threads that it starts.

    A profile belongs to one thread; each new thread gets its own when its first function is called. Threads that
    outlive this call continue to be profiled, so call it only when no more timing follows.
    """
    profiles: list[Profile] = []

    def start(*_: object) -> None:
        profile = Profile()
        with contextlib.suppress(ValueError):  # from Python 3.12 on, the first profile covers all threads
            profile.enable()
            profiles.append(profile)

    with _profiling_new_threads(start):
        own = Profile()
        own.runcall(run)
    stats = pstats.Stats(own)
    for profile in profiles:
        profile.create_stats()
        if profile.stats:  # type: ignore[attr-defined]  # made by create_stats
            stats.add(profile)
    return stats


@contextlib.contextmanager
def _profiling_new_threads(start: Callable[..., None]) -> Iterator[None]:
    threading.setprofile(start)
    try:
        yield
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]  # as the library's documentation allows


def _spark_profile(place: Workplace, run: Callable[[], object]) -> str:
    """Profile with Spark's own profiler of Python workers, summed over the workers."""
    place.spark.conf.set("spark.sql.pyspark.udf.profiler", "perf")
    place.spark.profile.clear()
    try:
        run()
        with tempfile.TemporaryDirectory() as folder:
            place.spark.profile.dump(folder)
            files = [str(path) for path in Path(folder).glob("*.pstats")]
            if not files:
                raise RuntimeError("Spark kept no profile: its UDF profiler does not support this kind of function")
            return _top(pstats.Stats(*files))
    finally:
        place.spark.conf.unset("spark.sql.pyspark.udf.profiler")


def _top(stats: pstats.Stats) -> str:
    """Return the functions with the most time of their own, one per line."""
    text = io.StringIO()
    stats.stream = text  # type: ignore[attr-defined]  # where it prints to
    stats.sort_stats("tottime").print_stats(_TOP)
    kept = [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]
    return "\n".join(line.replace(str(Path(__file__).parents[1]), "") for line in kept)
