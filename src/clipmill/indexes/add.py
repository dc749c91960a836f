"""Adds rows to an index. Its rows keep their positions, and it stays usable until the new one is complete."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files.folder import Folder
from ..files.lock import DirectoryLock
from ..files.parted_list import store
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
from .build import IndexOptions, RunShards, job_of, refuse_own_input, run_locally
from .codes import Codes
from .compatible import check_fits, check_memory, rebuild_hint, unify_columns
from .exact import merge_hits, nearest_of_blocks
from .ids import IdComparison, compare_ids
from .library import faiss_library, use_threads
from .local_copy import local_path
from .manifest import BUILDING, IndexManifest, manifest_bytes, parse_manifest
from .merge import codes_of_index
from .opened import OpenIndex, open_index
from .plan import IndexPlan
from .prepare import clear, clear_orphans, next_index_file
from .recall import GroundTruth, K
from .sample import draw_sample
from .shard import STORED_SHARDS, IndexShard, cut_shards
from .source import VectorSource, open_source

_log = logging.getLogger("clipmill")


@dataclasses.dataclass(frozen=True, slots=True)
class Added:
    """The result of one call of `add_to_index`; the manifest has the sums of all calls.

    Attributes:
        manifest: Of the index after the call; the old one if nothing was added.
        rows: Vectors that were added.
        skipped: Rows that were skipped because their id was in the index already.
        nulls: Rows without a vector.
        failed: Vectors that cannot be searched, by reason.
        unnamed: Rows without an id among all that were given: they are added whether they are in the index or not.
    """

    manifest: IndexManifest
    rows: int = 0
    skipped: int = 0
    nulls: int = 0
    failed: dict[str, int] = dataclasses.field(default_factory=dict)
    unnamed: int = 0


def add_to_index(
    datasets: Sequence[str],
    directory: str,
    options: IndexOptions | None = None,
    *,
    skip_existing: bool = False,
    run: RunShards = run_locally,
) -> Added:
    """Add the rows of datasets to an index, and measure it again.

    Rows of the index keep their positions. Until the new manifest is in place, the old index is the one that opens,
    even after a crash. Processes that have it open keep using it.

    Args:
        datasets: As in `build_index`.
        directory: Of the index.
        options: Only `column`, `target_recall`, `queries`, `rows_per_shard`, `partial` and `seed` are used; the others
            were fixed when the index was built.
        skip_existing: Whether rows whose `id` is in the index are skipped; otherwise they are refused. Rows without an
            id are always added.
        run: Builds the shards, on an engine.

    Raises:
        DatasetError: If there is no complete index, vectors come from another model or have another dimension, ids are
            in the index already, or another job writes the index.
        SpecError: If the memory that the index was planned for does not suffice any more.
        MissingExtraError: If Faiss is not installed.
    """
    options = options or IndexOptions()
    folder, source = _open_compatible(datasets, directory, options)
    with DirectoryLock(folder.url) as lock, scratch_for(folder) as scratch:
        old = parse_manifest(folder.url, manifest_bytes(folder.url))  # again: another job may have written meanwhile
        if not source.rows or not source.dim:
            return Added(old, nulls=source.rows)
        check_fits(folder.url, old, source)
        clear_orphans(folder, old)
        index = open_index(folder.url)
        source, compared = _compare_ids(source, index, skip_existing=skip_existing, where=folder.url)
        if len(compared.existing) == source.rows:
            return Added(old, skipped=source.rows)
        folder.write(BUILDING, b"{}")
        return _AddRun(folder, old, index, source, options, scratch, lock).run(compared, run)


def preview_add(
    datasets: Sequence[str], directory: str, options: IndexOptions | None = None, *, skip_existing: bool = False
) -> Added:
    """Return what `add_to_index` would return for the same arguments; write nothing.

    No vector is read: `rows` counts the rows that would be added if all of them have a vector that can be searched.

    Raises:
        DatasetError, SpecError, MissingExtraError: As `add_to_index`, except that another job may be writing the index.
    """
    options = options or IndexOptions()
    folder, source = _open_compatible(datasets, directory, options)
    index = open_index(folder.url)
    if not source.rows or not source.dim:
        return Added(index.manifest, nulls=source.rows)
    source, compared = _compare_ids(source, index, skip_existing=skip_existing, where=folder.url)
    skipped = len(compared.existing)
    return Added(index.manifest, source.rows - skipped, skipped, unnamed=compared.unnamed)


def _open_compatible(datasets: Sequence[str], directory: str, options: IndexOptions) -> tuple[Folder, VectorSource]:
    """Return the folder of the index and the rows to add, after checking that their vectors fit."""
    faiss_library()
    folder = Folder.of(directory)
    old = parse_manifest(folder.url, manifest_bytes(folder.url))
    source = open_source(datasets, column=options.column or old.column, partial=options.partial)
    refuse_own_input(folder, source)
    if source.rows and source.dim:
        check_fits(folder.url, old, source)
    return folder, source


def _compare_ids(
    source: VectorSource, index: OpenIndex, *, skip_existing: bool, where: str
) -> tuple[VectorSource, IdComparison]:
    """Return the source with all columns of the index, and which of its rows are in the index already."""
    source = dataclasses.replace(source, keys=unify_columns(index.key_schema, source.keys))
    compared = compare_ids(source, index, skip_existing=skip_existing, where=where)
    check_memory(index.manifest, source.rows - len(compared.existing))
    return source, compared


@dataclasses.dataclass(frozen=True)
class _AddRun:
    """One run of `add_to_index`, which holds the lock.

    Attributes:
        old: The manifest before the run.
        index: The index before the run, opened from files on this machine.
        scratch: Where copies of files from an object store go.
    """

    folder: Folder
    old: IndexManifest
    index: OpenIndex
    source: VectorSource
    options: IndexOptions
    scratch: Path
    lock: DirectoryLock

    def run(self, compared: IdComparison, run: RunShards) -> Added:
        """Build the new shards, merge their codes with those of the index, measure, and publish the new manifest."""
        folder, old, skipped = self.folder, self.old, compared.existing
        use_threads(None)
        queries, own_positions, query_rows = self._queries(skipped)
        path = None if old.index_file is None else local_path(folder, old.index_file, self.scratch)
        mergeable = None if path is None else codes_of_index(path)
        plan = IndexPlan(**{**old.plan, "reasons": tuple(old.plan["reasons"])})
        job = job_of(folder, self.source, plan, self.lock.token, has_lists=mergeable is not None)
        stage_inputs(folder, job, None if mergeable is None else mergeable[0], queries, query_rows)
        first = max(segment.number for segment in old.segments) + 1
        shards = _without_skipped(cut_shards(self.source.groups, self.options.rows_per_shard, first=first), skipped)
        run(store(shards, folder, job.staged.shards, STORED_SHARDS), job)
        self.lock.check()
        totals = sum_reports(folder, job, [shard.number for shard in shards])
        added = Added(old, totals.rows, len(skipped), totals.nulls, totals.failed, compared.unnamed)
        if not totals.rows:
            clear_orphans(folder, old)
            return added
        files = {**old.files, **totals.files}
        index_file = None
        if path is not None and old.index_file is not None:
            index_file = next_index_file(old)
            del files[old.index_file]
            files[index_file] = self._write_index(index_file, path, mergeable, totals)
        hits, new_positions = gather_ground_truth(folder, job, totals, old.rows, queries, self.scratch)
        hits = merge_hits([nearest_of_blocks(queries, self.index.blocks(), K + 1), hits], K + 1)
        own_positions = np.where(own_positions < 0, new_positions, own_positions)
        manifest = measure_and_publish(
            folder,
            self._new_manifest(totals, len(skipped), index_file, files),
            GroundTruth(queries, own_positions, hits),
            self.options.target_recall,
            self.scratch,
            self.lock,
        )
        if old.index_file is not None:
            clear(folder, [old.index_file])
        if hint := rebuild_hint(manifest):
            _log.warning("%s: %s", folder.url, hint)
        return dataclasses.replace(added, manifest=manifest)

    def _queries(self, skipped: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw queries from the old and the new rows, in proportion to their numbers.

        Args:
            skipped: Numbers of rows of the source that are not added, and so can be no query.

        Returns:
            The queries, (q, dim) float32; positions of those that are in the index, -1 for new ones; numbers of the new
            ones among the rows of the source, -1 for old ones.
        """
        old, source, options = self.old, self.source, self.options
        added = source.rows - len(skipped)
        count = max(1, round(options.queries * added / (added + old.rows)))
        new = draw_sample(source, 0, count, options.seed, left_out=skipped)
        count = min(old.rows, max(1, options.queries - len(new.queries)))
        positions = np.sort(np.random.default_rng(options.seed).choice(old.rows, count, replace=False))
        queries = np.concatenate([self.index.vectors(positions), new.queries])
        own_positions = np.concatenate([positions, np.full(len(new.queries), -1, np.int64)])
        return queries, own_positions, np.concatenate([np.full(count, -1), new.query_rows])

    def _write_index(self, name: str, path: str, mergeable: tuple[Any, Codes] | None, totals: ShardTotals) -> int:
        """Write the index file of old and new rows, and return its size.

        `mergeable` is the old file's index without vectors, and its codes; None for kinds that cannot be merged. `path`
        is the old file on this machine.
        """
        if mergeable is None:
            index = faiss_library().read_index(path)
            return fill_index(self.folder, name, index, totals.segments, self.scratch, self.lock)
        index, codes = mergeable
        parts = [codes, *staged_parts(self.folder, index, totals, self.old.rows, self.scratch)]
        return publish_merged(self.folder, name, index, parts, self.lock)

    def _new_manifest(
        self, totals: ShardTotals, skipped: int, index_file: str | None, files: dict[str, int]
    ) -> IndexManifest:
        """Return the manifest of old and new rows, before recall is measured."""
        old = self.old
        failed = {reason: old.failed.get(reason, 0) + count for reason, count in totals.failed.items()}
        return dataclasses.replace(
            old,
            updated=utc_now(),
            rows=old.rows + totals.rows,
            nulls=old.nulls + totals.nulls,
            failed={**old.failed, **failed},
            skipped=old.skipped + skipped,
            datasets=(*old.datasets, *self.source.datasets),
            segments=(*old.segments, *totals.segments),
            index_file=index_file,
            files=files,
        )


def _without_skipped(shards: Sequence[IndexShard], skipped: np.ndarray) -> list[IndexShard]:
    """Return the shards with their skipped rows set, without shards of which all rows are skipped."""
    found = []
    for shard in shards:
        start = shard.pieces[0].start
        first, stop = np.searchsorted(skipped, (start, start + shard.rows))
        if stop - first < shard.rows:
            local = np.asarray(skipped[first:stop] - start, np.int64)
            found.append(dataclasses.replace(shard, skipped=local.tobytes()))
    return found
