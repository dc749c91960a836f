"""A shard from its input to its files: the one function that every engine distributes."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ... import __version__
from ..columns import ColumnPlan
from ..errors import DatasetError, SpecError
from ..failure import Failure, RowError
from ..outcome import Finished
from ..registry import count_loads, load_encoder
from ..spec import EncoderSpec
from ..stats import Stats
from .dataset import prepare_directory, write_job
from .files import Folder
from .misfits import fitting_batches
from .modes import DocumentMode, Result, RowMode
from .provenance import read_provenance
from .readers import choose_columns
from .rows import schema_of
from .shard_writer import ShardWriter
from .shards import Shard
from .tables import documents_schema, rows_schema

_BATCH_ROWS, _BATCH_BYTES = 64, 64 * 2**20
"""When finished rows become an Arrow batch: by number, or by the bytes of what they carry along."""
_READER_OPTIONS = ("text", "uri", "image", "audio", "id", "tags")


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What is done with every shard; pickles to its fields. Made by `Job.of`.

    Attributes:
        spec: The encoder.
        directory: The dataset that is written.
        schema: Columns of its files.
        columns: Which columns of rows are embedded; None for documents.
        reader: Arguments of `read_documents`.
        access_paths: Which documents of a tree are embedded.
        keep_content: Whether documents keep `blob` and `tensor`.
        fail_fast: Whether the first failure ends the job.
    """

    spec: EncoderSpec
    directory: str
    schema: pa.Schema
    columns: ColumnPlan | None = None
    reader: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    access_paths: str = "@r"
    keep_content: bool = False
    fail_fast: bool = False

    @classmethod
    def of(
        cls,
        spec: EncoderSpec,
        directory: str,
        shards: Sequence[Shard],
        *,
        columns: Mapping[str, Any] | ColumnPlan | None = None,
        reader: Mapping[str, Any] | None = None,
        access_paths: str = "@r",
        keep_content: bool = False,
        tags: Mapping[str, pa.DataType] | Sequence[str] = (),
        drop: Sequence[str] = (),
        dtype: str = "float32",
        fail_fast: bool = False,
    ) -> Job:
        """Check what a user asked for and decide the columns of the output, on the driver, without weights.

        Args:
            spec: The encoder.
            directory: The dataset that is written; made absolute.
            shards: All shards of the job.
            columns: Embeds these columns of rows; without it the input is documents.
            reader: `text`, `uri`, `image`, `id` and `tags` of `read_documents`.
            access_paths: Which documents of a tree are embedded.
            keep_content: Whether documents keep `blob` and `tensor`.
            tags: Columns (of JSON lines, fields) that travel along as tags of documents; with types, as columns of
                their own.
            drop: Columns of rows that are left out.
            dtype: `float32` or `float16`.
            fail_fast: Whether the first failure ends the job.

        Raises:
            SpecError: If the options contradict each other.
            DatasetError: If the inputs don't have the columns that are named.
        """
        directory = Folder.of(directory).url
        reader = dict(reader or {})
        if unknown := sorted(set(reader) - set(_READER_OPTIONS)):
            raise SpecError(f"reader has no option {unknown[0]!r}; it has {', '.join(_READER_OPTIONS)}")
        if columns is None:
            if drop:
                raise SpecError("drop leaves out columns of rows, and without columns={…} documents are embedded")
            reader.setdefault("tags", tuple(tags))
            _check_reader(shards, reader)
            declared = tags if isinstance(tags, Mapping) else None
            schema = documents_schema(
                spec, access_paths=access_paths, keep_content=keep_content, tags=declared, dtype=dtype
            )
            return cls(spec, directory, schema, None, reader, access_paths, keep_content, fail_fast)
        if reader or tags or keep_content or access_paths != "@r":
            raise SpecError(
                f"columns={{…}} embeds rows; {', '.join(_READER_OPTIONS)}, access_paths and keep_content are for"
                " documents"
            )
        plan = columns if isinstance(columns, ColumnPlan) else ColumnPlan.of(columns, spec=spec)
        schema = rows_schema(schema_of(shards, plan), plan, spec, drop=drop, dtype=dtype)
        return cls(spec, directory, schema, plan, fail_fast=fail_fast)


def _check_reader(shards: Sequence[Shard], reader: Mapping[str, Any]) -> None:
    """Look at the first table of each kind: a misspelt column should not cost a night."""
    for kind in ("csv", "parquet"):
        shard = next((shard for shard in shards if shard.kind == kind), None)
        if shard is None:
            continue
        try:
            there = schema_of([shard]).names
        except DatasetError:  # a broken file is a failure, not the end of the job
            continue
        try:
            names = {field: reader.get(field) for field in _READER_OPTIONS if field != "tags"}
            choose_columns(there, names, reader.get("tags", ()), shard.paths[0])
        except RowError as err:
            raise DatasetError(str(err)) from err


