"""clipmill's contenders, which embed one list of values: the model alone, the core, Beam and Spark."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from clipmill.models.runtimes import start_runtime
from clipmill.models.runtimes.store import Store
from clipmill.models.runtimes.streams import options
from clipmill.models.support_matrix import Combination
from clipmill.models.towers import find_source
from clipmill.threads import Cores, allowed_cpus
from clipmill.transforms import Embed
from clipmill.transforms.elements import RowElements
from clipmill.transforms.embed_fn import EmbedFn
from clipmill.udfs import embed_columns

if TYPE_CHECKING:
    from clipmill.models.model import Runtime

_BARE_ROWS = 16

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
    """Run only the model, on the micro-batches that the core would pass to it, as many at once as the core runs."""
    encoder = load_encoder(spec)
    model = encoder._loaded.model
    calls = calls_of(encoder, modality, values)

    def run() -> None:
        with ThreadPoolExecutor(model.streams) as pool:
            list(pool.map(lambda call: model.encode(*call), calls))

    return Contender(f"model only, {name}", len(values), run)


def limit(name: str, spec: EncoderSpec, modality: str, values: Sequence[Any]) -> Contender:
    """Run only the model, with the number of calls at once that is fastest for exactly these micro-batches."""
    encoder = load_encoder(spec)
    inputs = [_inputs_of(encoder, *call) for call in calls_of(encoder, modality, values)]
    resolved, threads = encoder.resolved, encoder._loaded.threads
    store = Store(find_source(spec), spec.cache_dir)
    combination = Combination(resolved["runtime"], resolved["precision"])
    found: dict[int, tuple[float, Runtime]] = {}

    def run_with(runtime: Runtime, streams: int) -> None:
        with ThreadPoolExecutor(streams) as pool:
            list(pool.map(lambda one: runtime.encode(*one), inputs))

    for streams in options(threads):
        runtime = start_runtime(store, combination, "cpu", threads, streams)
        run_with(runtime, streams)
        started = time.perf_counter()
        run_with(runtime, streams)
        found[streams] = time.perf_counter() - started, runtime
    best = min(found, key=lambda streams: found[streams][0])
    runtime = found[best][1]
    return Contender(f"limit, {name}", len(values), lambda: run_with(runtime, best))


def _inputs_of(encoder: Encoder, modality: str, payloads: list[Any]) -> tuple[str, tuple[np.ndarray, ...]]:
    """Return the arguments with which a model calls its runtime."""
    model, found = encoder._loaded.model, []
    runtime = model._runtime  # type: ignore[attr-defined]

    class Recorder:
        def encode(self, model_input: str, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
            found.append((model_input, inputs))
            return np.zeros((len(payloads), model.dim), np.float32)

    model._runtime = Recorder()  # type: ignore[attr-defined]
    try:
        model.encode(modality, payloads)
    finally:
        model._runtime = runtime  # type: ignore[attr-defined]
    return found[0]


def bare_loop(name: str, spec: EncoderSpec, files: Sequence[bytes]) -> Contender:
    """Run the fastest loop that one would write by hand: each thread decodes, resizes and encodes its own batches.

    OpenVINO with a stream for each core, libjpeg-turbo, and torch's resizing of bytes; no failures, limits, or order
    kept by anything but the list.
    """
    import torch
    from simplejpeg import decode_jpeg
    from torchvision.transforms.v2 import functional as F

    load_encoder(spec)  # makes the graphs
    resolved, threads = load_encoder(spec).resolved, allowed_cpus()
    store = Store(find_source(spec), spec.cache_dir)
    size = store.source.frontend.image.image_size  # type: ignore[union-attr]
    runtime = start_runtime(store, Combination("openvino", resolved["precision"]), "cpu", threads, threads)

    def prepared(file: bytes) -> np.ndarray:
        image = torch.from_numpy(decode_jpeg(file)).permute(2, 0, 1)
        image = F.resize(image, [size], F.InterpolationMode.BICUBIC, antialias=True)
        return F.center_crop(image, [size, size]).permute(1, 2, 0).numpy()

    def embed_some(first: int) -> np.ndarray:
        return runtime.encode("image", (np.stack([prepared(file) for file in files[first : first + _BARE_ROWS]]),))

    def run() -> np.ndarray:
        torch.set_num_threads(1)
        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate(list(pool.map(embed_some, range(0, len(files), _BARE_ROWS))))

    return Contender(f"bare loop, {name}", len(files), run)


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
