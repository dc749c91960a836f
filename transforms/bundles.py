"""The two steps that write the files of bundles, so that the rows of a repeated bundle are written once.

A runner may run a bundle again, or twice at the same time, and only its commit decides which run counts. Each run
therefore writes files of its own into `_staging/`, which readers skip, and outputs their names. Only the names of the
committed run pass the shuffle that follows; the next step moves those files into place. Moving is safe to repeat.

A job may outlive the process that started it, and another job may replace its dataset meanwhile. The steps of a bounded
pipeline therefore end with an error when the directory is prepared for another run: see `prepare`.
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

from ..datasets.dataset import delete_shards_of_others, finish_job
from ..datasets.directory import STAGING, manifest_name
from ..datasets.formats.shard_sink import ShardSink
from ..datasets.formats.shard_writer import ShardWriter
from ..datasets.replacing import directory_of, finish_replacing, folder_written, for_each, move, remove_empty
from ..datasets.tables.table import Table
from ..encoders.registry import count_loads
from ..errors import options_noted
from ..files.folder import Folder
from ..files.lock import one_at_a_time
from ..models.spec import EncoderSpec
from .finished_rows import finished_row
from .meter import resolved_here
from .prepare import Output, check_prepared

_OPEN_SHARDS = 64
"""Files that are written at once, one or two for each window: a bundle may hold thousands of windows."""


class WriteBundleFn(beam.DoFn):
    """Writes the rows and failures of a bundle as shards in `_staging/`; outputs their manifests."""

    def __init__(self, table: Table, spec: EncoderSpec, rows_per_file: int, *, is_bounded: bool = True) -> None:
        """Set what is written."""
        self._table = table
        self._spec = spec
        self._rows_per_file = rows_per_file
        self._is_bounded = is_bounded

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
            if self._is_bounded:  # of a stream, two jobs may write for a while, one of which is drained
                with options_noted():
                    check_prepared(output[1], output[0])
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

    def __init__(self, *, is_bounded: bool = True) -> None:
        """Set whether the pipeline comes to an end."""
        self._is_bounded = is_bounded

    def process(self, manifest: Mapping[str, Any], output: Output) -> Iterable[Mapping[str, Any]]:
        """Move one shard's files, unless an earlier run of the same bundle has moved them."""
        run, target = output
        folder = Folder.of(target)
        with options_noted(), one_at_a_time(directory_of(target)):
            if self._is_bounded:
                check_prepared(target, run)
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

    def process(self, shards: int, output: Output) -> Iterable[str]:
        """Finish; safe to repeat. `shards` is how many were published."""
        run, _folder = output
        whole = Folder.of(self._directory)
        with options_noted():
            with one_at_a_time(whole):
                finish_replacing(whole)
                folder = folder_written(self._directory)
            check_prepared(folder.url, run)
            if not shards:
                with ShardWriter(folder.url, f"empty-{run}", self._schema) as writer:
                    writer.commit({"signature": run})  # a dataset without rows reads like any other
            with one_at_a_time(whole):  # no other run prepares or publishes meanwhile
                check_prepared(folder.url, run)
                remove_staging(folder, run)
                delete_shards_of_others(folder.url, run)
                finish_job(self._directory)
        yield self._directory


def remove_staging(folder: Folder, run: str) -> None:
    """Remove the files of a run in `_staging/`, and then that folder if it is empty."""
    own = f"{STAGING}/{run}"
    for_each(folder.delete, folder.list(own), folder)
    remove_empty(folder, own)
    with contextlib.suppress(Exception):  # other runs have files in it; object stores have no folders
        folder.fs.rmdir(folder.at(STAGING))
