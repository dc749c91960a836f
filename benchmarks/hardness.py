"""Compare a job of the hardest rows with the same job on easy ones: is anything lost, and is memory bounded?

    python benchmarks/hardness.py [--rows 50000] [--engine beam|spark] [--output DIR]

Icons, 12-megapixel photos, broken files, texts of 10,000 words, nulls and empty values go through one bundle of Beam
and one task of Spark, with the demo model and without the cache; then as many small images with captions do. Every row
is looked up by its id. It must come out once, and each of its values must be the vector that the core makes of the same
content, null, or the expected failure. The peak memory of all processes together may be 1.3 times that of the easy job
plus the budget of pixels in flight.
"""

from __future__ import annotations

import collections
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from hard_jobs import COLUMNS, OPTIONS
from hard_rows import Contents, contents_of, row_kinds, write_rows

from clipmill.encoders import EncoderSpec, Failure, load_encoder
from clipmill.threads import allowed_cpus

ALLOWED_RATIO = 1.3
BYTES_PER_PIXEL = 3
_SECONDS_BETWEEN_SAMPLES = 0.05
_BATCH_ROWS = 500


class Peaks(NamedTuple):
    """Memory and time of a job.

    Attributes:
        total: Peak bytes of all its processes together.
        python: Peak bytes of all its processes except Java's.
        seconds: Seconds of the whole command.
    """

    total: int
    python: int
    seconds: float


def measure(engine: str, source: Path, target: Path) -> Peaks:
    """Run a job in its own process and watch the memory of all processes that it starts."""
    command = [sys.executable, str(Path(__file__).with_name("hard_jobs.py")), engine, str(source), str(target)]
    started = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    total = python = 0
    while process.poll() is None:
        java = others = 0
        for member in _family(process):
            try:
                held = member.memory_info().rss
                java, others = (java + held, others) if member.name() == "java" else (java, others + held)
            except psutil.NoSuchProcess:
                continue
        total, python = max(total, java + others), max(python, others)
        time.sleep(_SECONDS_BETWEEN_SAMPLES)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return Peaks(total, python, time.perf_counter() - started)


