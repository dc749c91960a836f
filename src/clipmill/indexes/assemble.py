"""What building an index and adding to one have in common: before the shards, and after them."""

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
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DatasetError
from ..files.file_systems import Folder, dataset_errors, is_local
from ..files.lock import DirectoryLock
from .hits import Hits
from .ids import count_ids
from .library import faiss_library, hnsw_of, ivf_of
from .manifest import BUILDING, STAGING, IndexManifest, Segment, clear, write_manifest
from .merge import Codes, StagedCodes, local_copy, merge_codes
from .opened import OpenIndex
from .pages import MappedArray, let_go_of_freed
from .recall import Truth, tune
from .shard import IndexJob
from .truth import merged

_BLOCK_BYTES = 32 * 2**20


@contextlib.contextmanager
def scratch_for(folder: Folder) -> Iterator[Path]:
    """Yield where files of an index in an object store are copied to; those of one on this machine stay where they are.

    Args:
        folder: Of the index, whose lock is held: what stands there of an earlier run is of a dead one, and deleted.
    """
    if is_local(folder.fs):
        yield Path(folder.path)
        return
    prefix = f"clipmill-index-{hashlib.sha256(folder.url.encode()).hexdigest()[:12]}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)  # another user's stays
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        yield Path(name)


def stage(folder: Folder, job: IndexJob, trained: Any | None, queries: np.ndarray, rows: np.ndarray) -> None:
    """Put what every shard needs where its worker finds it.

    Args:
        folder: Of the index.
        job: What is done with the shards.
        trained: The index without vectors, where codes for its lists are made.
        queries: (q, dim) float32 of length 1, whose neighbours are looked for.
        rows: (q,) int64, their numbers among the rows of the source, rising; -1 for others.
    """
    folder.make(STAGING)
    if trained is not None:
        folder.write(job.staged.trained, bytes(faiss_library().serialize_index(trained).data))
    held = io.BytesIO()
    np.savez(held, vectors=queries, rows=rows)
    folder.write(job.staged.queries, held.getvalue())


@dataclasses.dataclass(frozen=True)
class Tally:
    """What the shards reported, summed.

    Attributes:
        segments: Of those that have rows, in order of position.
        rows: Vectors that are in the index now.
        nulls: Rows without one.
        failed: Vectors that cannot be searched, by reason.
        skipped: Rows whose ids were there already.
        files: Bytes by name.
        codes: Names and rows of what was staged to be merged, in order of position.
    """

    segments: tuple[Segment, ...]
    rows: int
    nulls: int
    failed: dict[str, int]
    skipped: int
    files: dict[str, int]
    codes: tuple[tuple[str, int], ...]


