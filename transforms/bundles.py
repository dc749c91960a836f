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

from ..datasets.dataset import count_finished, finish_job, read_job
from ..datasets.directory import STAGING
from ..datasets.formats.shard_sink import ShardSink
from ..datasets.formats.shard_writer import ShardWriter, manifest_name
from ..datasets.replacing import finish_replacing, folder_written, for_each, move, remove_empty
from ..datasets.tables.table import Table
from ..encoders.registry import count_loads
from ..errors import DatasetError, options_noted
from ..files.file_systems import Folder
from ..models.spec import EncoderSpec
from .finished_rows import finished_row
from .meter import resolved_here
from .prepare import Output

_OPEN_SHARDS = 64
"""Files that are written at once, one or two for each window: a bundle may hold thousands of windows."""


class WriteBundleFn(beam.DoFn):
    """Writes the rows and failures of a bundle as shards in `_staging/`; outputs their manifests."""

    def __init__(self, table: Table, spec: EncoderSpec, rows_per_file: int) -> None:
        """Set what is written."""
        self._table = table
        self._spec = spec
        self._rows_per_file = rows_per_file

    def start_bundle(self) -> None:
        """Start with nothing written."""
        self._open: dict[BoundedWindow, _OpenShard] = {}

    def process(
        self,
        element: Any,
        output: Output,
        window: BoundedWindow = beam.DoFn.WindowParam,  # type: ignore[assignment]
    ) -> Iterable[WindowedValue]:
        """Take a row or a failure; each window has files of its own, in a folder of this run."""
        shard = self._open.get(window)
        if shard is None:
            if len(self._open) >= _OPEN_SHARDS:
                yield self._commit(max(self._open, key=lambda window: self._open[window].elements))
            shard = self._open[window] = _OpenShard(output, self._table)
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

    def __init__(self, output: Output, table: Table) -> None:
        self._table = table
        self._run, folder = output
        self._writer = ShardWriter(f"{folder.rstrip('/')}/{STAGING}/{self._run}", uuid.uuid4().hex, table.schema)
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
                "signature": self._run,  # `finish_job` refuses shards of other runs
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

    def process(self, manifest: Mapping[str, Any], output: Output) -> Iterable[Mapping[str, Any]]:
        """Move one shard's files, unless an earlier run of the same bundle has moved them."""
        run, target = output
        folder = Folder.of(target)
        for name in (*(file["name"] for file in manifest["files"]), manifest_name(manifest["name"])):
            if below := name.rpartition("/")[0]:
                folder.make(below)
            move(folder, f"{STAGING}/{run}/{name}", name)
        yield manifest


class FinishFn(beam.DoFn):
    """Finishes a dataset when all shards are in place: removes uncommitted files, and writes `_SUCCESS`.

    If the dataset replaces another one, it takes that one's place now.
    """

    def __init__(self, directory: str, schema: pa.Schema) -> None:
        """Set the directory, and the columns of a dataset without rows."""
        self._directory = directory
        self._schema = schema

    def process(self, _: Any, output: Output) -> Iterable[str]:
        """Finish; safe to repeat."""
        run, _folder = output
        with options_noted():
            finish_replacing(Folder.of(self._directory))
            folder = folder_written(self._directory)
            if read_job(folder.url).get("signature") != run:
                raise DatasetError(
                    f"another job has prepared {folder.url} since this one started, and writes there now"
                )
            remove_staging(folder, run)
            if not count_finished(folder.url):
                with ShardWriter(folder.url, f"empty-{run}", self._schema) as writer:
                    writer.commit({"signature": run})  # a dataset without rows reads like any other
            finish_job(self._directory)
        yield self._directory


def remove_staging(folder: Folder, run: str) -> None:
    """Remove the files of a run in `_staging/`, and then that folder if it is empty."""
    own = f"{STAGING}/{run}"
    for_each(folder.delete, folder.list(own), folder)
    remove_empty(folder, own)
    with contextlib.suppress(Exception):  # other runs have files in it; object stores have no folders
        folder.fs.rmdir(folder.at(STAGING))