def begin_job(
    job: Job,
    shards: Sequence[Shard],
    *,
    inputs: Sequence[str] = (),
    arguments: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Prepare the directory and write what the job is; once, on the driver, before any shard. `finish_job` ends it.

    Args:
        job: What will be done.
        shards: With what.
        inputs: What the user named, for the record.
        arguments: The user's other options, for the record: plain values without secrets.
        overwrite: Whether a dataset that stands there is replaced.

    Raises:
        DatasetError: If the directory holds the job's own input, or see `prepare_directory`.
    """
    inside = job.directory.rstrip("/") + "/"
    if own := next((path for shard in shards for path in shard.paths if path.startswith(inside)), None):
        raise DatasetError(f"the input {own} lies in the output directory {job.directory}; choose another output")
    prepare_directory(job.directory, overwrite=overwrite)
    description = {
        "clipmill": __version__,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "spec": job.spec.as_dict(),
        "columns": None if job.columns is None else {p: dataclasses.asdict(c) for p, c in job.columns.columns.items()},
        "access_paths": job.access_paths,
        "provenance": read_provenance(job.schema),
        "inputs": [os.fspath(given) for given in inputs],
        "arguments": dict(arguments or {}),
    }
    write_job(job.directory, description, shards=len(shards))


def embed_shard(shard: Shard, job: Job, *, cpus: int | None = None, exclusive: bool = False) -> dict[str, Any]:
    """Read a shard, embed it, write its files.

    What has a vector, and rows whose columns were all null, are in the Parquet file. What failed is in the failures: a
    row that was embedded in part is in both, one without any vector only there.

    Args:
        shard: What to read.
        job: What to do with it.
        cpus: Cores that this worker may use, where its engine knows better than the operating system.
        exclusive: See `load_encoder`.

    Returns:
        The manifest that was written.

    Raises:
        DatasetError: If the output cannot be written, or a value failed and the job is to end then.
        WeightsError, DeviceError: If the encoder cannot be loaded.
    """
    started = time.perf_counter()
    encoder = load_encoder(job.spec, cpus=cpus, exclusive=exclusive)
    if job.columns is None:
        mode: DocumentMode | RowMode = DocumentMode(job.reader, job.access_paths, job.keep_content)
    else:
        mode = RowMode(job.columns, job.schema)
    stats = Stats()
    with encoder.session(stats) as session, ShardWriter(job.directory, shard.name, job.schema) as writer:
        out = _Output(writer, mode, job, encoder.dim, stats)
        for token, items in mode.read(shard):
            out.take(session.push(token, items))
        out.take(session.flush())
        out.flush()
        return writer.commit(
            {
                "shard": shard.identity(),
                **out.counts(),
                **_timings(stats),
                "resolved": encoder.resolved,
                "process": f"{socket.gethostname()}:{os.getpid()}",
                "loads": count_loads(),
                "seconds": round(time.perf_counter() - started, 3),
            }
        )


def _timings(stats: Stats) -> dict[str, Any]:
    return {
        "embedded": stats.embedded,
        "nulls": stats.nulls,
        "truncated_texts": stats.truncated_texts,
        "batches": stats.batches,
        "batch_rows": {str(rows): calls for rows, calls in sorted(stats.batch_rows.items())},
        "fetch_msec": round(stats.fetch_msec, 1),
        "decode_msec": round(stats.decode_msec, 1),
        "encode_msec": round(stats.encode_msec, 1),
        "out_of_memory_retries": stats.out_of_memory_retries,
    }


class _Output:
    """Gathers finished rows into batches, and their failures; counts both."""

    def __init__(self, writer: ShardWriter, mode: DocumentMode | RowMode, job: Job, dim: int, stats: Stats) -> None:
        self._writer = writer
        self._mode = mode
        self._job = job
        self._dim = dim
        self._stats = stats
        self._held: list[Result] = []
        self._held_bytes = 0
        self._input_rows = 0
        self._failed_rows = 0
        self._failed: collections.Counter[str] = collections.Counter()
        self._first_at: float | None = None
        self._last_at: float | None = None

    def take(self, finished: Sequence[Finished]) -> None:
        for token, outcomes in finished:
            self._input_rows += 1
            result: Result = self._mode.finish(token, outcomes)
            if result.failures:
                self._failed_rows += 1
                self._fail(result.failures, result.records)
            if result.row is not None:
                self._held.append(result)
                self._held_bytes += result.nbytes
            if len(self._held) >= _BATCH_ROWS or self._held_bytes >= _BATCH_BYTES:
                self.flush()
        if finished:
            self._last_at = time.time()
            self._first_at = self._first_at or self._last_at

    def _fail(self, failures: Sequence[Failure], records: Sequence[Mapping[str, Any]]) -> None:
        self._failed.update(str(failure.code) for failure in failures)
        if self._job.fail_fast:
            raise DatasetError(f"{failures[0].row}: {failures[0]}; the job ends at its first failure, as asked")
        for record in records:
            self._writer.fail(record)

    def flush(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        rows = [result.row for result in held]
        fitting = fitting_batches(rows, lambda some: self._mode.batch(some, self._job.schema, self._dim))
        for batch in fitting.batches:
            self._writer.write(batch)
        for position, failure in fitting.misfits.items():
            self._take_back(held[position], failure)

    def _take_back(self, result: Result, misfit: Failure) -> None:
        """Count a row as a failure after all, and its vectors, which are not written, no more."""
        vectors = self._mode.vectors(result.row)
        there = sum(vector is not None for vector in vectors)
        self._stats.embedded -= there
        self._stats.nulls -= max(0, len(vectors) - there - len(result.failures))  # what is no vector failed or was null
        self._failed_rows += 0 if result.failures else 1
        failure = misfit.at(row=result.name)
        self._fail([failure], self._mode.records(result.row, [failure]))

    def counts(self) -> dict[str, Any]:
        return {
            "input_rows": self._input_rows,
            "failed_rows": self._failed_rows,
            "failed": dict(sorted(self._failed.items())),
            "first_row_at": self._first_at,
            "last_row_at": self._last_at,
        }
