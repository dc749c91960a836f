"""Building and searching an index: time, memory and recall, compared with plain Faiss and with more rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_DIM = 512
_CLUSTERS = 1_000
_ROWS_OF_PART = 62_500
_ROWS_OF_GROUP = 1_024
_QUERIES = 1_000
_MEMORY = "2GB"
_SECONDS_BETWEEN_LOOKS = 0.02


class Ran(NamedTuple):
    """Time, memory and output of a process.

    Attributes:
        seconds: From its start to its end.
        peak_bytes: Its peak resident memory, including mapped pages (`VmHWM`).
        printed: The JSON that it printed.
    """

    seconds: float
    peak_bytes: int
    printed: dict[str, Any]


def write_vectors(folder: Path, rows: int) -> Path:
    """Write clustered random vectors as Parquet, unless they exist. Only one part is held in memory at a time.

    Vectors are drawn around 1,000 random centres, as far from their centre as the centres are from zero: two vectors of
    one centre have a cosine of about 0.5, two of different centres about 0.
    """
    if (folder / "_done").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    centres = np.random.default_rng(0).standard_normal((_CLUSTERS, _DIM), np.float32)
    for part, first in enumerate(range(0, rows, _ROWS_OF_PART)):
        count = min(_ROWS_OF_PART, rows - first)
        vectors = _around(centres, count, seed=1 + part)
        offsets = pa.array(np.arange(0, (count + 1) * _DIM, _DIM, dtype=np.int32))
        table = pa.table(
            {
                "id": pa.array([f"{number:08d}" for number in range(first, first + count)]),
                "uri": pa.array([f"/photos/{number:08d}.jpg" for number in range(first, first + count)]),
                "embedding": pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1))),
            }
        )
        pq.write_table(table, folder / f"part-{part:05d}.parquet", row_group_size=_ROWS_OF_GROUP)
    (folder / "_done").touch()
    return folder


def _around(centres: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, _DIM), np.float32)
    vectors += centres[rng.integers(_CLUSTERS, size=count)]
    return vectors


def new_queries(count: int = _QUERIES) -> np.ndarray:
    """Return vectors around the same centres that are in no dataset, (count, dim) float32 of length 1."""
    centres = np.random.default_rng(0).standard_normal((_CLUSTERS, _DIM), np.float32)
    queries = _around(centres, count, seed=10**6)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def run(command: Sequence[str], **environment: str) -> Ran:
    """Run a command that prints JSON.

    For a child, `getrusage` reports at least the memory that its parent held at its start. Therefore the system's own
    peak of the process is read while it runs.

    Raises:
        RuntimeError: If the exit code is not 0.
    """
    with tempfile.TemporaryFile("w+") as printed:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=printed, env={**os.environ, **environment})
        peak = 0
        while process.poll() is None:
            peak = max(peak, _peak_of(process.pid))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        printed.seek(0)
        return Ran(seconds, peak, json.load(printed))


def _peak_of(pid: int) -> int:
    """Return the peak resident bytes of a process so far, including mapped pages; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def build(home: Path, rows: int, factory: str | None = None, *, memory: str = _MEMORY) -> Ran:
    """Run `clipmill index` on the given number of rows."""
    dataset = write_vectors(home / f"vectors-{rows}", rows)
    output = _place(home, rows, factory)
    command = [sys.executable, "-m", "clipmill", "index", str(dataset), "--output", str(output), "--overwrite"]
    command += ["--max-memory", memory, "--json", *(["--factory", factory] if factory else [])]
    return run(command)


def _place(home: Path, rows: int, factory: str | None) -> Path:
    return home / f"index-{rows}-{(factory or 'planned').replace(',', '-')}"


def _plain(home: Path, rows: int, factory: str, train_rows: int, nprobe: int) -> Ran:
    arguments = [str(home / f"vectors-{rows}"), factory, str(train_rows), str(nprobe), str(home / "plain.faiss")]
    return run([sys.executable, __file__, "plain", *arguments])


