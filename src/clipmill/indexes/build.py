"""An index from its datasets: planned, trained, built shard by shard on whatever engine, merged and measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import __version__
from ..errors import DatasetError, SpecError
from ..files.file_systems import Folder
from ..files.lock import DirectoryLock
from .assemble import Tally, fill, finish, gather_truth, merge_into, now, scratch_for, stage, staged_parts, tally
from .library import faiss_library, hnsw_of, ivf_of, make_index, reason_of, use_threads
from .manifest import INDEX, IndexManifest, SearchParameters, prepare_index
from .merge import can_merge
from .pages import let_go_of_freed
from .plan import DEFAULT_MEMORY, PROCESS_BYTES, IndexPlan, plan_factory, plan_index
from .recall import QUERIES, K, Truth
from .sample import draw
from .shard import IndexJob, IndexShard, build_shard, cut
from .source import Source, open_source

ROWS_PER_SHARD = 65_536
_BLOCK_SHARE, _LEAST_BLOCK, _MOST_BLOCK = 64, 2**20, 8 * 2**20
"""Vectors that a worker holds in work at a time: this part of what it may hold beside itself, and bounds of that. What
reading, scaling and encoding them takes is some twelve times as much."""
_CODES_SHARE, _LEAST_CODES, _MOST_CODES = 8, 4 * 2**20, 64 * 2**20
"""The same of codes that are held before they are staged."""
_VIEW, _VIEW_BUILDING = 64, 200
"""Lists that the graph of lists keeps in view while vectors are assigned, and while it is built: centroids are about as
far from each other as they can be, and with less in view a graph of them misses the nearest."""

RunShards = Callable[[Sequence[IndexShard], IndexJob], None]
"""Does `build_shard` with every shard, on whatever engine."""


@dataclasses.dataclass(frozen=True, slots=True)
class IndexOptions:
    """What a user may say of an index.

    Attributes:
        column: The column of vectors; found where there is one.
        factory: A factory string of Faiss; planned by default.
        max_memory_bytes: What each process may hold; see `plan_index`.
        dtype: Of the full vectors on disk, `float32` or `float16`.
        target_recall: Share of the true ten nearest that searches should find.
        queries: Rows that recall is measured with.
        rows_per_shard: Rows in one unit of work, at most.
        partial: Whether datasets whose jobs have not ended are taken as they are.
        seed: Decides which rows are drawn.
    """

    column: str | None = None
    factory: str | None = None
    max_memory_bytes: int = DEFAULT_MEMORY
    dtype: str = "float32"
    target_recall: float = 0.95
    queries: int = QUERIES
    rows_per_shard: int = ROWS_PER_SHARD
    partial: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.target_recall <= 1:
            raise SpecError(f"target_recall={self.target_recall} is not above 0 and at most 1")
        if self.queries < 1 or self.rows_per_shard < 1:
            raise SpecError(f"queries={self.queries} and rows_per_shard={self.rows_per_shard} are at least 1")


def run_here(shards: Sequence[IndexShard], job: IndexJob) -> None:
    """Build shards one after the other in this process; Faiss computes on all its cores."""
    for shard in shards:
        build_shard(shard, job)


def plan_of(source: Source, options: IndexOptions) -> IndexPlan:
    """Plan an index of a source.

    Raises:
        DatasetError: If there are no vectors.
        SpecError: See `plan_index` and `plan_factory`.
    """
    if not source.rows or not source.dim:
        raise DatasetError(
            f"no vectors in column {source.column!r} of {', '.join(one['location'] for one in source.datasets)}: "
            f"{source.rows:,} rows, none with a vector"
        )
    memory, dtype = options.max_memory_bytes, options.dtype
    if options.factory is not None:
        return plan_factory(source.rows, source.dim, options.factory, memory, dtype=dtype)
    return plan_index(source.rows, source.dim, memory, dtype=dtype)


def build_index(
    datasets: Sequence[str],
    output: str,
    options: IndexOptions | None = None,
    *,
    overwrite: bool = False,
    run: RunShards = run_here,
    told: Callable[[IndexPlan], None] | None = None,
) -> IndexManifest:
    """Make an index of datasets.

    Killed at any moment it leaves a directory that no search takes for an index, and that the same call begins anew.

    Args:
        datasets: Directories that `clipmill embed` wrote, or Parquet files with vectors.
        output: Directory or URL of the index.
        options: What it is to be.
        overwrite: Whether an index that stands there is replaced.
        run: Does the shards, on an engine.
        told: Hears the plan before anything is done.

    Returns:
        The manifest that was written.

    Raises:
        DatasetError: If the datasets do not fit together or have no vectors, the output cannot be written, or another
            job writes it.
        SpecError: If options contradict each other, or memory does not suffice.
        MissingExtraError: If Faiss is not installed.
    """
    faiss_library()
    options = options or IndexOptions()
    source = open_source(datasets, column=options.column, partial=options.partial)
    plan = plan_of(source, options)
    if told is not None:
        told(plan)
    folder = Folder.of(output)
    refuse_own_input(folder, source)
    with DirectoryLock(folder.url) as lock, scratch_for(folder) as scratch:
        prepare_index(folder, overwrite=overwrite, description={"clipmill": __version__, "plan": plan.as_dict()})
        trained, queries, rows = _prepared(source, plan, options)
        has_lists = trained is not None and can_merge(trained)
        job = job_of(folder, source, plan, lock.token, has_lists=has_lists)
        stage(folder, job, trained if has_lists else None, queries, rows)
        shards = cut(source.groups, options.rows_per_shard)
        run(shards, job)
        lock.check()
        found = tally(folder, job, [shard.number for shard in shards])
        _refuse_nothing(source, found)
        files = found.files
        if has_lists:
            parts = staged_parts(folder, trained, found, 0, scratch)
            files = {**files, INDEX: merge_into(folder, INDEX, trained, parts, lock)}
        elif trained is not None:
            files = {**files, INDEX: fill(folder, INDEX, trained, found.segments, scratch, lock)}
        del trained
        manifest = _draft(source, plan, options, found, files)
        hits, places = gather_truth(folder, job, found, 0, queries, scratch)
        return finish(folder, manifest, Truth(queries, places, hits), options.target_recall, scratch, lock)


def _refuse_nothing(source: Source, found: Tally) -> None:
    if not found.rows:
        raise DatasetError(
            f"none of the {source.rows:,} rows has a vector that can be searched: "
            + ", ".join(
                f"{count:,} {reason.replace('_', ' ')}"
                for reason, count in {"null": found.nulls, **found.failed}.items()
            )
        )


def _draft(
    source: Source, plan: IndexPlan, options: IndexOptions, found: Tally, files: dict[str, int]
) -> IndexManifest:
    """Return the manifest of an index that has not been measured."""
    return IndexManifest(
        clipmill=__version__,
        created=now(),
        updated=now(),
        column=source.column,
        dim=source.dim,
        rows=found.rows,
        dtype=options.dtype,
        kind=plan.kind,
        factory=plan.factory,
        plan=plan.as_dict(),
        provenance=source.provenance,
        search=SearchParameters(),
        recall=None,
        nulls=found.nulls,
        failed=found.failed,
        skipped=0,
        datasets=source.datasets,
        trained_rows=found.rows if INDEX in files else 0,
        segments=found.segments,
        index_file=INDEX if INDEX in files else None,
        files=files,
    )


def _prepared(source: Source, plan: IndexPlan, options: IndexOptions) -> tuple[Any | None, np.ndarray, np.ndarray]:
    """Return the trained index without vectors, the queries, and their numbers among the rows."""
    use_threads(None)
    sample = draw(source, plan.train_rows, options.queries, options.seed)
    trained = None if plan.kind == "exact" else _train(plan, sample.training)
    queries, rows = sample.queries, sample.query_rows
    del sample
    let_go_of_freed()
    return trained, queries, rows


def _train(plan: IndexPlan, vectors: np.ndarray) -> Any:
    index = make_index(plan.dim, plan.factory)
    ivf = ivf_of(index)
    quantiser = None if ivf is None else hnsw_of(ivf.quantizer)
    if quantiser is not None:
        quantiser.hnsw.efConstruction = _VIEW_BUILDING
        quantiser.hnsw.efSearch = _VIEW
    if not index.is_trained:
        if not len(vectors):
            raise DatasetError("no vector to train the index on: all that were drawn are null, zero or not finite")
        try:
            index.train(vectors)
        except RuntimeError as err:
            raise DatasetError(
                f"{plan.factory} cannot be trained on {len(vectors):,} vectors of {plan.dim} values: {reason_of(err)}; "
                "take another factory, or leave it out"
            ) from err
    return index


def job_of(folder: Folder, source: Source, plan: IndexPlan, run: str, *, has_lists: bool) -> IndexJob:
    """Return what every worker needs.

    Args:
        folder: Of the index.
        source: What is read.
        plan: Says what is kept of it, and in how much memory.
        run: The mark of this building or adding.
        has_lists: Whether codes for inverted lists are made.
    """
    room = max(0, plan.max_memory_bytes - PROCESS_BYTES)
    return IndexJob(
        directory=folder.url,
        column=source.column,
        dim=source.dim,
        dtype=plan.dtype,
        keys=source.keys,
        has_lists=has_lists,
        nearest=K + 1,
        run=run,
        block_bytes=min(max(room // _BLOCK_SHARE, _LEAST_BLOCK), _MOST_BLOCK),
        held_bytes=min(max(room // _CODES_SHARE, _LEAST_CODES), _MOST_CODES),
    )


def refuse_own_input(folder: Folder, source: Source) -> None:
    """Refuse to write an index into a dataset that it is made of.

    Raises:
        DatasetError: If that was asked for.
    """
    for dataset in source.datasets:
        place = str(dataset["location"])
        if folder.url == place or folder.url.startswith(place.rstrip("/") + "/"):
            raise DatasetError(f"the index {folder.url} would lie in its own dataset {place}; choose another directory")
