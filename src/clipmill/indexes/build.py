"""`build_index`: plans and trains an index, builds its shards on any engine, merges them and measures the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import __version__
from ..errors import DatasetError, SpecError, check_integer
from ..files.folder import Folder
from ..files.lock import DirectoryLock
from ..files.parted_list import store
from ..messages import setting
from .assemble import (
    ShardTotals,
    fill_index,
    gather_ground_truth,
    measure_and_publish,
    publish_merged,
    scratch_for,
    stage_inputs,
    staged_parts,
    sum_reports,
    utc_now,
)
from .library import faiss_library, hnsw_of, ivf_of, make_index, reason_of, use_threads
from .manifest import IndexManifest, SearchParameters
from .merge import can_merge
from .pages import trim_heap
from .plan import DEFAULT_MEMORY, PROCESS_BYTES, IndexPlan, plan_factory, plan_index
from .prepare import clear_orphans, next_index_file, prepare_index
from .recall import QUERIES, GroundTruth, K
from .sample import draw_sample
from .shard import STORED_SHARDS, IndexJob, IndexShard, build_shard, cut_shards
from .source import VectorSource, open_source

ROWS_PER_SHARD = 65_536
_BLOCK_SHARE, _LEAST_BLOCK, _MOST_BLOCK = 64, 2**20, 8 * 2**20
"""Size of the vectors that a worker processes at a time: this share of its memory, within bounds. Reading, scaling
and encoding them takes about twelve times as much."""
_CODES_SHARE, _LEAST_CODES, _MOST_CODES = 8, 4 * 2**20, 64 * 2**20
"""The same for codes that are held before they are staged."""
_EF_SEARCH, _EF_CONSTRUCTION = 64, 200
"""`efSearch` and `efConstruction` of a graph of centroids. Centroids are far apart in all directions, so that with
lower values the graph misses the nearest one."""

RunShards = Callable[[Sequence[IndexShard], IndexJob], None]
"""Calls `build_shard` with every shard, on an engine. The list of shards pickles to its address."""


@dataclasses.dataclass(frozen=True, slots=True)
class IndexOptions:
    """The options of an index.

    Attributes:
        column: The column of vectors; needed where there are several.
        factory: A factory string of Faiss; planned by default.
        max_memory_bytes: Memory of each process; see `plan_index`.
        dtype: Of the full vectors on disk, `float32` or `float16`.
        target_recall: Share of the ten true nearest rows that searches should find.
        queries: Rows that recall is measured with.
        rows_per_shard: Rows of a shard, at most.
        partial: Whether datasets whose jobs have not ended are accepted.
        seed: Seed of the rows that are drawn for training and as queries.
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
            raise SpecError(setting("target_recall", self.target_recall) + " must be above 0 and at most 1")
        check_integer("queries", self.queries)
        check_integer("rows_per_shard", self.rows_per_shard)


def run_locally(shards: Sequence[IndexShard], job: IndexJob) -> None:
    """Build shards one after the other in this process; Faiss computes on all its cores."""
    for shard in shards:
        build_shard(shard, job)