def tally(folder: Folder, job: IndexJob, numbers: Sequence[int]) -> Tally:
    """Sum up what the shards reported, and delete the files of those without rows.

    Args:
        folder: Of the index.
        job: What was done with the shards: other jobs' reports are none.
        numbers: Of the shards.

    Raises:
        DatasetError: If one has reported nothing, and so was not built.
    """
    reports = [_report_of(folder, job, number) for number in numbers]
    with_rows = [report for report in reports if report["rows"]]
    clear(folder, [name for report in reports if not report["rows"] for name in report["files"]])
    failed: dict[str, int] = {}
    for report in reports:
        for reason, count in report["failed"].items():
            failed[reason] = failed.get(reason, 0) + count
    return Tally(
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


def staged_parts(folder: Folder, index: Any, found: Tally, first: int, scratch: Path) -> list[Codes]:
    """Return the codes that shards have staged for an index with lists.

    Args:
        folder: Of the index.
        index: Says how many lists there are, and how long codes are.
        found: What the shards reported.
        first: Position of the first of their rows.
        scratch: Where copies of files from an object store go.
    """
    ivf = ivf_of(index)
    parts: list[Codes] = []
    for name, rows in found.codes:
        path = local_copy(folder, name, scratch)
        parts.append(StagedCodes(path, int(ivf.code_size), first, rows=rows, lists=int(ivf.nlist)))
        first += rows
    return parts


def merge_into(folder: Folder, name: str, trained: Any, parts: Sequence[Codes], lock: DirectoryLock) -> int:
    """Write an index file of codes, whole or not at all; return its bytes."""
    with published(folder, name, lock) as target:
        merge_codes(trained, parts, target)
    let_go_of_freed()
    return folder.list()[name]


def fill(folder: Folder, name: str, index: Any, segments: Sequence[Segment], scratch: Path, lock: DirectoryLock) -> int:
    """Add the vectors of segments to an index in this process, and write it, whole or not at all; return its bytes.

    For kinds that cannot be put together from parts, such as graphs.
    """
    graph = hnsw_of(index)
    if graph is not None:
        graph.hnsw.efConstruction = _EF_CONSTRUCTION
    for segment in segments:
        vectors = MappedArray(local_copy(folder, segment.vectors, scratch), (segment.rows, index.d))
        vectors.advise(random=False)
        rows = max(1, _BLOCK_BYTES // (index.d * 4))
        for start in range(0, segment.rows, rows):
            index.add(np.ascontiguousarray(vectors.array[start : start + rows], np.float32))
            vectors.let_go()
    with published(folder, name, lock) as target, dataset_errors("write", f"{folder.url}/{name}"):
        faiss_library().write_index(index, str(target))
    return folder.list()[name]


_EF_CONSTRUCTION = 64
"""Rows that are kept in view while a row is put into the graph."""


@contextlib.contextmanager
def published(folder: Folder, name: str, lock: DirectoryLock) -> Iterator[Path]:
    """Yield a local path, whose file is put in place under a name if the block ends well and the lock is still held."""
    target = folder.temporary(name)
    try:
        yield target
        lock.check()
        folder.publish(target, name)
    finally:
        target.unlink(missing_ok=True)


def gather_truth(
    folder: Folder, job: IndexJob, found: Tally, first: int, queries: np.ndarray, scratch: Path
) -> tuple[Hits, np.ndarray]:
    """Put together what the shards know of the queries' true neighbours.

    Args:
        folder: Of the index.
        job: What was done with the shards.
        found: What they reported.
        first: Position of the first of their rows.
        queries: (q, dim), those that were staged.
        scratch: Where copies of files from an object store go.

    Returns:
        The best of each query, and where the queries themselves came to stand, (q,) int64, -1 where they did not.
    """
    parts: list[Hits] = []
    places = np.full(len(queries), -1, np.int64)
    for segment in found.segments:
        with np.load(local_copy(folder, job.staged.truth(segment.number), scratch)) as held:
            positions = np.where(held["positions"] < 0, -1, held["positions"] + first)
            parts.append(Hits(held["scores"], positions))
            here = held["places"] >= 0
            places[here] = held["places"][here] + first
        if len(parts) > 1:
            parts = [merged(parts, parts[0].scores.shape[1])]
        first += segment.rows
    return parts[0], places


def finish(
    folder: Folder, manifest: IndexManifest, truth: Truth, target: float, scratch: Path, lock: DirectoryLock
) -> IndexManifest:
    """Measure an index whose files are in place, and make it whole by its manifest.

    Args:
        folder: Of the index.
        manifest: Without search parameters and recall.
        truth: What searches should find.
        target: Share that they should.
        scratch: Where copies of files from an object store go.
        lock: Of the index; who has lost it while all this was done has nothing to say any more.

    Raises:
        DatasetError: If a file cannot be read, or the lock is somebody else's.
    """
    directory = folder.path
    if not is_local(folder.fs):
        directory = str(scratch / "index")
        for name in manifest.files:
            place = Path(directory) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with dataset_errors("copy", f"{folder.url}/{name}"):
                folder.fs.get_file(folder.at(name), str(place))
    index = OpenIndex(directory, manifest)
    parameters, recall = tune(index, truth, target)
    manifest = dataclasses.replace(manifest, search=parameters, recall=recall, ids=count_ids(index))
    lock.check()
    write_manifest(folder, manifest)
    clear(folder, [BUILDING, *(name for name in folder.list() if name.startswith(f"{STAGING}/"))])
    return manifest


def now() -> str:
    """Return the time as manifests say it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
