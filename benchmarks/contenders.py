"""The ways to embed one list of image files, each timed by the same clock: ours, and those it is measured against."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apache_beam as beam
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from apache_beam.options.pipeline_options import PipelineOptions
from PIL import Image
from pyspark.sql import SparkSession
from safetensors.torch import load_file

from clipmill.encoders import EncoderSpec, load_encoder
from clipmill.encoders.threads import allowed_cpus
from clipmill.transforms import Embed
from clipmill.udfs import embed_columns

BATCH = 32
ARCHITECTURE = "ViT-B-32"
Contender = Callable[[], float]


def plain_open_clip(files: list[bytes], weights: Path) -> Contender:
    """A: open_clip's own model and transform in a loop, torch float32: what clip-retrieval does on a CPU."""
    model, _, transform = open_clip.create_model_and_transforms(ARCHITECTURE, load_weights=False)
    model.load_state_dict(load_file(str(weights)))
    model.eval()

    def run() -> float:
        torch.set_num_threads(allowed_cpus())
        started = time.perf_counter()
        with torch.inference_mode():
            for first in range(0, len(files), BATCH):
                images = [transform(Image.open(io.BytesIO(file))) for file in files[first : first + BATCH]]
                model.encode_image(torch.stack(images)).numpy()
        return time.perf_counter() - started

    return run


def core(files: list[bytes], spec: EncoderSpec) -> Contender:
    """The engine-free core, end to end."""
    encoder = load_encoder(spec)

    def run() -> float:
        torch.set_num_threads(allowed_cpus())
        started = time.perf_counter()
        encoder.embed_images(files)
        return time.perf_counter() - started

    return run


def on_beam(files: list[bytes], spec: EncoderSpec, home: Path) -> Contender:
    """Beam's local runner, one worker with all cores; the whole pipeline is timed, its construction included.

    Rows are read from files inside the pipeline: `beam.Create` would pickle and compress their content first.
    """
    paths = [home / f"{number}.jpg" for number in range(len(files))]
    for path, file in zip(paths, files, strict=True):
        path.write_bytes(file)

    def run() -> float:
        started = time.perf_counter()
        with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
            rows = (
                pipeline
                | beam.Create([str(path) for path in paths])
                | beam.Reshuffle()
                | beam.Map(lambda path: {"id": path, "photo": Path(path).read_bytes()})
            )
            embedded = rows | Embed(spec, columns={"photo": "image"})
            _ = embedded.rows | beam.Map(lambda row: row["photo_embedding"].shape)
        return time.perf_counter() - started

    return run


def on_spark(files: list[bytes], spec: EncoderSpec, spark: SparkSession, home: Path) -> Contender:
    """Spark with as many one-core workers as there are cores; workers are warm, the whole job is timed."""
    table = pa.table({"id": range(len(files)), "photo": pa.array(files, pa.binary())})
    pq.write_table(table, home / "photos.parquet")
    frame = spark.read.parquet(str(home / "photos.parquet")).repartition(allowed_cpus()).cache()
    frame.count()
    embedded = embed_columns(frame, {"photo": "image"}, model=spec).drop("photo")
    embedded.limit(1).count()
    embed_columns(frame.limit(2 * allowed_cpus()).repartition(allowed_cpus()), {"photo": "image"}, model=spec).collect()

    def run() -> float:
        started = time.perf_counter()
        embedded.write.format("noop").mode("overwrite").save()
        return time.perf_counter() - started

    return run


@contextmanager
def spark_session() -> Iterator[SparkSession]:
    """Start a local Spark with a slot for each core."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers are started by name from PATH otherwise
    builder = SparkSession.builder.master(f"local[{allowed_cpus()}]").config("spark.ui.enabled", "false")
    session = builder.config("spark.log.level", "ERROR").config("spark.driver.memory", "2g").getOrCreate()
    try:
        yield session
    finally:
        session.stop()