def measure_index(home: Path, *, quick: bool) -> dict[str, Any]:
    """Build an index, search it, do the same with plain Faiss, and measure how building grows with the rows."""
    rows = 20_000 if quick else 1_000_000
    fixed_factory = _lists_of(rows) if quick else None  # clipmill would plan a graph for so few rows
    ours = build(home, rows, fixed_factory)
    factory, plan = ours.printed["factory"], ours.printed["plan"]
    searched = run([sys.executable, __file__, "search", str(_place(home, rows, fixed_factory))])
    plain = _plain(home, rows, factory, plan["train_rows"], ours.printed["search"]["nprobe"] or 1)
    found: dict[str, Any] = {
        "rows": rows,
        "build": ours._asdict(),
        "search": searched._asdict(),
        "plain": plain._asdict(),
        "scaling": [],
    }
    few = rows // 10
    for kind, small, large, factories in (
        ("exact", few, rows, ("Flat", "Flat")),
        ("inverted lists", few, rows, (_lists_of(few), _lists_of(rows))),
        ("graph", few // 10, few, ("HNSW32,SQ8", "HNSW32,SQ8")),
    ):
        smaller = build(home, small, factories[0])
        larger = ours if (large, factories[1]) == (rows, factory) else build(home, large, factories[1])
        runs = [smaller._asdict(), larger._asdict()]
        found["scaling"].append({"kind": kind, "rows": [small, large], "factories": factories, "runs": runs})
    return found


def _lists_of(rows: int) -> str:
    return f"IVF{round(2 * rows**0.5 / 8) * 8},SQ8"


def index_tables(found: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Return headings and Markdown tables of the measurements."""
    build, search, plain = found["build"], found["search"], found["plain"]
    ours, theirs, hits = build["printed"], plain["printed"], search["printed"]
    rows = [
        "| | clipmill | Faiss alone |",
        "|---|---|---|",
        f"| build, s | {build['seconds']:.0f} | {theirs['build_seconds']:.0f} |",
        f"| peak resident memory to build, MB | {build['peak_bytes'] / 1e6:,.0f} | {plain['peak_bytes'] / 1e6:,.0f} |",
        f"| index of codes, MB | {ours['files']['index.faiss'] / 1e6:,.0f} | {theirs['bytes'] / 1e6:,.0f} |",
        f"| full vectors beside it, MB | {_vectors_bytes(ours) / 1e6:,.0f} | |",
        f"| recall@10, {_QUERIES:,} queries that are in no dataset | {hits['recall']:.4f} | {theirs['recall']:.4f} |",
        f"| queries per second, in one call | {hits['rate']:,.0f} | {theirs['rate']:,.0f} |",
        f"| queries per second, one by one | {hits['single_rate']:,.0f} | {theirs['single_rate']:,.0f} |",
        f"| peak resident memory to search, MB | {search['peak_bytes'] / 1e6:,.0f} | |",
    ]
    heading = f"Index: {found['rows']:,} × {_DIM}, {ours['factory']}, {_searched(ours)}, --max-memory {_MEMORY}"
    scaling = ["| | rows | time, s | ratio | peak memory, MB |", "|---|---|---|---|---|"]
    for one in found["scaling"]:
        few, many = one["runs"]
        scaling.append(
            f"| {one['kind']} ({' → '.join(dict.fromkeys(one['factories']))}) "
            f"| {one['rows'][0]:,} → {one['rows'][1]:,} | {few['seconds']:.1f} → {many['seconds']:.1f} "
            f"| {many['seconds'] / few['seconds']:.1f} "
            f"| {few['peak_bytes'] / 1e6:,.0f} → {many['peak_bytes'] / 1e6:,.0f} |"
        )
    return [(heading, rows), ("Index: ten times the rows, whole commands", scaling)]


def _vectors_bytes(manifest: dict[str, Any]) -> int:
    return sum(size for name, size in manifest["files"].items() if name.startswith("vectors/"))


def _searched(manifest: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in manifest["search"].items() if value is not None)


def _rates(search: Any, queries: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return positions, and queries per second in one call and one by one, after one call to warm up."""
    search(queries)
    started = time.perf_counter()
    positions = search(queries)
    rate = len(queries) / (time.perf_counter() - started)
    started = time.perf_counter()
    for number in range(100):
        search(queries[number : number + 1])
    return positions, rate, 100 / (time.perf_counter() - started)


def _share(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, true, strict=True)]))


@click.group()
def main() -> None:
    """Run what is measured in its own process."""


@main.command()
@click.argument("directory")
def search(directory: str) -> None:
    """Search an index with new queries."""
    from clipmill.indexes import open_index
    from clipmill.indexes.exact import nearest_of_blocks

    index = open_index(directory)
    queries = new_queries()
    positions, rate, single = _rates(lambda some: index.search(some, 10).positions, queries)
    true = nearest_of_blocks(queries, index.blocks(), 10).positions
    np.save(Path(directory).parent / "true.npy", true)
    click.echo(json.dumps({"recall": _share(positions, true), "rate": rate, "single_rate": single}))


@main.command()
@click.argument("dataset")
@click.argument("factory")
@click.argument("train_rows", type=int)
@click.argument("nprobe", type=int)
@click.argument("output")
def plain(dataset: str, factory: str, train_rows: int, nprobe: int, output: str) -> None:
    """Do the same with plain Faiss: load all vectors into memory, train, add, write, search."""
    import faiss
    import pyarrow.dataset

    started = time.perf_counter()
    column = pyarrow.dataset.dataset(dataset).to_table(columns=["embedding"])["embedding"]
    vectors = np.empty((len(column), _DIM), np.float32)
    first = 0
    for chunk in column.chunks:
        vectors[first : first + len(chunk)] = chunk.flatten().to_numpy().reshape(-1, _DIM)
        first += len(chunk)
    del column
    faiss.normalize_L2(vectors)
    index = faiss.index_factory(_DIM, factory, faiss.METRIC_L2)
    drawn = np.random.default_rng(0).choice(len(vectors), train_rows, replace=False)
    index.train(vectors[drawn])
    index.add(vectors)
    faiss.write_index(index, output)
    seconds = time.perf_counter() - started
    del vectors
    faiss.ParameterSpace().set_index_parameter(index, "nprobe", nprobe)
    positions, rate, single = _rates(lambda some: index.search(some, 10)[1], new_queries())
    true = np.load(Path(output).parent / "true.npy")
    figures = {"build_seconds": seconds, "bytes": os.path.getsize(output), "recall": _share(positions, true)}
    click.echo(json.dumps({**figures, "rate": rate, "single_rate": single}))


if __name__ == "__main__":
    main()
