"""clipmill's contenders, which embed one list of values: the model alone, the core, Beam and Spark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import PANE_INFO_UNKNOWN
from pyspark.sql import DataFrame
from turns import Contender

from clipmill.encoders import Encoder, EncoderSpec, load_encoder
from clipmill.encoders.plans.embed_plan import Column, ColumnPlan
from clipmill.threads import Cores
from clipmill.transforms import Embed
from clipmill.transforms.elements import RowElements
from clipmill.transforms.embed_fn import EmbedFn
from clipmill.udfs import embed_columns

Batch = tuple[str, list[Any]]
"""The arguments of a call of the model: a modality and the inputs."""


def calls_of(encoder: Encoder, modality: str, values: Sequence[Any]) -> list[Batch]:
    """Return the exact calls that the core makes to its model for these values."""
    model = encoder._loaded.model
    calls: list[Batch] = []
    encode = model.encode

    def record(modality: str, payloads: Sequence[Any]) -> np.ndarray:
        calls.append((modality, list(payloads)))
        return encode(modality, payloads)

    model.encode = record  # type: ignore[method-assign]  # only on this object, and deleted below
    try:
        embed(encoder, modality, values)
    finally:
        del model.encode
    return calls


def model_only(name: str, spec: EncoderSpec, modality: str, values: Sequence[Any]) -> Contender:
    """Run only the model, on the micro-batches that the core would pass to it: the upper limit."""
    encoder = load_encoder(spec)
    model = encoder._loaded.model
    calls = calls_of(encoder, modality, values)

    def run() -> None:
        for kind, payloads in calls:
            model.encode(kind, payloads)

    return Contender(f"model only, {name}", len(values), run)


def embed(encoder: Encoder, modality: str, values: Sequence[Any]) -> np.ndarray:
    """Return (n, dim) float32."""
    return encoder.embed_texts(values) if modality == "text" else encoder.embed_images(values)


def core(name: str, spec: EncoderSpec, modality: str, values: Sequence[Any]) -> Contender:
    """Run the engine-free core, from encoded bytes or strings to vectors."""
    encoder = load_encoder(spec)
    return Contender(f"core, {name}", len(values), lambda: embed(encoder, modality, values))


def embed_fn(name: str, spec: EncoderSpec, modality: str, values: Sequence[Any]) -> Contender:
    """Run Beam's `DoFn` as a runner calls it, on rows that are dicts, in one bundle and without a runner."""
    plan = ColumnPlan({"value": Column(modality, output="value_embedding")})
    fn = EmbedFn(spec, RowElements(plan), on_failure="split", cores=Cores())
    fn.setup()
    rows = [{"id": number, "value": value} for number, value in enumerate(values)]
    where = (MIN_TIMESTAMP, GlobalWindow(), PANE_INFO_UNKNOWN)

    def run() -> np.ndarray:
        fn.start_bundle()
        outputs = [output for row in rows for output in fn.process(row, *where)]
        outputs += fn.finish_bundle()
        return np.stack([output.value["value_embedding"] for output in outputs])

    return Contender(f"EmbedFn, {name}", len(values), run)


def on_beam(name: str, spec: EncoderSpec, modality: str, table: Path, rows: int) -> Contender:
    """Run Beam's local runner with one worker, all cores and rows from Parquet, including the pipeline's construction.

    Args:
        name: The name of the precision.
        spec: The encoder.
        modality: The modality of the table's column `value`.
        table: A Parquet file, because `beam.Create` would pickle and compress the rows first.
        rows: The number of its rows.
    """
    load_encoder(spec)

    def run() -> None:
        with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
            source = pipeline | beam.io.ReadFromParquet(str(table))
            embedded = source | Embed(spec, columns={"value": modality})
            _ = embedded.rows | beam.Map(lambda row: row["value_embedding"].shape)

    return Contender(f"Beam, {name}", rows, run)


def on_spark(name: str, spec: EncoderSpec, modality: str, frame: DataFrame, few: DataFrame, rows: int) -> Contender:
    """Run a local Spark with a one-core worker per core. The whole job is timed; workers are warm.

    Args:
        name: The name of the precision.
        spec: The encoder.
        modality: The modality of the column `value`.
        frame: All rows, in memory.
        few: Some of them, in as many partitions, to warm up the workers, which end after a minute without work.
        rows: The number of rows.
    """

    def run(source: DataFrame) -> None:
        embedded = embed_columns(source, {"value": modality}, model=spec).drop("value")
        embedded.write.format("noop").mode("overwrite").save()

    return Contender(f"Spark, {name}", rows, lambda: run(frame), lambda: run(few))
