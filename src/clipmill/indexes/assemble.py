"""The steps before and after the shards, which building an index and adding to one share."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DatasetError
from ..files.file_systems import dataset_errors, is_local
from ..files.folder import Folder
from ..files.lock import DirectoryLock
from .codes import Codes, StagedCodes
from .exact import merge_hits
from .hits import Hits
from .ids import count_ids
from .library import faiss_library, hnsw_of, ivf_of
from .local_copy import local_path
from .manifest import BUILDING, STAGING, IndexManifest, Segment, write_manifest
from .merge import merge_codes
from .opened import OpenIndex
from .pages import MappedArray, trim_heap
from .prepare import clear
from .recall import GroundTruth, tune
from .shard import IndexJob

_BLOCK_BYTES = 32 * 2**20


@contextlib.contextmanager
def scratch_for(folder: Folder) -> Iterator[Path]:
    """Yield the folder for local copies of files: a temporary one for an object store, else the index.

    Copies that exist are of a dead run, since the lock of the index is held, and are deleted.
    """
    if is_local(folder.fs):
        yield Path(folder.path)
        return
    prefix = f"clipmill-index-{hashlib.sha256(folder.url.encode()).hexdigest()[:12]}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)  # another user's cannot be deleted
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        yield Path(name)


def stage_inputs(folder: Folder, job: IndexJob, trained: Any | None, queries: np.ndarray, rows: np.ndarray) -> None:
    """Write what every worker needs into the staging folder.

    `trained` is the index without vectors, if workers make codes for its lists. `queries` are (q, dim) float32 of
    length 1, whose ground truth is searched; `rows`, (q,) int64, are their numbers among the rows of the source,
    rising, or -1 for queries from elsewhere.
    """
    folder.make(STAGING)
    if trained is not None:
        folder.write(job.staged.trained, bytes(faiss_library().serialize_index(trained).data))
    held = io.BytesIO()
    np.savez(held, vectors=queries, rows=rows)
    folder.write(job.staged.queries, held.getvalue())


@dataclasses.dataclass(frozen=True)
class ShardTotals:
    """The sums of the shards' reports.

    Attributes:
        segments: Of those that have rows, in order of position.
        rows: Vectors in the index.
        nulls: Rows without a vector.
        skipped: Rows whose ids were in the index already.
        files: Bytes by name.
        codes: Name and rows of each file of staged codes, in order of position.
    """

    segments: tuple[Segment, ...]
    rows: int
    nulls: int
    failed: dict[str, int]
    skipped: int
    files: dict[str, int]
    codes: tuple[tuple[str, int], ...]


def sum_reports(folder: Folder, job: IndexJob, numbers: Sequence[int]) -> ShardTotals:
    """Sum the reports of the shards, and delete files of those without rows; `DatasetError` if one has no report."""
    reports = [_report_of(folder, job, number) for number in numbers]
    with_rows = [report for report in reports if report["rows"]]
    clear(folder, [name for report in reports if not report["rows"] for name in report["files"]])
    failed: dict[str, int] = {}
    for report in reports:
        for reason, count in report["failed"].items():
            failed[reason] = failed.get(reason, 0) + count
    return ShardTotals(
        segments=tuple(Segment(report["number"], report["rows"], job.run) for report in with_rows),
        rows=sum(report["rows"] for report in with_rows),
        nulls=sum(report["nulls"] for report in reports),
        failed={reason: count for reason, count in failed.items() if count},
        skipped=sum(report["skipped"] for report in reports),
        files={name: size for report in with_rows for name, size in report["files"].items()},
        codes=tuple((name, rows) for report in with_rows for name, rows in report["codes"]),
    )


def _report_of(folder: Folder, job: IndexJob, number: int) -> dict[str, Any]:
    try:
        return dict(json.loads(folder.read(job.staged.report(number))))
    except FileNotFoundError:
        raise DatasetError(
            f"{folder.url}: shard {number} was not built, though its engine reported no failure; build the index again"
        ) from None


def staged_parts(folder: Folder, index: Any, found: ShardTotals, first: int, scratch: Path) -> list[Codes]:
    """Return the codes that the shards have staged; `first` is the position of their first row."""
    ivf = ivf_of(index)
    parts: list[Codes] = []
    for name, rows in found.codes:
        path = local_path(folder, name, scratch)
        parts.append(StagedCodes(path, int(ivf.code_size), first, rows=rows, lists=int(ivf.nlist)))
        first += rows
    return parts


def publish_merged(folder: Folder, name: str, trained: Any, parts: Sequence[Codes], lock: DirectoryLock) -> int:
    """Merge codes into an index file, publish it atomically, and return its size."""
    with publishing(folder, name, lock) as target:
        merge_codes(trained, parts, target)
    trim_heap()
    return folder.list()[name]


def fill_index(
    folder: Folder, name: str, index: Any, segments: Sequence[Segment], scratch: Path, lock: DirectoryLock
) -> int:
    """Add the vectors of segments to an index in this process, publish it atomically, and return its size.

    For kinds that cannot be merged from parts, such as graphs.
    """
    graph = hnsw_of(index)
    if graph is not None:
        graph.hnsw.efConstruction = _EF_CONSTRUCTION
    for segment in segments:
        vectors = MappedArray(local_path(folder, segment.vectors, scratch), (segment.rows, index.d))
        vectors.advise(random=False)
        rows = max(1, _BLOCK_BYTES // (index.d * 4))
        for start in range(0, segment.rows, rows):
            index.add(np.ascontiguousarray(vectors.array[start : start + rows], np.float32))
            vectors.release_pages()
    with publishing(folder, name, lock) as target, dataset_errors("write", f"{folder.url}/{name}"):
        faiss_library().write_index(index, str(target))
    return folder.list()[name]


_EF_CONSTRUCTION = 64
"""Candidate neighbours of a row while it is inserted into the graph."""


@contextlib.contextmanager
def publishing(folder: Folder, name: str, lock: DirectoryLock) -> Iterator[Path]:
    """Yield a local path; publish its file under a name if the block succeeds and the lock is still held."""
    target = folder.temporary(name)
    try:
        yield target
        lock.check()
        folder.publish(target, name)
    finally:
        target.unlink(missing_ok=True)


def gather_ground_truth(
    folder: Folder, job: IndexJob, found: ShardTotals, first: int, queries: np.ndarray, scratch: Path
) -> tuple[Hits, np.ndarray]:
    """Merge the ground truth of the shards for the staged queries; `first` is the position of the shards' first row.

    Returns:
        The nearest rows of each query, and the positions of the queries themselves, (q,) int64, -1 for those that are
        not among these rows.
    """
    hits: list[Hits] = []
    own_positions = np.full(len(queries), -1, np.int64)
    for segment in found.segments:
        with np.load(local_path(folder, job.staged.ground_truth(segment.number), scratch)) as staged:
            positions = np.where(staged["positions"] < 0, -1, staged["positions"] + first)
            hits.append(Hits(staged["scores"], positions))
            is_here = staged["own"] >= 0
            own_positions[is_here] = staged["own"][is_here] + first
        if len(hits) > 1:
            hits = [merge_hits(hits, hits[0].scores.shape[1])]
        first += segment.rows
    return hits[0], own_positions


def measure_and_publish(
    folder: Folder,
    manifest: IndexManifest,
    ground_truth: GroundTruth,
    target: float,
    scratch: Path,
    lock: DirectoryLock,
) -> IndexManifest:
    """Measure the recall of an index whose files are in place, and publish its manifest, which completes it.

    The manifest comes without search parameters and recall. A process that has lost the lock meanwhile does not
    publish.

    Raises:
        DatasetError: If a file cannot be read, or another process holds the lock.
    """
    directory = folder.path
    if not is_local(folder.fs):
        directory = str(scratch / "index")
        for name in manifest.files:
            place = Path(directory) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with dataset_errors("copy", f"{folder.url}/{name}"):
                folder.call(partial(folder.fs.get_file, folder.at(name), str(place)))
    index = OpenIndex(directory, manifest)
    parameters, recall = tune(index, ground_truth, target)
    manifest = dataclasses.replace(manifest, search=parameters, recall=recall, ids=count_ids(index))
    lock.check()
    write_manifest(folder, manifest)
    clear(folder, [BUILDING, *(name for name in folder.list() if name.startswith(f"{STAGING}/"))])
    return manifest


def utc_now() -> str:
    """Return the time as manifests have it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
