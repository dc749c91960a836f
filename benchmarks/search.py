"""Queries per second against 100,000 vectors of 512 values: directly, with Beam and with Spark.

    python benchmarks/search.py [--queries 10000] [--rows 100000] [--engine local|beam|spark]… [--work DIR]

Vectors are clustered random ones, drawn from a seed. Each engine is measured once in this process, when it is warm: the
index is open, and on Spark a first job has started the workers.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions
from workplace import machine

from clipmill.indexes import open_index
from clipmill.indexes.build import IndexOptions, build_index
from clipmill.indexes.exact import exact_top_k
from clipmill.indexes.targets import find_target
from clipmill.transforms import Search

DIM, TOP_K, CLUSTERS, PARTS = 512, 10, 1000, 10


def vectors(rows: int, seed: int) -> np.ndarray:
    """Return (rows, 512) float32 around 1,000 centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, DIM), np.float32)
    return centres[rng.integers(CLUSTERS, size=rows)] + 0.6 * rng.standard_normal((rows, DIM), np.float32)


def write(folder: Path, found: np.ndarray, name: str) -> str:
    """Write vectors as Parquet, with ids."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, some in enumerate(np.array_split(found, PARTS)):
        ids = [f"{part}-{number}" for number in range(len(some))]
        lists = pa.FixedSizeListArray.from_arrays(pa.array(some.reshape(-1)), DIM).cast(pa.list_(pa.float32()))
        pq.write_table(pa.table({"id": ids, name: lists}), folder / f"part-{part}.parquet")
    return str(folder)


def through_beam(index: str, queries: np.ndarray) -> None:
    """Search for rows that are already in memory as arrays."""
    rows = [{"id": number, "q": query} for number, query in enumerate(queries)]
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as p:
        found = p | beam.Create(rows) | Search(index, query="q", query_kind="vector", top_k=TOP_K)
        _ = found.rows | beam.Map(lambda row: len(row["hits"])) | beam.CombineGlobally(sum)


def through_nothing(queries: np.ndarray) -> None:
    """Run the pipeline of `through_beam` without the search, to time the runner alone."""
    rows = [{"id": number, "q": query} for number, query in enumerate(queries)]
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as p:
        _ = p | beam.Create(rows) | beam.Map(lambda row: len(row["q"])) | beam.CombineGlobally(sum)


def spark_search(index: str, parquet: str) -> Callable[[], None]:
    """Return a function that searches for the rows of files and discards the result."""
    from pyspark.sql import SparkSession

    from clipmill.udfs import search

    builder = SparkSession.builder.master("local[2]").config("spark.driver.memory", "2g")
    spark = builder.config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    df = spark.read.parquet(parquet)
    found = df.select("id", search("q", index=index, query_kind="vector", top_k=TOP_K))
    return lambda: found.write.format("noop").mode("overwrite").save()


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@click.command()
@click.option("--queries", default=10_000)
@click.option("--rows", default=100_000)
@click.option("--engine", "engines", multiple=True, default=("local", "beam", "spark"))
@click.option("--work", type=click.Path(path_type=Path), default=None)
def main(queries: int, rows: int, engines: tuple[str, ...], work: Path | None) -> None:
    """Measure and print the rates."""
    home = work or Path(tempfile.mkdtemp(prefix="clipmill-search-"))
    corpus, query_vectors = vectors(rows, 1), vectors(queries, 2)
    dataset = write(home / "vectors", corpus, "embedding")
    parquet = write(home / "queries", query_vectors, "q")
    places = {"dataset": dataset}
    for name, factory in (("exact index", "Flat"), ("planned index", None)):
        places[name] = str(home / name.replace(" ", "-"))
        if not os.path.exists(places[name]):
            build_index([dataset], places[name], IndexOptions(factory=factory, max_memory_bytes=500 * 10**6))
    print(f"On {machine()}; load {os.getloadavg()[0]:.1f}; {queries:,} queries, {rows:,} x {DIM}, top {TOP_K}")
    if "local" in engines:
        print("exact_top_k, units made too", round(timed(lambda: exact_top_k(query_vectors, corpus, TOP_K)), 2), "s")
        for name, place in places.items():
            opened = find_target(place).open()
            opened.search(query_vectors[:10], TOP_K)
            seconds = timed(lambda opened=opened: opened.search(query_vectors, TOP_K))
            print(f"directly, {name}: {seconds:.2f} s, {queries / seconds:,.0f} queries/s")
        index = open_index(places["planned index"])
        print(
            "planned:", index.manifest.kind, index.manifest.factory, index.manifest.search, index.manifest.recall.recall
        )
    for engine in ("beam", "spark"):
        if engine not in engines:
            continue
        if engine == "beam":
            print(f"the runner alone: {timed(lambda: through_nothing(query_vectors)):.2f} s")
        for name, place in places.items():
            run = (
                spark_search(place, parquet)
                if engine == "spark"
                else lambda place=place: through_beam(place, query_vectors)
            )
            if engine == "spark":
                run()
            seconds = timed(run)
            print(f"{engine}, {name}: {seconds:.2f} s, {queries / seconds:,.0f} queries/s")


if __name__ == "__main__":
    main()
