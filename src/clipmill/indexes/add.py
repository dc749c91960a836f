"""More rows for an index: those that it has stay where they are, and until the end it is as it was."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.filesize import decimal

from ..datasets.tables.provenance import differences
from ..errors import DatasetError, SpecError
from ..files.file_systems import Folder
from ..files.lock import DirectoryLock
from .assemble import fill, finish, gather_truth, merge_into, now, scratch_for, stage, staged_parts, tally
from .build import IndexOptions, RunShards, job_of, refuse_own_input, run_here
from .footprint import filled_bytes
from .hits import Hits
from .ids import Compared, compare_ids
from .library import faiss_library, make_index, use_threads
from .manifest import BUILDING, MANIFEST, OWN, IndexManifest, clear, manifest_bytes, parse_manifest
from .merge import codes_of_index, local_copy
from .opened import OpenIndex, open_index
from .plan import PROCESS_BYTES, WORK_BYTES, IndexPlan, plan_index
from .recall import K, Truth
from .sample import draw
from .shard import IndexShard, cut
from .source import Source, open_source
from .truth import merged, nearest_of_blocks

_log = logging.getLogger("clipmill")

_GROWN = 4
"""Times its rows when it was trained, from which an index should be built anew."""


@dataclasses.dataclass(frozen=True, slots=True)
class Added:
    """What one adding came to; the manifest sums up all of them.

    Attributes:
        manifest: Of the index as it is now; the old one if nothing was added.
        rows: Vectors that were added.
        skipped: Rows that were left out since their id was there already.
        nulls: Rows without a vector.
        failed: Vectors that cannot be searched, by reason.
        unnamed: Rows without an id among all that came: nothing told whether they were there already.
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
    run: RunShards = run_here,
) -> Added:
    """Add the rows of datasets to an index, and measure it again.

    What the index has keeps its position. Until the new manifest is in place the old index opens, whatever happens;
    who has it open goes on with it.

    Args:
        datasets: As in `build_index`.
        directory: Of the index.
        options: `column`, `target_recall`, `queries`, `rows_per_shard`, `partial` and `seed` of them; the others were
            decided when the index was built.
        skip_existing: Whether rows whose `id` is in the index are left out; without it they are refused. Rows without
            an id are added all the same.
        run: Does the shards, on an engine.

    Raises:
        DatasetError: If there is no whole index, vectors come from another model or have another dimension, ids are
            there already, or another job writes the index.
        SpecError: If the memory that the index was planned for does not suffice for it any more.
        MissingExtraError: If Faiss is not installed.
    """
    options = options or IndexOptions()
    folder, source = _fitting(datasets, directory, options)
    with DirectoryLock(folder.url) as lock, scratch_for(folder) as scratch:
        old = parse_manifest(folder.url, manifest_bytes(folder.url))  # another job may have written it meanwhile
        if not source.rows or not source.dim:
            return Added(old, nulls=source.rows)
        _check_fits(folder, old, source)
        _clear_orphans(folder, old)
        here = open_index(folder.url)
        source, compared = _compared(source, here, skip_existing=skip_existing, where=folder.url)
        if len(compared.there) == source.rows:
            return Added(old, skipped=source.rows)
        folder.write(BUILDING, b"{}")
        return _Adding(folder, old, here, source, options, scratch).run(compared, run, lock)


def would_add(
    datasets: Sequence[str], directory: str, options: IndexOptions | None = None, *, skip_existing: bool = False
) -> Added:
    """Say what `add_to_index` would do with the same arguments, and do nothing.

    No vector is read: `rows` are those that would be added if all of them have a vector that can be searched.

    Raises:
        DatasetError, SpecError, MissingExtraError: As `add_to_index` does, but for another job that writes the index.
    """
    options = options or IndexOptions()
    folder, source = _fitting(datasets, directory, options)
    here = open_index(folder.url)
    if not source.rows or not source.dim:
        return Added(here.manifest, nulls=source.rows)
    source, compared = _compared(source, here, skip_existing=skip_existing, where=folder.url)
    skipped = len(compared.there)
    return Added(here.manifest, source.rows - skipped, skipped, unnamed=compared.unnamed)


