"""Long runs of what `make test` does in short: kills, hard rows, damaged inputs.

    python tools/soak.py                     # all rounds that are not done yet; hours on two cores
    python tools/soak.py kills-beam --rounds 3
    python tools/soak.py --seed 8 fuzz-tars

A soak consists of rounds. Each round is drawn from the seed, the soak's name and the round's number, so a failure can
be reproduced with the same name and seed. Finished rounds are kept under `build/soak/`, so an interrupted run continues
where it stopped. The table in docs/reliability.md gets the rows of what was run; see `soak_rounds`.
"""

from __future__ import annotations

import collections
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from soak_rounds import PAGE, ROOT, Figures, Soak, do_round, done_rounds, rewritten, rows_of, table

sys.path[:0] = [str(ROOT / "tests" / room) for room in ("support", "contracts")]
# Spark starts its workers with the first `python3` in PATH, which may belong to another environment.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)


def _kills(engine: str) -> Callable[[random.Random, Path], Figures]:
    def run(draw: random.Random, folder: Path) -> Figures:
        from kills import kill_again_and_again, write_inputs

        return kill_again_and_again(write_inputs(folder), engine, kills=5, moments=draw)

    return run


def _encoder_process_kills(draw: random.Random, folder: Path) -> Figures:
    from encoder_process_kills import kill_while_they_work

    return kill_while_they_work(draw, folder, kills=40)


def _push_kills(draw: random.Random, folder: Path) -> Figures:
    from push_kills import kill_pushes

    return kill_pushes(draw, folder, kills=60)


def _cluster_kills(draw: random.Random, folder: Path) -> Figures:
    from cluster_kills import KilledOnSpark, prepare
    from spark_cluster import running_cluster

    with running_cluster(folder / "cluster") as cluster:
        jobs = KilledOnSpark(cluster, prepare(folder), draw)
        jobs.embed(7)
        jobs.index(3)
    return jobs.done


def _cluster(what: str) -> Callable[[random.Random, Path], Figures]:
    def run(draw: random.Random, folder: Path) -> Figures:
        import cluster_jobs
        from spark_cluster import running_cluster

        checks = {
            "contracts": lambda cluster: cluster_jobs.check_contracts(cluster, folder, connect=False),
            "connect": lambda cluster: cluster_jobs.check_contracts(cluster, folder, connect=True),
            "jobs": lambda cluster: (
                cluster_jobs.check_settings(cluster, folder / "settings")
                + cluster_jobs.check_packages(cluster, folder / "packages")
            ),
        }
        with running_cluster(folder / "cluster") as cluster:
            return checks[what](cluster)

    return run


def _prism_kills(draw: random.Random, folder: Path) -> Figures:
    from cluster_kills import KilledOnPrism, prepare
    from prism import PrismCluster

    with PrismCluster(folder) as cluster:
        jobs = KilledOnPrism(cluster, prepare(folder), draw)
        jobs.embed(7)
        jobs.index(3)
    return jobs.done


def _staged_package(draw: random.Random, folder: Path) -> Figures:
    from staged_package import embed_with_staged_package

    return embed_with_staged_package(folder)


def _retries(draw: random.Random, folder: Path) -> Figures:
    from retried_jobs import SCENARIOS, run_drawn

    counts: collections.Counter[str] = collections.Counter()
    for name in SCENARIOS:
        counts += run_drawn(name, draw, folder, times=20)
        counts["schedules"] += 20
    return counts


def _patched(name: str, function: str, *given: Any, times: int = 1, **options: Any) -> Callable[..., Figures]:
    """Return a round that calls a function of a module in tests/support so many times, each in a folder of its own."""

    def run(draw: random.Random, folder: Path) -> Figures:
        import importlib

        import pytest

        check = getattr(importlib.import_module(name), function)
        counts: collections.Counter[str] = collections.Counter()
        for number in range(times):
            place = folder / str(number)
            place.mkdir()
            with pytest.MonkeyPatch.context() as patch:
                counts.update(check(draw, place, *given, monkeypatch=patch, **options))
            shutil.rmtree(place)
        return counts

    return run


def _directories(name: str, function: str, *, times: int, in_store: bool = False) -> Callable[..., Figures]:
    """Return a round of checks of a directory: in turn in memory and on the local disk, or each on an object store."""

    def run(draw: random.Random, folder: Path) -> Figures:
        import importlib

        import pytest
        from store_jobs import on_store

        check = getattr(importlib.import_module(name), function)
        counts: collections.Counter[str] = collections.Counter()
        for number in range(times):
            place = folder / str(number)
            directory = str(place / "out") if number % 2 else f"memory://{draw.random()}/out"
            with pytest.MonkeyPatch.context() as patch:
                counts.update(on_store(check, draw, place, patch) if in_store else check(draw, place, directory, patch))
        return counts

    return run