def plan_of(source: VectorSource, options: IndexOptions) -> IndexPlan:
    """Plan an index of a source; raise `DatasetError` if there are no vectors."""
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
    run: RunShards = run_locally,
    on_plan: Callable[[IndexPlan], None] | None = None,
) -> IndexManifest:
    """Build an index of datasets.

    A build that is killed leaves a directory that does not open as an index, or the index that it was to replace. The
    same call starts over.

    Args:
        datasets: Directories that `clipmill embed` wrote, or Parquet files with vectors.
        output: Directory or URL of the index.
        options: Options of the index.
        overwrite: Whether an existing index is replaced; it opens until the new one is complete.
        run: Builds the shards, on an engine.
        on_plan: Called with the plan before anything is written.

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
    if on_plan is not None:
        on_plan(plan)
    refuse_own_input(folder := Folder.of(output), source)
    with DirectoryLock(folder.url) as lock, scratch_for(folder) as scratch:
        about = {"clipmill": __version__, "plan": plan.as_dict()}
        index_file = next_index_file(prepare_index(folder, overwrite=overwrite, description=about))
        trained, queries, rows = _train_and_draw(source, plan, options)
        has_lists = trained is not None and can_merge(trained)
        job = job_of(folder, source, plan, lock.token, has_lists=has_lists)
        stage_inputs(folder, job, trained if has_lists else None, queries, rows)
        shards = cut_shards(source.groups, options.rows_per_shard)
        run(store(shards, folder, job.staged.shards, STORED_SHARDS), job)
        lock.check()
        found = sum_reports(folder, job, [shard.number for shard in shards])
        _check_any_rows(source, found)
        files = found.files
        if has_lists:
            parts = staged_parts(folder, trained, found, 0, scratch)
            files = {**files, index_file: publish_merged(folder, index_file, trained, parts, lock)}
        elif trained is not None:
            files = {**files, index_file: fill_index(folder, index_file, trained, found.segments, scratch, lock)}
        del trained
        manifest = _unmeasured_manifest(source, plan, options, found, files, index_file)
        hits, own_positions = gather_ground_truth(folder, job, found, 0, queries, scratch)
        ground_truth = GroundTruth(queries, own_positions, hits)
        manifest = measure_and_publish(folder, manifest, ground_truth, options.target_recall, scratch, lock)
        clear_orphans(folder, manifest)
        return manifest


def _check_any_rows(source: VectorSource, found: ShardTotals) -> None:
    if not found.rows:
        raise DatasetError(
            f"none of the {source.rows:,} rows has a vector that can be searched: "
            + ", ".join(
                f"{count:,} {reason.replace('_', ' ')}"
                for reason, count in {"null": found.nulls, **found.failed}.items()
            )
        )


def _unmeasured_manifest(
    source: VectorSource,
    plan: IndexPlan,
    options: IndexOptions,
    found: ShardTotals,
    files: dict[str, int],
    index_file: str,
) -> IndexManifest:
    """Return the manifest of an index before its recall is measured."""
    return IndexManifest(
        clipmill=__version__,
        created=utc_now(),
        updated=utc_now(),
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
        trained_rows=found.rows if index_file in files else 0,
        segments=found.segments,
        index_file=index_file if index_file in files else None,
        files=files,
    )


def _train_and_draw(
    source: VectorSource, plan: IndexPlan, options: IndexOptions
) -> tuple[Any | None, np.ndarray, np.ndarray]:
    """Return the trained index without vectors, the queries, and their numbers among the rows."""
    use_threads(None)
    sample = draw_sample(source, plan.train_rows, options.queries, options.seed)
    trained = None if plan.kind == "exact" else _train(plan, sample.training)
    queries, rows = sample.queries, sample.query_rows
    del sample
    trim_heap()
    return trained, queries, rows


def _train(plan: IndexPlan, vectors: np.ndarray) -> Any:
    index = make_index(plan.dim, plan.factory)
    ivf = ivf_of(index)
    quantiser = None if ivf is None else hnsw_of(ivf.quantizer)
    if quantiser is not None:
        quantiser.hnsw.efConstruction = _EF_CONSTRUCTION
        quantiser.hnsw.efSearch = _EF_SEARCH
    if not index.is_trained:
        if not len(vectors):
            raise DatasetError(
                "no vector to train the index on: all drawn rows are null, zero or not finite; check the vectors"
            )
        try:
            index.train(vectors)
        except RuntimeError as err:
            raise DatasetError(
                f"{plan.factory} cannot be trained on {len(vectors):,} vectors of {plan.dim} values: {reason_of(err)}; "
                "choose another factory, or leave it out"
            ) from err
    return index


def job_of(folder: Folder, source: VectorSource, plan: IndexPlan, run: str, *, has_lists: bool) -> IndexJob:
    """Return what every worker needs; `run` is this run's id."""
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


def refuse_own_input(folder: Folder, source: VectorSource) -> None:
    """Raise `DatasetError` if the folder of the index is in one of its own datasets."""
    for dataset in source.datasets:
        place = str(dataset["location"])
        if folder.url == place or folder.url.startswith(place.rstrip("/") + "/"):
            raise DatasetError(
                f"the index {folder.url} would be inside its own dataset {place}; choose another directory"
            )