def _fitting(datasets: Sequence[str], directory: str, options: IndexOptions) -> tuple[Folder, Source]:
    """Return the index's folder, and what is added to it, whose vectors belong there."""
    faiss_library()
    folder = Folder.of(directory)
    old = parse_manifest(folder.url, manifest_bytes(folder.url))
    source = open_source(datasets, column=options.column or old.column, partial=options.partial)
    refuse_own_input(folder, source)
    if source.rows and source.dim:
        _check_fits(folder, old, source)
    return folder, source


def _compared(source: Source, index: OpenIndex, *, skip_existing: bool, where: str) -> tuple[Source, Compared]:
    """Return the source with all columns of the index, and its rows compared with those that are there."""
    source = dataclasses.replace(source, keys=_united(index.key_schema, source.keys))
    compared = compare_ids(source, index, skip_existing=skip_existing, where=where)
    _check_memory(index.manifest, source.rows - len(compared.there))
    return source, compared


@dataclasses.dataclass(frozen=True)
class _Adding:
    """One run of `add_to_index`, its lock held.

    Attributes:
        folder: Of the index.
        old: What it was.
        here: It, opened from files on this machine.
        source: The rows that come.
        options: The user's.
        scratch: Where copies of files from an object store go.
    """

    folder: Folder
    old: IndexManifest
    here: OpenIndex
    source: Source
    options: IndexOptions
    scratch: Path

    def run(self, compared: Compared, run: RunShards, lock: DirectoryLock) -> Added:
        """Build the new shards, put codes together, measure."""
        folder, old, skipped = self.folder, self.old, compared.there
        use_threads(None)
        queries, places, rows = self._queries(skipped)
        index: Any = None
        parts = []
        path = "" if old.index_file is None else local_copy(folder, old.index_file, self.scratch)
        standing = codes_of_index(path) if path else None
        has_lists = standing is not None
        if standing is not None:
            index, codes = standing
            parts = [codes]
        plan = IndexPlan(**{**old.plan, "reasons": tuple(old.plan["reasons"])})
        job = job_of(folder, self.source, plan, lock.token, has_lists=has_lists)
        stage(folder, job, index, queries, rows)
        first = max(segment.number for segment in old.segments) + 1
        shards = _without(cut(self.source.groups, self.options.rows_per_shard, first=first), skipped)
        run(shards, job)
        lock.check()
        found = tally(folder, job, [shard.number for shard in shards])
        added = Added(old, found.rows, len(skipped), found.nulls, found.failed, compared.unnamed)
        if not found.rows:
            _clear_orphans(folder, old)
            return added
        index_file, files = None, {**old.files, **found.files}
        if old.index_file is not None:
            index_file = _next_name(old.index_file)
            del files[old.index_file]
            if has_lists:
                parts += staged_parts(folder, index, found, old.rows, self.scratch)
                files[index_file] = merge_into(folder, index_file, index, parts, lock)
            else:
                index = faiss_library().read_index(path)
                files[index_file] = fill(folder, index_file, index, found.segments, self.scratch, lock)
        failed = {reason: old.failed.get(reason, 0) + count for reason, count in found.failed.items()}
        manifest = dataclasses.replace(
            old,
            updated=now(),
            rows=old.rows + found.rows,
            nulls=old.nulls + found.nulls,
            failed={**old.failed, **failed},
            skipped=old.skipped + len(skipped),
            datasets=(*old.datasets, *self.source.datasets),
            segments=(*old.segments, *found.segments),
            index_file=index_file,
            files=files,
        )
        hits, new_places = gather_truth(folder, job, found, old.rows, queries, self.scratch)
        before = nearest_of_blocks(queries, self.here.blocks(), K + 1)
        before = Hits(np.where(before.positions < 0, -np.inf, before.scores).astype(np.float32), before.positions)
        truth = Truth(queries, np.where(places < 0, new_places, places), merged([before, hits], K + 1))
        manifest = finish(folder, manifest, truth, self.options.target_recall, self.scratch, lock)
        if old.index_file is not None:
            clear(folder, [old.index_file])
        if hint := outgrown(manifest):
            _log.warning("%s: %s", folder.url, hint)
        return dataclasses.replace(added, manifest=manifest)

    def _queries(self, skipped: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw queries from old and new rows alike.

        Args:
            skipped: Numbers of rows of the source that are not added: nothing in the index would be their own place.

        Returns:
            (q, dim) float32; where the old ones stand, -1 for new ones; numbers of the new ones among the rows of the
            source, -1 for old ones.
        """
        old, source, options = self.old, self.source, self.options
        added = source.rows - len(skipped)
        count = max(1, round(options.queries * added / (added + old.rows)))
        new = draw(source, 0, count, options.seed, left_out=skipped)
        count = min(old.rows, max(1, options.queries - len(new.queries)))
        places = np.sort(np.random.default_rng(options.seed).choice(old.rows, count, replace=False))
        queries = np.concatenate([self.here.vectors(places), new.queries])
        nothing = np.full(len(new.queries), -1, np.int64)
        return queries, np.concatenate([places, nothing]), np.concatenate([np.full(count, -1), new.query_rows])


def outgrown(manifest: IndexManifest) -> str | None:
    """Say why an index should be built anew, None if it need not be."""
    plan = manifest.plan
    if not plan.get("asked", True) and manifest.rows > plan["rows"]:
        grown = plan_index(manifest.rows, manifest.dim, int(plan["max_memory_bytes"]), dtype=manifest.dtype).kind
        if grown != manifest.kind:
            return f"for {manifest.rows:,} rows an index of the kind {grown} would be planned; build it anew for that"
    if manifest.trained_rows and manifest.rows > _GROWN * manifest.trained_rows:
        return f"it was trained when it had {manifest.trained_rows:,} rows, and has {manifest.rows:,}; build it anew"
    return None


def _check_fits(folder: Folder, old: IndexManifest, source: Source) -> None:
    if source.dim != old.dim:
        raise DatasetError(
            f"the vectors have {source.dim} values, and those of the index {folder.url} {old.dim}; make an index of "
            "their own"
        )
    if (old.provenance is None) != (source.provenance is None):
        who = "the index" if old.provenance is None else "the dataset"
        raise DatasetError(
            f"{who} says nothing of where its vectors come from, so that they cannot be told to be of the same model; "
            "make an index of their own"
        )
    ours, theirs = old.provenance or {}, source.provenance or {}
    if differing := differences(ours, theirs):
        told = ", ".join(f"{name}: {_said(ours, name)!r} and {_said(theirs, name)!r}" for name in differing)
        raise DatasetError(
            f"the vectors come from another model than those of the index {folder.url} ({told}) and cannot be "
            "compared; make an index of their own"
        )


def _check_memory(old: IndexManifest, rows: int) -> None:
    """Refuse more rows than a process can hold that adds them to codes which cannot be put together from parts."""
    if old.index_file is None or not rows:
        return
    allowed = int(old.plan["max_memory_bytes"])
    filled = filled_bytes(make_index(old.dim, old.factory), old.rows + rows)
    needed = PROCESS_BYTES + WORK_BYTES + filled
    if filled and needed > allowed:
        raise SpecError(
            f"with {rows:,} more rows {old.factory} takes some {decimal(needed)} to build, and the index was planned "
            f"for {decimal(allowed)}; build it anew with more memory or as another kind"
        )


def _said(provenance: Mapping[str, Any], name: str) -> Any:
    """Return what a provenance says under a name such as `normalize` or `image.mean`."""
    part, dot, inner = name.partition(".")
    return (provenance.get(part) or {}).get(inner) if dot else provenance.get(part)


def _united(old: pa.Schema, new: pa.Schema) -> pa.Schema:
    try:
        return pa.unify_schemas([old, new])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as err:
        raise DatasetError(f"a column has another type than in the index: {err}") from err


def _without(shards: Sequence[IndexShard], skipped: np.ndarray) -> list[IndexShard]:
    """Return the shards, each with what of it is skipped; those of which nothing is left are left out."""
    found = []
    for shard in shards:
        start = shard.pieces[0].start
        first, stop = np.searchsorted(skipped, (start, start + shard.rows))
        if stop - first < shard.rows:
            local = np.asarray(skipped[first:stop] - start, np.int64)
            found.append(dataclasses.replace(shard, skipped=local.tobytes()))
    return found


def _clear_orphans(folder: Folder, manifest: IndexManifest) -> None:
    """Delete what an interrupted adding has left."""
    kept = {MANIFEST, *manifest.files}
    own = [name for name in folder.list() if OWN.fullmatch(name) and name not in kept and not name.startswith("_lock")]
    clear(folder, own)


def _next_name(name: str) -> str:
    match = re.fullmatch(r"index(?:-(\d+))?\.faiss", os.path.basename(name))
    number = int(match.group(1) or 0) if match else 0
    return f"index-{number + 1}.faiss"
