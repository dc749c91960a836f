"""Describes, finishes and summarises a dataset. `directory` lists its files; `dataset_rows` reads its rows."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import DatasetError
from ..files.file_systems import Folder, dataset_errors, remove_temporaries
from ..files.json_shape import fits
from ..files.json_text import json_object, json_text, parse_json
from ..files.lock import check_held
from ..messages import setting
from .directory import ATTEMPTS, FORMAT, JOB, NEXT, OWN, SKIP_LISTS, STAGING, SUCCESS, is_orphan
from .formats.base import LANCE
from .formats.manifest import parse_manifest
from .formats.shard_writer import FAILURES, MANIFESTS, manifest_name
from .inputs.planning import read_plan
from .replacing import directory_of, finish_replacing, folder_written, for_each


@dataclasses.dataclass(frozen=True, slots=True)
class DatasetSummary:
    """The results of a job, summed over the manifests of its shards.

    Attributes:
        input_rows: Rows and documents that were read.
        failed_rows: Rows and documents with at least one failure.
        skipped: Rows and documents that were skipped because another dataset has their vectors.
        rows: Rows in the files.
        embedded: Values embedded; a row with two columns has two.
        scored: Candidates with scores, or values with labels, in the files.
        given: Values that came with precomputed vectors.
        failed: Values that failed, by reason code.
        nulls: Values that were null.
        truncated_texts: Texts truncated to the context length.
        cache_hits: Values that got the vector of an equal value.
        cache_misses: Cacheable values that were the first of their kind.
        seconds: Seconds of work, summed over shards.
        shards: Shards that are finished.
        loads: Models loaded, summed over processes.
        processes: Processes that wrote shards.
        resolved: What workers resolved at load (runtime, precision, device, weights' sha256), without duplicates.
        first_row_at: When the first row was embedded, in seconds since 1970; None if no row was.
        last_row_at: When the last row was embedded.
        active_seconds: Seconds from the first to the last embedded row, summed over the starts of the job.
        complete: Whether all shards exist and the job was finished.
    """

    input_rows: int = 0
    failed_rows: int = 0
    skipped: int = 0
    rows: int = 0
    embedded: int = 0
    scored: int = 0
    given: int = 0
    failed: dict[str, int] = dataclasses.field(default_factory=dict)
    nulls: int = 0
    truncated_texts: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    seconds: float = 0.0
    shards: int = 0
    loads: int = 0
    processes: int = 0
    resolved: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    first_row_at: float | None = None
    last_row_at: float | None = None
    active_seconds: float = 0.0
    complete: bool = False

    @property
    def rows_per_second(self) -> float | None:
        """Processed rows divided by `active_seconds`; None if all rows finished at the same time."""
        return (self.input_rows - self.skipped) / self.active_seconds if self.active_seconds > 0 else None


def write_job(directory: str, description: Mapping[str, Any], *, shards: int | None = None) -> None:
    """Write the description of a job. Call it before any shard is written.

    Args:
        directory: Path or URL, as `prepare_directory` returned it.
        description: JSON values: the spec, the provenance of the columns, inputs and arguments.
        shards: How many shards the dataset will have, if that is known.
    """
    job = {"format": FORMAT, "format_version": 1, "shards": shards, **description}
    Folder.of(directory).write(JOB, json_text(job, indent=1).encode())


def finish_job(directory: str) -> DatasetSummary:
    """Mark a dataset as finished and return its summary; safe to repeat.

    If the job replaces an older dataset, it takes that one's place now; see `replacing`.

    Raises:
        DatasetError: If shards or their files are missing, or this process has lost the `DirectoryLock` that it held.
    """
    folder = directory_of(directory)
    check_held(folder)  # before anything is deleted
    finish_replacing(folder)
    written = folder_written(folder.url)
    manifests = _finished_manifests(written)
    check_held(folder)  # again, because the steps above can take long
    written.write(SUCCESS, b"")
    finish_replacing(folder)
    return _summary(manifests, complete=True)


def _finished_manifests(folder: Folder) -> list[dict[str, Any]]:
    """Check that all shards of a dataset are there, and delete what is not needed any more; return their manifests."""
    job = _read_job(folder)
    planned = job.get("shards")
    manifests = _planned_manifests(folder, planned, read_manifests(folder.url))
    sizes = folder.list()
    for manifest in manifests:
        if manifest.get("signature") != job.get("signature"):
            raise DatasetError(
                f"{folder.url}: shard {manifest.get('name')} was written by another job, whose workers still run",
                hint="stop them, and start again with " + setting("overwrite" if planned is None else "resume", True),
            )
        for file in manifest.get("files") or ():
            if sizes.get(file["name"]) != file["bytes"]:
                raise DatasetError(
                    f"{folder.url}/{file['name']} has {sizes.get(file['name'], 0)} bytes, but was written with "
                    f"{file['bytes']}; the job did not finish",
                    hint=setting("resume", True) + " writes its shard again",
                )
    if job.get("rows_as") == LANCE:
        from .formats.lance_part import commit_fragments

        commit_fragments(folder.url, manifests)
    below = (f"{ATTEMPTS}/", f"{SKIP_LISTS}/")
    leftovers = [
        name for name in sizes if not name.startswith(f"{NEXT}/") and (name.startswith(below) or is_orphan(name))
    ]
    for_each(folder.delete, leftovers, folder)
    remove_temporaries(folder)
    for name in (ATTEMPTS, SKIP_LISTS, STAGING):
        with contextlib.suppress(Exception):  # the directory is empty now; object stores have none
            folder.fs.rmdir(folder.at(name))
    return manifests


def _planned_manifests(
    folder: Folder, planned: int | None, manifests: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the manifests of the planned shards; delete all other manifests and their files.

    A worker that outlived an earlier start of the job may have written shards that the current plan cuts differently.
    """
    plan = read_plan(folder)
    names = None if plan is None else {shard.name for shard in plan}
    kept = [one for one in manifests if names is None or one.get("name") in names]
    missing = (planned or 0 if names is None else len(names)) - len(kept)
    if missing > 0:
        raise DatasetError(f"{folder.url}: {missing} of {planned} shards are missing; the job did not finish")
    used = {file["name"] for one in kept for file in one.get("files") or ()}
    for one in manifests:
        if one not in kept:
            folder.delete(manifest_name(str(one.get("name"))))
            for file in one.get("files") or ():
                if file["name"] not in used:
                    folder.delete(file["name"])
    return kept


def count_finished(directory: str) -> int:
    """Return how many shards of a dataset are finished, without reading their manifests.

    While the dataset is being replaced, these are those of the new one.
    """
    return len(_names(folder_written(directory), MANIFESTS))


def summarise(directory: str) -> DatasetSummary:
    """Summarise the manifests of a dataset, finished or not.

    Raises:
        DatasetError: If the directory is not a clipmill dataset, or a manifest cannot be read.
    """
    folder = Folder.of(directory)
    planned = _read_job(folder).get("shards")
    manifests = read_manifests(directory)
    return _summary(manifests, complete=SUCCESS in folder.list() and (planned is None or len(manifests) >= planned))


_TOTALS = (
    *("input_rows", "failed_rows", "skipped", "rows", "embedded", "scored", "given"),
    *("nulls", "truncated_texts", "cache_hits", "cache_misses"),
)


def _summary(manifests: Sequence[Mapping[str, Any]], *, complete: bool) -> DatasetSummary:
    failed: collections.Counter[str] = collections.Counter()
    loads: dict[str, int] = {}
    resolved: list[dict[str, Any]] = []
    for manifest in manifests:
        failed.update(manifest.get("failed") or {})
        process = str(manifest.get("process"))
        loads[process] = max(loads.get(process, 0), int(manifest.get("loads") or 0))
        if manifest.get("resolved") and manifest["resolved"] not in resolved:
            resolved.append(manifest["resolved"])

    def total(name: str) -> Any:
        return sum(manifest.get(name) or 0 for manifest in manifests)

    return DatasetSummary(
        **{name: total(name) for name in _TOTALS},
        failed=dict(sorted(failed.items())),
        seconds=round(total("seconds"), 3),
        shards=len(manifests),
        loads=sum(loads.values()),
        processes=len(loads),
        resolved=resolved,
        first_row_at=min((m["first_row_at"] for m in manifests if m.get("first_row_at")), default=None),
        last_row_at=max((m["last_row_at"] for m in manifests if m.get("last_row_at")), default=None),
        active_seconds=_active_seconds(manifests),
        complete=complete,
    )


def _active_seconds(manifests: Sequence[Mapping[str, Any]]) -> float:
    """Sum the seconds from the first to the last row of each start of a job; the time between starts does not count."""
    spans: dict[Any, tuple[float, float]] = {}
    for manifest in manifests:
        first, last = manifest.get("first_row_at"), manifest.get("last_row_at")
        if first and last:
            start, stop = spans.get(manifest.get("run"), (first, last))
            spans[manifest.get("run")] = min(start, first), max(stop, last)
    return sum(stop - start for start, stop in spans.values())


def read_job(directory: str) -> dict[str, Any]:
    """Return the description that `write_job` wrote.

    Raises:
        DatasetError: If the directory is not a clipmill dataset.
    """
    return _read_job(Folder.of(directory))


def _read_job(folder: Folder) -> dict[str, Any]:
    try:
        job = parse_json(folder.read(JOB))
    except FileNotFoundError:
        raise DatasetError(f"{folder.url} is not a clipmill dataset: there is no {JOB} in it") from None
    except ValueError as err:
        raise DatasetError(f"{folder.url}/{JOB} is damaged: {err}") from err
    if not isinstance(job, dict) or job.get("format") != FORMAT:
        raise DatasetError(f"{folder.url}/{JOB} does not describe a clipmill dataset")
    if wrong := [name.rstrip("?") for name, shape in _JOB_SHAPE.items() if not fits(job, {name: shape})]:
        raise DatasetError(f"{folder.url}/{JOB} is damaged: clipmill does not write such values of {', '.join(wrong)}")
    return job


_OBJECT: Any = ({}, None)
_JOB_SHAPE: dict[str, Any] = {
    "shards?": (int, None),
    "spec?": _OBJECT,
    "arguments?": _OBJECT,
    "reader?": _OBJECT,
    "provenance?": ({str: {}}, None),
    "written?": ({str: str}, None),
    "inputs?": ([str], None),
    "locations?": ([str], None),
    "resumed?": ([{}], None),
    "signature?": (str, None),
}


def read_manifests(directory: str) -> list[dict[str, Any]]:
    """Return the manifests of all finished shards, sorted by name.

    Raises:
        DatasetError: If a manifest cannot be read.
    """
    folder = Folder.of(directory)
    contents = folder.read_many(sorted(_names(folder, MANIFESTS)))
    return [parse_manifest(folder.at(name), content) for name, content in contents.items()]


def read_failures(directory: str) -> Iterator[dict[str, Any]]:
    """Yield the failures of a dataset, shard by shard.

    Raises:
        DatasetError: If a file of failures cannot be read.
    """
    folder = Folder.of(directory)
    for name in _names(folder, FAILURES):
        with dataset_errors("read", f"{folder.url}/{name}"), folder.fs.open(folder.at(name), "rb") as file:
            for number, line in enumerate(file, 1):
                if (failure := json_object(line)) is None:
                    raise DatasetError(f"{folder.url}/{name} is damaged: line {number} is not a JSON object")
                yield failure


def _names(folder: Folder, below: str) -> list[str]:
    return [name for name in folder.list(below) if OWN.fullmatch(name)]
