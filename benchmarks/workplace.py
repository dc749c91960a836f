"""Resources that the parts of the benchmark share, created on first use: weights, tables, plain models, Spark."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from plain import OnnxService, OpenClip, open_clip_model
from pyspark.sql import DataFrame, SparkSession
from workload import write_weights

from clipmill.encoders import EncoderSpec
from clipmill.models.runtimes.store import Store
from clipmill.models.support_matrix import has_native_bfloat16
from clipmill.models.towers import find_source
from clipmill.pipelines.survey import processor
from clipmill.threads import allowed_cpus

ARCHITECTURE = "ViT-B-32"
_FEW_ROWS = 64
"""The number of rows that warm up Spark's workers."""


@contextlib.contextmanager
def spark_session() -> Iterator[SparkSession]:
    """Start a local Spark with one slot per core."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # otherwise Spark starts `python3` from PATH
    builder = SparkSession.builder.master(f"local[{allowed_cpus()}]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.ui.showConsoleProgress", "false")
    session = builder.config("spark.log.level", "ERROR").config("spark.driver.memory", "2g").getOrCreate()
    send_modules(session)
    try:
        yield session
    finally:
        session.stop()


def send_modules(session: SparkSession) -> None:
    """Send D's modules to the workers."""
    for name in ("plain.py", "turns.py"):
        session.sparkContext.addPyFile(str(Path(__file__).parent / name))


class Workplace:
    """The shared resources of the benchmark. Call `stop_spark` at the end."""

    def __init__(self, home: Path) -> None:
        """Start without any resources.

        Args:
            home: A folder for weights, graphs and tables.
        """
        self.home = home
        self._stack = contextlib.ExitStack()
        self._frames: dict[str, tuple[DataFrame, DataFrame]] = {}
        self._session: SparkSession | None = None

    @functools.cached_property
    def weights(self) -> Path:
        """Random weights in the published layout, drawn from a seed, so that weights of an earlier run are the same."""
        path = self.home / f"{ARCHITECTURE}.safetensors"
        return path if path.is_file() else write_weights(ARCHITECTURE, path)

    def spec(self, precision: str) -> EncoderSpec:
        """Return the spec of a precision, without the cache, because every round repeats the same values."""
        return EncoderSpec(f"{ARCHITECTURE}::{self.weights}", device="cpu", precision=precision, max_cache_bytes=0)

    @property
    def plain(self) -> OpenClip:
        """A's model."""
        return open_clip_model(ARCHITECTURE, self.weights)

    @functools.cached_property
    def service(self) -> OnnxService:
        """B's sessions, on clipmill's own graphs: the same arithmetic, without clipmill's preprocessing."""
        graphs = Store(find_source(self.spec("fp32")), None).graphs("float")
        paths = {"image": graphs.path("normalised_image"), "text": graphs.path("text")}
        return OnnxService(paths, self.plain.transform, self.plain.tokenizer)

    def table(self, name: str, values: Sequence[Any]) -> Path:
        """Write values as the column `value` of a Parquet file, next to an `id`."""
        path = self.home / f"{name}.parquet"
        pq.write_table(pa.table({"id": range(len(values)), "value": pa.array(values)}), path, row_group_size=64)
        return path

    def frames(self, table: Path) -> tuple[DataFrame, DataFrame]:
        """Return a table's rows in Spark's memory, with one partition per core, and some of them."""
        if table.name not in self._frames:
            frame = self.spark.read.parquet(str(table)).repartition(allowed_cpus()).cache()
            few = frame.limit(_FEW_ROWS).repartition(allowed_cpus()).cache()
            frame.count(), few.count()
            self._frames[table.name] = frame, few
        return self._frames[table.name]

    @property
    def spark(self) -> SparkSession:
        """The session, started on first use."""
        if self._session is None:
            self._session = self._stack.enter_context(spark_session())
        return self._session

    def stop_spark(self) -> None:
        """End the session, its workers and what they hold."""
        self._frames.clear()
        self._session = None
        self._stack.close()


def machine() -> str:
    """Describe the machine of the measurements in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    bfloat16 = "with" if has_native_bfloat16() else "without"
    return (
        f"{processor()}, {allowed_cpus()} cores allowed, {bfloat16} native bfloat16, {memory:.0f} GiB, Python"
        f" {platform.python_version()}"
    )