def _two_drivers(draw: random.Random, folder: Path) -> Figures:
    """Draw pairs of drivers in this process, and start pairs of commands."""
    from store_commands import two_commands

    counts = collections.Counter(_directories("two_drivers", "check_two_drivers", times=40)(draw, folder))
    for engine in ("beam", "spark"):
        (folder / engine).mkdir()
        counts.update(two_commands(draw, folder / engine, engine))
    return counts


def _fuzz(kind: str, count: int) -> Callable[[random.Random, Path], Figures]:
    def run(draw: random.Random, folder: Path) -> Figures:
        from fuzzing import FUZZERS

        return FUZZERS[kind](draw, count, folder)

    return run


def _fuzz_untrusted(kind: str, count: int) -> Callable[[random.Random, Path], Figures]:
    def run(draw: random.Random, folder: Path) -> Figures:
        from untrusted_files import UNTRUSTED

        return UNTRUSTED[kind](draw, count, folder)

    return run


def _reader_time(draw: random.Random, folder: Path) -> Figures:
    from broken_inputs import time_readers

    return time_readers(draw, folder)


def _expansion(draw: random.Random, folder: Path) -> Figures:
    from expanding_inputs import check_peaks

    return check_peaks(folder)


def _hard_rows(engine: str) -> Callable[[random.Random, Path], Figures]:
    def run(draw: random.Random, folder: Path) -> Figures:
        command = [
            sys.executable,
            str(ROOT / "benchmarks" / "hardness.py"),
            "--engine",
            engine,
            "--output",
            str(folder),
        ]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        found = json.loads((folder / "hardness.json").read_text())[engine]["hard"]
        return {"peak MiB": found["total"] // 2**20, **found["outcomes"]}

    return run


def _decode_time(what: str) -> Callable[[random.Random, Path], Figures]:
    def run(draw: random.Random, folder: Path) -> Figures:
        import decode_time

        return getattr(decode_time, f"measure_{what}")(draw, folder)

    return run


def _drawn_types(engine: str) -> Callable[[random.Random, Path], Figures]:
    def run(draw: random.Random, folder: Path) -> Figures:
        import pyarrow as pa
        from arrow_types import Tagged
        from carried_jobs import ENGINES, carry

        pa.register_extension_type(Tagged(pa.string(), ""))
        try:
            return carry(draw, folder / "job", ENGINES[engine], columns=60)
        finally:
            pa.unregister_extension_type(Tagged(pa.string(), "").extension_name)

    return run


def _spark_types(draw: random.Random, folder: Path) -> Figures:
    from spark_session import open_session
    from spark_types import assert_carried, drawn_expression

    spark = open_session()
    spark.conf.set("spark.sql.timeType.enabled", "true")
    expressions = [drawn_expression(draw, draw.randint(1, 4)) for _ in range(100)]
    assert_carried(spark, expressions)
    return {"columns": len(expressions)}


SOAKS = {
    "kills-beam": Soak("a job on Beam, killed at random moments and resumed", 4, _kills("beam")),
    "kills-spark": Soak("the same on Spark", 4, _kills("spark")),
    "kills-cluster-spark": Soak(
        "jobs and indexes on a standalone cluster of Spark, killed likewise", 4, _cluster_kills
    ),
    "cluster-spark": Soak("the tests of Spark's functions, on a standalone cluster", 1, _cluster("contracts")),
    "cluster-connect": Soak("those that hold on Spark Connect, with a server on the cluster", 1, _cluster("connect")),
    "cluster-jobs": Soak("jobs under an operator's settings, and with the package sent along", 1, _cluster("jobs")),
    "kills-prism": Soak(
        "jobs and indexes of Beam on Prism with a pool of workers: worker, pool, job server or driver is killed",
        4,
        _prism_kills,
    ),
    "kills-encoder-process": Soak(
        "three workers with one encoder process: it is killed, or one of them", 1, _encoder_process_kills
    ),
    "kills-push": Soak(
        "`clipmill push` into LanceDB, Qdrant's local mode, PostgreSQL and Milvus Lite, killed and run again",
        4,
        _push_kills,
    ),
    "faults-store": Soak(
        "jobs and indexes on an object store that fails and lists what is old, without the driver's retries",
        4,
        _patched("store_jobs", "job_with_faults", rows=14, share=0.03, stale_s=1.0),
    ),
    "faults-store-beam": Soak(
        "commands on Beam on an object store that fails", 2, _patched("store_commands", "command_with_faults", "beam")
    ),
    "faults-store-spark": Soak("the same on Spark", 2, _patched("store_commands", "command_with_faults", "spark")),
    "clock-skew": Soak(
        "jobs of hosts whose clocks are hours apart", 2, _patched("skewed_clocks", "check_skewed_clocks", times=20)
    ),
    "two-drivers": Soak("two drivers that start in one directory at once", 4, _two_drivers),
    "two-drivers-store": Soak(
        "the same on an object store", 4, _directories("two_drivers", "check_two_drivers", times=40, in_store=True)
    ),
    "orphans": Soak(
        "workers of a dead driver beside the job that goes on", 4, _directories("orphans", "check_orphan", times=80)
    ),
    "orphans-store": Soak(
        "the same on an object store", 4, _directories("orphans", "check_orphan", times=40, in_store=True)
    ),
    "setup-file-prism": Soak("a job on Prism whose workers install the staged package", 1, _staged_package),
    "retries-beam": Soak("bundles of Beam that fail, die, run twice and lose their outputs", 5, _retries),
    "hard-rows-beam": Soak("50,000 hard rows in one bundle of Beam", 1, _hard_rows("beam")),
    "hard-rows-spark": Soak("50,000 hard rows in one task of Spark", 1, _hard_rows("spark")),
    "types-beam": Soak("columns of drawn types through jobs of every plan and format on Beam", 5, _drawn_types("beam")),
    "types-spark": Soak("the same on Spark", 5, _drawn_types("spark")),
    "types-frames": Soak("columns of drawn types of Spark through every function", 5, _spark_types),
    "fuzz-images": Soak("damaged pictures, embedded", 5, _fuzz("images", 4000)),
    "fuzz-audio": Soak("damaged audio, embedded", 5, _fuzz("audio", 4000)),
    "fuzz-texts": Soak("odd texts, embedded", 5, _fuzz("texts", 4000)),
    "fuzz-tars": Soak("damaged archives, read", 5, _fuzz("tars", 1000)),
    "fuzz-lines": Soak("damaged JSON lines, read", 5, _fuzz("lines", 4000)),
    "fuzz-hosts": Soak("hosts that are not public, in odd spellings", 5, _fuzz("hosts", 20_000)),
    "fuzz-http": Soak("damaged answers of a web server", 5, _fuzz("http", 4000)),
    "fuzz-archives": Soak("damaged TorchScript archives, read", 3, _fuzz_untrusted("archives", 4000)),
    "fuzz-exports": Soak("odd and damaged manifests of exported models", 3, _fuzz_untrusted("exports", 4000)),
    "fuzz-tokenizers": Soak("odd and damaged tokenizer.json", 3, _fuzz_untrusted("tokenizers", 10_000)),
    "fuzz-indexes": Soak(
        "odd manifests, damaged vectors and keys of indexes, searched", 3, _fuzz_untrusted("indexes", 2000)
    ),
    "fuzz-index-files": Soak(
        "Faiss files with a changed byte, searched in other processes", 3, _fuzz_untrusted("index-files", 4000)
    ),
    "decode-time": Soak("files that repeat one part, of 0.5, 1 and 2 MiB", 2, _decode_time("repeated_parts")),
    "decode-time-damaged": Soak("damaged images, CPU time of each", 5, _decode_time("damaged")),
    "expansion": Soak("small inputs that may take gigabytes, read", 1, _expansion),
    "reader-time": Soak("broken inputs of growing size, read in linear time", 1, _reader_time),
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(SOAKS)), metavar="[SOAK]...")
@click.option("--seed", default=1, show_default=True)
@click.option("--rounds", default=None, type=int, help="Rounds of each soak, instead of its default number.")
@click.option("--list", "listed", is_flag=True, help="Print the soaks and stop.")
def main(names: tuple[str, ...], seed: int, rounds: int | None, listed: bool) -> None:
    """Run the rounds of the named soaks, or of all, that are not done yet."""
    if listed:
        for name, soak in SOAKS.items():
            click.echo(f"{name:16s} {soak.rounds} rounds: {soak.what}")
        return
    done = done_rounds(seed)
    for name in names or SOAKS:
        for number in range(SOAKS[name].rounds if rounds is None else rounds):
            if any((one["soak"], one["round"]) == (name, number) for one in done):
                continue
            click.echo(f"{name}, round {number}, seed {seed}")
            kept = do_round(name, SOAKS[name], number, seed)
            done.append(kept)
            click.echo(f"  {kept['seconds']} s: {kept['figures']}")
    page = rewritten(PAGE.read_text(encoding="utf-8"), seed, SOAKS, names or SOAKS, done)
    if page is not None:
        PAGE.write_text(page, encoding="utf-8")
    else:
        click.echo(table(seed, list(rows_of(SOAKS, done).values())))


if __name__ == "__main__":
    main()
