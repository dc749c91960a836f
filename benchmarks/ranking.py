"""Ranking of queries and candidates, compared with a loop that encodes each query's document with all its matches."""

from __future__ import annotations

import dataclasses
import functools
import io
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import click
import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from apache_beam.options.pipeline_options import PipelineOptions
from memory import Watched, watch
from PIL import Image
from plain import BATCH
from pyspark.sql import SparkSession
from safetensors.torch import load_file
from workload import captions, drawings, photographs
from workplace import ARCHITECTURE, spark_session

from clipmill.encoders import EncoderSpec, Stats, load_encoder
from clipmill.encoders.plans.rank_plan import RankPlan
from clipmill.encoders.plans.row_values import get_by_path
from clipmill.encoders.plans.runner import PlanRunner
from clipmill.models import demo
from clipmill.threads import allowed_cpus
from clipmill.transforms import Rank
from clipmill.udfs import rank

CANDIDATES, DISTINCT = 100, 5_000
"""Candidates per query, and the number of distinct texts that they are drawn from."""

Row = dict[str, Any]


def workload(pictures: Sequence[bytes], distinct: int, seed: int = 0) -> list[Row]:
    """Return a row for each picture: the query and 100 texts."""
    rng = np.random.default_rng(seed)
    texts = captions(distinct)
    return [
        {"id": str(number), "q": picture, "c": [texts[n] for n in rng.choice(distinct, CANDIDATES, replace=False)]}
        for number, picture in enumerate(pictures)
    ]


def service_loop(rows: Sequence[Row], weights: Path | None) -> float:
    """Return the seconds of clip-as-service's method: encode a document and all its matches per query, 77 tokens each.

    Uses its arithmetic: torch float32, 32 rows per call, cosines and softmax per query. Loading is not timed.
    """
    name = f"local-dir:{Path(demo.__file__).parent}" if weights is None else ARCHITECTURE
    model, _, transform = open_clip.create_model_and_transforms(name, load_weights=weights is None)
    if weights is not None:
        model.load_state_dict(load_file(str(weights)))
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()
    torch.set_num_threads(allowed_cpus())
    started = time.perf_counter()
    with torch.inference_mode():
        for row in rows:
            query = model.encode_image(transform(Image.open(io.BytesIO(row["q"]))).unsqueeze(0))
            batches = [row["c"][first : first + BATCH] for first in range(0, len(row["c"]), BATCH)]
            matches = torch.cat([model.encode_text(tokenizer(batch)) for batch in batches])
            cosines = torch.nn.functional.cosine_similarity(query, matches)
            torch.softmax(100 * cosines, dim=0).argsort(descending=True).tolist()
    return time.perf_counter() - started


def on_core(rows: Sequence[Row], spec: EncoderSpec) -> float:
    """Return the seconds of the engine-free core."""
    encoder = load_encoder(spec)
    torch.set_num_threads(allowed_cpus())
    started = time.perf_counter()
    runner = PlanRunner(RankPlan("q", "c").checked(spec), encoder)
    with runner.session(Stats()) as session:
        for row in rows:
            session.push(None, functools.partial(get_by_path, row))
        session.flush()
    return time.perf_counter() - started


def on_beam(table: Path, spec: EncoderSpec) -> float:
    """Return the seconds of Beam's local runner with one worker and all cores, including pipeline construction."""
    load_encoder(spec)
    started = time.perf_counter()
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        ranked = pipeline | beam.io.ReadFromParquet(str(table)) | Rank(spec, query="q", candidates="c")
        _ = ranked.rows | beam.Map(lambda row: row["ranked"][0]["position"])
    return time.perf_counter() - started


def on_spark(table: Path, spec: EncoderSpec, spark: SparkSession) -> float:
    """Return the seconds of a Spark job with a one-core worker per core, each with its own cache."""
    frame = spark.read.parquet(str(table)).repartition(allowed_cpus())
    started = time.perf_counter()
    frame.select("id", rank("q", "c", model=spec)).write.format("noop").mode("overwrite").save()
    return time.perf_counter() - started


