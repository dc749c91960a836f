"""The two steps that write a bundle's files so that a bundle which is run twice is there once.

A runner may run a bundle again, or twice at once, and nobody knows which run counts until it says so. So each run
writes files of its own into `_staging/`, which readers pass over, and gives out their names; behind a shuffle, where
only the names of the run that counts arrive, they are moved to where they are seen. Moving is safe to repeat.
"""

from __future__ import annotations

import collections
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
from ..datasets.formats.shard_writer import ShardWriter, manifest_name
from ..datasets.tables.misfits import fitting_batches
from ..datasets.tables.sizes import BATCH_BYTES, BATCH_ROWS, held_bytes
from ..encoders.registry import count_loads
from ..failures import Failure
from ..files.file_systems import Folder, dataset_errors
from ..models.spec import EncoderSpec
from .failed_row import FailedRow
from .file_tables import Table
from .meter import resolved_here

STAGING = "_staging"
_OPEN_PARTS = 64
"""Files that are written at once, one or two for each window: a bundle may hold thousands of windows."""


class WriteBundleFn(beam.DoFn):
    """Writes the rows and failures of a bundle as shards in `_staging/`; gives out their manifests."""

    def __init__(self, directory: str, run: str, table: Table, spec: EncoderSpec, rows_per_file: int) -> None:
        """Say what is written where.

        Args:
            directory: Path or URL of the dataset.
            run: Names this run of the pipeline, so that two can share `_staging/`.
            table: How elements become rows of files.
            spec: What made the vectors.
            rows_per_file: Most rows and failures in a file.
        """
        self._staging = f"{directory.rstrip('/')}/{STAGING}/{run}"
        self._table = table
        self._spec = spec
        self._rows_per_file = rows_per_file

    def start_bundle(self) -> None:
        """Start with nothing written."""
        self._parts: dict[BoundedWindow, _Part] = {}

    def process(
        self,
        element: Any,
        window: BoundedWindow = beam.DoFn.WindowParam,  # type: ignore[assignment]
    ) -> Iterable[WindowedValue]:
        """Take a row or a failure; each window has files of its own."""
        part = self._parts.get(window)
        if part is None:
            if len(self._parts) >= _OPEN_PARTS:
                yield self._commit(max(self._parts, key=lambda open_window: self._parts[open_window].elements))
            part = self._parts[window] = _Part(self._staging, self._table)
        part.add(element)
        if part.elements >= self._rows_per_file:
            yield self._commit(window)

    def finish_bundle(self) -> Iterable[WindowedValue]:
        """Write what is left."""
        for window in list(self._parts):
            yield self._commit(window)

    def _commit(self, window: BoundedWindow) -> WindowedValue:
        manifest = self._parts[window].commit(self._spec)
        del self._parts[window]
        return WindowedValue(manifest, window.max_timestamp(), (window,))

    def teardown(self) -> None:
        """Remove what a bundle that failed had begun."""
        for part in getattr(self, "_parts", {}).values():
            part.discard()


class _Part:
    """One file of rows, one of failures, and what is said about them."""

    def __init__(self, staging: str, table: Table) -> None:
        self._table = table
        self._waiting: list[tuple[Any, bool]] = []
        self._waiting_bytes = 0
        self._writer = ShardWriter(staging, uuid.uuid4().hex, table.schema)
        self._writer.__enter__()
        self._made = self._nulls = self._failed_rows = 0
        self._failed: collections.Counter[str] = collections.Counter()
        self.elements = 0

    def add(self, element: Any) -> None:
        self.elements += 1
        failed = isinstance(element, FailedRow)
        if failed:
            self._failed_rows += 1
            self._failed.update(str(failure.code) for failure in element.failures)
            for record in self._table.records(element):
                self._writer.fail(record)
        row = self._table.row(element.row if failed else element)
        made = [] if row is None else self._table.made(row)
        there = sum(one is not None for one in made)
        if failed and not there:
            return
        if not failed and row is not None:
            for record in self._table.inner_records(row):
                self._failed[record["code"]] += 1
                self._writer.fail(record)
        self._made += there
        self._nulls += 0 if failed else len(made) - there  # of a failed row some are failures, counted above
        self._waiting.append((row, failed))
        self._waiting_bytes += held_bytes(row)
        if len(self._waiting) >= BATCH_ROWS or self._waiting_bytes >= BATCH_BYTES:
            self._write()

    def commit(self, spec: EncoderSpec) -> dict[str, Any]:
        self._write()
        about: dict[str, Any] = {
            "input_rows": self.elements,
            "failed_rows": self._failed_rows,
            "failed": dict(sorted(self._failed.items())),
            **({"embedded": self._made, "nulls": self._nulls} if self._table.makes_vectors else {"scored": self._made}),
            "process": f"{socket.gethostname()}:{os.getpid()}",
            "loads": count_loads(),
        }
        if (resolved := resolved_here(spec)) is not None:
            about["resolved"] = resolved
        try:
            return self._writer.commit(about)
        finally:
            self.discard()

    def discard(self) -> None:
        self._writer.__exit__(None, None, None)

    def _write(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        fitting = fitting_batches([row for row, _ in waiting], self._table.batch)
        for batch in fitting.batches:
            self._writer.write(batch)
        for position, failure in fitting.misfits.items():
            self._take_back(*waiting[position], failure)

    def _take_back(self, row: Any, failed: bool, failure: Failure) -> None:
        """Count a row as a failure after all, and what was made of it, which is not written, no more."""
        made = self._table.made(row)
        there = sum(one is not None for one in made)
        self._made -= there
        self._nulls -= 0 if failed else len(made) - there
        self._failed_rows += 0 if failed else 1
        self._failed[str(failure.code)] += 1
        for record in self._table.records(FailedRow(row, (failure,))):
            self._writer.fail(record)


class PublishFn(beam.DoFn):
    """Moves a shard from `_staging/` to where it is seen, its manifest last; gives out its manifest."""

    def __init__(self, directory: str, run: str) -> None:
        """Say where; see `WriteBundleFn`."""
        self._directory = directory
        self._run = run

    def process(self, manifest: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """Move one shard's files."""
        folder = Folder.of(self._directory)
        for name in (*(file["name"] for file in manifest["files"]), manifest_name(manifest["name"])):
            _move(folder, f"{STAGING}/{self._run}/{name}", name)
        yield manifest


def _move(folder: Folder, source: str, target: str) -> None:
    """Move a file; one that was moved already, by an earlier run of the same bundle, is where it should be."""
    if below := target.rpartition("/")[0]:
        folder.make(below)
    with dataset_errors("move", f"{folder.url}/{source}"):
        folder.fs.invalidate_cache()
        if folder.fs.exists(folder.at(source)) or not folder.fs.exists(folder.at(target)):
            folder.fs.mv(folder.at(source), folder.at(target))


class FinishFn(beam.DoFn):
    """Ends a dataset when all its shards are in their place: removes what no run that counts wrote, marks it whole."""

    def __init__(self, directory: str, run: str, schema: pa.Schema) -> None:
        """Say where, and which columns a dataset without rows has; see `WriteBundleFn`."""
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
    """Remove what a run left in `_staging/`, or with no name all of it; other runs' files stay."""
    with dataset_errors("remove", f"{folder.url}/{STAGING}"):
        folder.fs.invalidate_cache()
        own = folder.at(f"{STAGING}/{run}".rstrip("/"))
        if folder.fs.isdir(own):
            folder.fs.rm(own, recursive=True)
        if folder.fs.isdir(folder.at(STAGING)) and not folder.list(STAGING):
            folder.fs.rmdir(folder.at(STAGING))