def _family(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


# --- checking the output ---------------------------------------------------------------------------------------------


def check(engine: str, target: Path, rows: int, contents: Contents) -> dict[str, int]:
    """Look up every row.

    Args:
        engine: The engine that wrote the files.
        target: The directory of the files.
        rows: The number of input rows, each named by its number.
        contents: The contents of each kind of row.

    Returns:
        The number of values by outcome: `vector`, `null`, or a failure code.

    Raises:
        RuntimeError: If rows are missing, occur twice or are wrong, with the first of them.
    """
    expected = _expected(contents)
    failures = _failures_of_beam(target) if engine == "beam" else {}
    seen: collections.Counter[str] = collections.Counter()
    met: collections.Counter[int] = collections.Counter()
    wrong: list[str] = []

    def check_row(number: int, vectors: dict[str, np.ndarray | None], codes: dict[str, str], cut: bool) -> None:
        met[number] += 1
        kinds = row_kinds(contents.name, number)
        for column, (kind, variant) in kinds.items():
            problem, outcome = _compare(expected[column, kind, variant], vectors[column], codes.get(column))
            seen[outcome] += 1
            if problem:
                wrong.append(f"row {number}, {column} ({kind}): {problem}")
        if cut != (kinds["caption"][0] == "long"):
            wrong.append(f"row {number}: caption_cut is {cut}")

    written = set()
    for batch in _written(target):
        matrices = {column: _matrix(batch.column(f"{column}_embedding")) for column in COLUMNS}
        row_failures = batch.column("embedding_failures").to_pylist() if engine == "spark" else None
        ids, cuts = batch.column("id").to_pylist(), batch.column("caption_cut").to_pylist()
        for place, name in enumerate(ids):
            if row_failures is None:
                codes = failures.get(name, {})
            else:
                codes = {failure["column"]: failure["code"] for failure in row_failures[place] or ()}
            written.add(name)
            check_row(int(name), {column: matrices[column][place] for column in COLUMNS}, codes, cuts[place])
    for name in failures.keys() - written:  # rows without any vector
        check_row(int(name), dict.fromkeys(COLUMNS), failures[name], cut=False)
    wrong += [f"row {number} came out {met[number]} times" for number in range(rows) if met[number] != 1]
    if wrong or len(met) != rows:
        raise RuntimeError(f"{engine}: {len(wrong)} values are wrong: {'; '.join(wrong[:5])}")
    return dict(sorted(seen.items()))


def _expected(contents: Contents) -> dict[tuple[str, str, int], Any]:
    """Return the expected outcome of every content, embedded alone by the core: a vector, None, or the known code."""
    found: dict[tuple[str, str, int], Any] = {}
    encoder = load_encoder("demo", **OPTIONS, max_batch_rows=1)
    for (column, kind), (variants, code) in contents.kinds.items():
        outcomes = encoder.embed(COLUMNS[column].modality, variants)
        for variant, outcome in enumerate(outcomes):
            if (str(outcome.code) if isinstance(outcome, Failure) else None) != code:
                raise RuntimeError(f"{column} of kind {kind!r} should give {code}, and gives {outcome}")
            found[column, kind, variant] = code or (None if outcome is None else outcome.values)
    return found


def _compare(expected: Any, vector: np.ndarray | None, code: str | None) -> tuple[str | None, str]:
    """Return what is wrong with a value (None if nothing is), and its outcome."""
    outcome = code or ("null" if vector is None else "vector")
    if expected is None or isinstance(expected, str):
        return (None if outcome == (expected or "null") else f"expected {expected or 'null'}, got {outcome}"), outcome
    if vector is None or code:
        return f"expected a vector, got {outcome}", outcome
    error = float(np.linalg.norm(vector - expected) / np.linalg.norm(expected))
    return (None if error <= 1e-4 else f"another vector, relative error {error:.2g}"), outcome


def _matrix(column: pa.ListArray) -> list[np.ndarray | None]:
    return [scalar.values.to_numpy() if scalar.is_valid else None for scalar in column]


def _written(target: Path) -> Iterator[pa.RecordBatch]:
    for path in sorted(target.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=_BATCH_ROWS)


def _failures_of_beam(target: Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for path in (target / "_failures").glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            failure = json.loads(line)
            if failure["column"] in found.setdefault(failure["row"], {}):
                raise RuntimeError(f"row {failure['row']} failed twice for {failure['column']}")
            found[failure["row"]][failure["column"]] = failure["code"]
    return found


# --- the report -----------------------------------------------------------------------------------------------------


def budget_bytes() -> int:
    """Return the memory that pixels in flight may use, by the spec's own limit."""
    return BYTES_PER_PIXEL * EncoderSpec("demo").max_batch_pixels


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of the table."""
    mib, budget = 2**20, budget_bytes()
    lines = [
        f"Allowed: {ALLOWED_RATIO} times the easy job plus {budget / mib:.0f} MiB of pixels in flight.",
        "",
        "| engine | memory of | easy rows | hard rows | ratio | less the budget | allowed |",
        "|---|---|---|---|---|---|---|",
    ]
    for engine, jobs in found.items():
        for what, of in (("total", "all processes"), ("python", "Python's alone")):
            easy, hard = jobs["easy"][what], jobs["hard"][what]
            verdict = "yes" if hard <= ALLOWED_RATIO * easy + budget else "NO"
            lines.append(
                f"| {engine} | {of} | {easy / mib:,.0f} MiB | {hard / mib:,.0f} MiB | {hard / easy:.2f}"
                f" | {(hard - budget) / easy:.2f} | {verdict} |"
            )
    for engine, jobs in found.items():
        for name, job in jobs.items():
            counts = ", ".join(f"{count:,} {code}" for code, count in job["outcomes"].items())
            lines += ["", f"{engine}, {name} rows, {job['seconds']:.0f} s, nothing lost: {counts}"]
    return lines


@click.command()
@click.option("--rows", default=50_000, show_default=True, help="Rows of each job.")
@click.option("--engine", type=click.Choice(["beam", "spark"]), help="One engine alone.")
@click.option("--output", default="bench-output", show_default=True, help="Where the table and the figures go.")
def main(rows: int, engine: str | None, output: str) -> None:
    """Run both jobs on both engines, check every row, and compare peak memory."""
    found: dict[str, dict[str, Any]] = {}
    target = Path(output)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        for name in ("easy", "hard"):
            contents = contents_of(name)
            source = write_rows(Path(home) / f"{name}.parquet", rows, contents)
            click.echo(f"{name} rows: {source.stat().st_size / 2**20:,.0f} MiB", err=True)
            for one in (engine,) if engine else ("beam", "spark"):
                vectors = Path(home) / f"{name}-{one}"
                peaks = measure(one, source, vectors)
                click.echo(f"{one}, {name} rows: {peaks.total / 2**20:,.0f} MiB, {peaks.seconds:.0f} s", err=True)
                outcomes = check(one, vectors, rows, contents)
                found.setdefault(one, {})[name] = {**peaks._asdict(), "outcomes": outcomes}
            source.unlink()
    machine = f"{platform.processor() or platform.machine()}, {allowed_cpus()} cores allowed"
    lines = [f"{rows:,} rows a job, demo model in float32. {machine}", "", *table(found)]
    (target / "hardness.json").write_text(json.dumps(found, indent=1))
    (target / "hardness.md").write_text("\n".join(lines) + "\n")
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