def measure_ranking(
    name: str, weights: Path | None, home: Path, *, queries: int, sample: int, distinct: int, rounds: int
) -> dict[str, list[float]]:
    """Return milliseconds per query by contender, one value per round; the contenders take turns.

    Args:
        name: The model's name.
        weights: Its weights file, or None for the demo model.
        home: The folder for the engines' table.
        queries: The number of queries that clipmill ranks.
        sample: The number of queries for the loop, whose cost per query is constant.
        distinct: The number of texts that the candidates are drawn from.
        rounds: The number of rounds after the one that warms up.
    """
    rows = workload(drawings(queries) if weights is None else photographs(queries), distinct)
    table = home / f"rank-{name.partition(':')[0]}.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table, row_group_size=64)
    spec = EncoderSpec(name, device="cpu")
    exact = {"runtime": "torch", "precision": "fp32"}
    found: dict[str, list[float]] = {}
    with spark_session() as spark:
        for number in range(rounds + 1):
            # a different cache size gives a new, empty cache over the same model
            spec = dataclasses.replace(spec, max_cache_bytes=spec.max_cache_bytes + 1)
            seconds = {
                "loop": service_loop(rows[:sample], weights) / sample,
                "core, torch fp32": on_core(rows, dataclasses.replace(spec, **exact)) / queries,
                "core, auto": on_core(rows, spec) / queries,
                "Beam, auto": on_beam(table, dataclasses.replace(spec, max_cache_bytes=2 * spec.max_cache_bytes))
                / queries,
                "Spark, auto": on_spark(table, spec, spark) / queries,
            }
            for way, took in seconds.items():
                click.echo(f"round {number}: {name}, {way}: {1000 * took:.2f} ms a query", err=True)
                if number:
                    found.setdefault(way, []).append(1000 * took)
    return found


def ranking_table(found: Mapping[str, list[float]]) -> list[str]:
    """Return the lines of the table: medians, and medians of each round's ratio to the loop."""
    lines = ["| way | ms a query | against the loop |", "|---|---|---|"]
    for way, times in found.items():
        ratio = statistics.median(loop / own for loop, own in zip(found["loop"], times, strict=True))
        lines.append(f"| {way} | {statistics.median(times):,.2f} | {ratio:,.1f} |")
    return lines


def measure_all(home: Path, weights: Path, *, quick: bool) -> dict[str, dict[str, list[float]]]:
    """Return the results of `measure_ranking` by model.

    Args:
        home: The folder for the engines' tables.
        weights: The weights file of the large model.
        quick: Measure only the demo model, with fewer queries and texts.
    """
    rounds = {"rounds": 1, "sample": 10} if quick else {"rounds": 3, "sample": 200}
    found = {"demo": measure_ranking("demo", None, home, **_sizes(quick), **rounds)}
    if not quick:
        name = f"{ARCHITECTURE}::{weights}"
        found[ARCHITECTURE] = measure_ranking(name, weights, home, **_sizes(quick), sample=10, rounds=2)
    return found


def rank_tables(found: Mapping[str, Mapping[str, list[float]]], *, quick: bool) -> list[tuple[str, list[str]]]:
    """Return headings and tables of the results of `measure_all`."""
    sizes = _sizes(quick)
    size = f"{sizes['queries']:,} pictures with {CANDIDATES} texts each out of {sizes['distinct']:,}"
    return [(f"Ranking: {name}, {size}", ranking_table(times)) for name, times in found.items()]


def _sizes(quick: bool) -> dict[str, int]:
    return {"queries": 100, "distinct": 500} if quick else {"queries": 1_000, "distinct": DISTINCT}


def measure_rank_memory(few: int, home: Path) -> dict[str, dict[int, Watched]]:
    """Return memory and time of `clipmill rank` by engine and queries, for `few` queries and ten times as many."""
    found: dict[str, dict[int, Watched]] = {"beam": {}, "spark": {}}
    pictures = drawings(500)
    for count in (few, 10 * few):
        rows = workload([pictures[n % len(pictures)] for n in range(count)], DISTINCT)
        pq.write_table(pa.Table.from_pylist(rows), home / f"rank-{count}.parquet", row_group_size=64)
    for engine, by_count in found.items():
        for count in (few, 10 * few):
            command = [
                sys.executable,
                "-m",
                "clipmill",
                "rank",
                str(home / f"rank-{count}.parquet"),
                "--engine",
                engine,
            ]
            command += ["--query-column", "q", "--candidates-column", "c", "--drop", "q", "--drop", "c"]
            # shards small enough that the small job keeps every worker busy too
            command += ["--model", "demo", "--output", str(home / "ranked"), "--overwrite", "--rows-per-shard", "256"]
            by_count[count] = watched = watch(command)
            click.echo(
                f"rank, {engine}, {count} queries: {watched.peak_bytes / 2**20:.0f} MiB, {watched.seconds:.1f} s",
                err=True,
            )
    return found


def rank_memory_table(found: Mapping[str, Mapping[int, Watched]]) -> list[str]:
    """Return the lines of the table, with the ratio to the smaller job on the same engine."""
    lines = ["| job | peak RSS | against the small job | whole command |", "|---|---|---|---|"]
    for engine, by_count in found.items():
        small = min(by_count)
        for count, watched in by_count.items():
            lines.append(
                f"| {engine}, {count:,} queries | {watched.peak_bytes / 2**20:,.0f} MiB"
                f" | {watched.peak_bytes / by_count[small].peak_bytes:.2f} | {watched.seconds:.1f} s |"
            )
    return lines
