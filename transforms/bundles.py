"""The two steps that write the files of bundles, so that the rows of a repeated bundle are written once.

A runner may run a bundle again, or twice at the same time, and only its commit decides which run counts. Each run
therefore writes files of its own into `_staging/`, which readers skip, and outputs their names. Only the names of the
committed run pass the shuffle that follows; the next step moves those files into place. Moving is safe to repeat.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import BoundedWindow
from apache_beam.utils.windowed_value import WindowedValue

from ..datasets.dataset import count_finished, finish_job
from ..datasets.formats.shard_sink import ShardSink
from ..datasets.formats.shard_writer import ShardWriter, manifest_name
from ..datasets.tables.table import Table
from ..encoders.registry import count_loads
from ..files.file_systems import Folder, dataset_errors
from ..models.spec import EncoderSpec
from .finished_rows import finished_row
from .meter import resolved_here

STAGING = "_staging"
_OPEN_SHARDS = 64
"""Files that are written at once, one or two for each window: a bundle may hold thousands of windows."""


class WriteBundleFn(beam.DoFn):
    """Writes the rows and failures of a bundle as shards in `_staging/`; outputs their manifests."""

    def __init__(self, directory: str, run: str, table: Table, spec: EncoderSpec, rows_per_file: int) -> None:
        """Set what is written where; `run` names this run, so that two can share `_staging/`."""
        self._staging = f"{directory.rstrip('/')}/{STAGING}/{run}"
        self._table = table
        self._spec = spec
        self._rows_per_file = rows_per_file

    def start_bundle(self) -> None:
        """Start with nothing written."""
        self._open: dict[BoundedWindow, _OpenShard] = {}

    def process(
        self,
        element: Any,
        window: BoundedWindow = beam.DoFn.WindowParam,  # type: ignore[assignment]
    ) -> Iterable[WindowedValue]:
        """Take a row or a failure; each window has files of its own."""
        shard = self._open.get(window)
        if shard is None:
            if len(self._open) >= _OPEN_SHARDS:
                yield self._commit(max(self._open, key=lambda window: self._open[window].elements))
            shard = self._open[window] = _OpenShard(self._staging, self._table)
        shard.add(element)
        if shard.elements >= self._rows_per_file:
            yield self._commit(window)

    def finish_bundle(self) -> Iterable[WindowedValue]:
        """Write the remaining rows."""
        for window in list(self._open):
            yield self._commit(window)

    def _commit(self, window: BoundedWindow) -> WindowedValue:
        manifest = self._open[window].commit(self._spec)
        del self._open[window]
        return WindowedValue(manifest, window.max_timestamp(), (window,))

    def teardown(self) -> None:
        """Remove the unfinished files of a failed bundle."""
        for shard in getattr(self, "_open", {}).values():
            shard.discard()


class _OpenShard:
    """The files of one window while they are written."""

    def __init__(self, staging: str, table: Table) -> None:
        self._table = table
        self._writer = ShardWriter(staging, uuid.uuid4().hex, table.schema)
        self._open = contextlib.ExitStack()
        self._open.enter_context(self._writer)
        self._sink = ShardSink(self._writer, table)

    @property
    def elements(self) -> int:
        return self._sink.counts.input_rows

    def add(self, element: Any) -> None:
        self._sink.take(finished_row(element, self._table))

    def commit(self, spec: EncoderSpec) -> dict[str, Any]:
        with self._open:
            self._sink.flush()
            counts = self._sink.counts
            made = {"embedded": counts.made, "nulls": counts.nulls}
            about: dict[str, Any] = {
                **counts.manifest(),
                **(made if self._table.plan.makes_vectors else {"scored": counts.made}),
                "process": f"{socket.gethostname()}:{os.getpid()}",
                "loads": count_loads(),
            }
            if (resolved := resolved_here(spec)) is not None:
                about["resolved"] = resolved
            return self._writer.commit(about)

    def discard(self) -> None:
        self._open.close()


class PublishFn(beam.DoFn):
    """Moves a shard from `_staging/` into place, its manifest last; outputs its manifest."""

    def __init__(self, directory: str, run: str) -> None:
        """Set the directory; see `WriteBundleFn`."""
        self._directory = directory
        self._run = run

    def process(self, manifest: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """Move one shard's files."""
        folder = Folder.of(self._directory)
        for name in (*(file["name"] for file in manifest["files"]), manifest_name(manifest["name"])):
            _move(folder, f"{STAGING}/{self._run}/{name}", name)
        yield manifest


def _move(folder: Folder, source: str, target: str) -> None:
    """Move a file, unless an earlier run of the same bundle has moved it."""
    if below := target.rpartition("/")[0]:
        folder.make(below)
    with dataset_errors("move", f"{folder.url}/{source}"):
        folder.fs.invalidate_cache()
        if folder.fs.exists(folder.at(source)) or not folder.fs.exists(folder.at(target)):
            folder.fs.mv(folder.at(source), folder.at(target))


class FinishFn(beam.DoFn):
    """Finishes a dataset when all shards are in place: removes uncommitted files, and writes `_SUCCESS`."""

    def __init__(self, directory: str, run: str, schema: pa.Schema) -> None:
        """Set the directory, and the columns of a dataset without rows; see `WriteBundleFn`."""
        self._directory = directory
        self._run = run
        self._schema = schema

    def process(self, _: Any) -> Iterable[str]:
        """Finish; safe to repeat."""
        folder = Folder.of(self._directory)
        remove_staging(folder, self._run)
        if not count_finished(self._directory):
            with ShardWriter(self._directory, "empty", self._schema) as writer:
                writer.commit({})  # a dataset without rows reads like any other
        finish_job(self._directory)
        yield self._directory


def remove_staging(folder: Folder, run: str = "") -> None:
    """Remove the files of a run in `_staging/`; without a run, all of them."""
    with dataset_errors("remove", f"{folder.url}/{STAGING}"):
        folder.fs.invalidate_cache()
        own = folder.at(f"{STAGING}/{run}".rstrip("/"))
        if folder.fs.isdir(own):
            folder.fs.rm(own, recursive=True)
        if folder.fs.isdir(folder.at(STAGING)) and not folder.list(STAGING):
            folder.fs.rmdir(folder.at(STAGING))
