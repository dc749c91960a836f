"""Jobs whose memory is measured. Each runs in its own process, which loads no more than a user's would.

python benchmarks/hard_jobs.py beam|spark SOURCE TARGET
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipmill.encoders import EncoderSpec
from clipmill.encoders.plans.embed_plan import Column
from clipmill.threads import allowed_cpus

SCHEMA = pa.schema({"id": pa.string(), "photo": pa.binary(), "caption": pa.string()})
COLUMNS = {"photo": Column("image"), "caption": Column("text", truncated="caption_cut")}
OPTIONS: dict[str, Any] = {"runtime": "onnx", "precision": "fp32", "device": "cpu", "max_cache_bytes": 0}
"""The cache is off, since contents repeat; float32, since vectors are compared."""


def run_on_beam(source: Path, target: Path) -> None:
    """Embed a file in one bundle, on the local runner with one worker."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from clipmill.transforms import Embed, WriteEmbeddings

    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        rows = pipeline | beam.Create([str(source)]) | beam.FlatMap(read_rows)
        embedded = rows | Embed("demo", columns=COLUMNS, **OPTIONS)
        _ = embedded | WriteEmbeddings(target, schema=SCHEMA, drop=["photo", "caption"])


def read_rows(path: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, one row group at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group).to_pylist()


def run_on_spark(source: Path, target: Path) -> None:
    """Embed a file in one task that has all cores."""
    from pyspark.sql import SparkSession

    from clipmill.udfs import embed_columns

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # otherwise Spark starts `python3` from PATH
    cores = allowed_cpus()
    builder = SparkSession.builder.master(f"local[{cores}]").config("spark.task.cpus", str(cores))
    builder = builder.config("spark.ui.enabled", "false").config("spark.log.level", "ERROR")
    # docs/spark.md recommends this for columns of photos: Java and Python each hold several of Spark's batches.
    builder = builder.config("spark.sql.execution.arrow.maxBytesPerBatch", "8m")
    spark = builder.config("spark.driver.memory", "1g").getOrCreate()
    frame = spark.read.parquet(str(source)).coalesce(1)
    embedded = embed_columns(frame, COLUMNS, model=EncoderSpec("demo", **OPTIONS))
    embedded.drop("photo", "caption").write.parquet(str(target))
    spark.stop()


def main() -> None:
    """Run one job."""
    engine, source, target = sys.argv[1:]
    {"beam": run_on_beam, "spark": run_on_spark}[engine](Path(source), Path(target))


if __name__ == "__main__":
    main()
