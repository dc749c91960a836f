"""Describes and finishes a dataset. `summary` has its sums, `directory` lists its files, `dataset_rows` reads rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import DatasetError
from ..files.file_systems import dataset_errors
from ..files.folder import Folder, remove_temporaries
from ..files.json_shape import fits
from ..files.json_text import json_object, json_text, parse_json
from ..files.lock import check_held, one_at_a_time
from ..messages import setting
from .directory import (
    ATTEMPTS,
    FAILURES,
    FORMAT,
    JOB,
    LISTS,
    MANIFESTS,
    NEXT,
    OWN,
    PLAN,
    SHARD_FILE,
    SKIP_LISTS,
    STAGING,
    SUCCESS,
    is_orphan,
    manifest_name,
)
from .formats.base import LANCE
from .formats.manifest import parse_manifest
from .inputs.planning import read_plan
from .replacing import directory_of, finish_replacing, folder_written, for_each, remove_empty
from .summary import DatasetSummary, Totals

_READ_AT_ONCE = 500
"""Manifests that are read together, and held."""


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
    totals, names = _check_finished(written)
    check_held(folder)  # again, because the steps above can take long
    with one_at_a_time(folder):  # a worker that publishes a shard of the old dataset goes first: that is deleted now
        written.write(SUCCESS, b"")
    finish_replacing(folder, names)
    return totals.summary(complete=True)


def _check_finished(folder: Folder) -> tuple[Totals, set[str]]:
    """Check that all shards of a dataset are there, and delete what is not needed any more.

    Returns:
        Their sums, and the names of all files: some stores do not list new ones for a while.

    Memory holds the names and sizes of files, and a few manifests; of Lance, the fragments too.
    """
    job = _read_job(folder)
    sizes = folder.list()
    names, foreign = _planned_names(folder, job.get("shards"), sizes)
    unnamed = {str(file["name"]) for one in _manifests(folder, foreign) for file in one.get("files") or ()}
    if job.get("shards") is not None:  # a worker of an earlier start may have been refused before it named its files
        unnamed.update(filter(SHARD_FILE.fullmatch, sizes))
    plan = read_plan(folder)
    totals, known = Totals(), {JOB, *names, *((PLAN, *plan.part_names) if plan is not None else ())}
    fragments: list[dict[str, Any]] = []
    for manifest in _manifests(folder, names):
        _check_shard(folder, job, manifest, sizes)
        totals.add(manifest)
        known.update(str(file["name"]) for file in manifest.get("files") or ())
        if job.get("rows_as") == LANCE:
            fragments.append({key: manifest[key] for key in ("fragments", "lance_schema") if key in manifest})
    if totals.shards < len(names):
        raise DatasetError(f"{folder.url}: {len(names) - totals.shards} shards were deleted while the job was finished")
    # A worker that outlived an earlier start of the job may have written shards that the current plan cuts differently.
    for_each(folder.delete, [*foreign, *sorted(unnamed - known)], folder)
    if job.get("rows_as") == LANCE:
        from .formats.lance_part import commit_fragments

        commit_fragments(folder.url, fragments)
    below = (f"{ATTEMPTS}/", f"{SKIP_LISTS}/", f"{LISTS}/")
    leftovers = [
        name for name in sizes if not name.startswith(f"{NEXT}/") and (name.startswith(below) or is_orphan(name))
    ]
    for_each(folder.delete, leftovers, folder)
    remove_temporaries(folder)
    for name in (ATTEMPTS, SKIP_LISTS, LISTS):
        remove_empty(folder, name)
    with contextlib.suppress(Exception):  # the directory is empty now; object stores have none
        folder.fs.rmdir(folder.at(STAGING))
    return totals, known


def _planned_names(folder: Folder, planned: int | None, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the names of the manifests of the planned shards, in order, and those of all other manifests.

    Raises:
        DatasetError: If shards are missing.
    """
    plan = read_plan(folder)
    there = sorted(_named(names, MANIFESTS))
    found = set(there)
    if plan is None:
        kept, foreign, expected = there, [], planned or 0
    else:
        wanted = {manifest_name(shard.name) for shard in plan}
        kept, foreign = [one for one in there if one in wanted], [one for one in there if one not in wanted]
        expected = len(wanted)
        unseen = sorted(wanted - found)
        if unseen and all(map(folder.exists, unseen)):  # a listing may be old, but the names are known
            kept = sorted(wanted)
    if (missing := expected - len(kept)) > 0:
        raise DatasetError(f"{folder.url}: {missing} of {planned} shards are missing; the job did not finish")
    return kept, foreign


def _check_shard(folder: Folder, job: Mapping[str, Any], manifest: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Raise `DatasetError` for a shard of another job, or one whose files are not those that it wrote."""
    if manifest.get("signature") != job.get("signature"):
        raise DatasetError(
            f"{folder.url}: shard {manifest.get('name')} was written by another job, whose workers still run",
            hint="stop them, and start again with "
            + setting("overwrite" if job.get("shards") is None else "resume", True),
        )
    for file in manifest.get("files") or ():
        if sizes.get(file["name"]) != file["bytes"] and (size := folder.size(file["name"])) != file["bytes"]:
            raise DatasetError(
                f"{folder.url}/{file['name']} has {size or 0} bytes, but was written with "
                f"{file['bytes']}; the job did not finish",
                hint=setting("resume", True) + " writes its shard again",
            )


def delete_shards_of_others(directory: str, signature: str) -> None:
    """Delete the shards that were not written with a signature: those of workers that outlived another job.

    For datasets without a plan, in which every shard has a name of its own.
    """
    folder = Folder.of(directory)
    names = sorted(_named(folder.list(MANIFESTS), MANIFESTS))
    foreign: dict[str, None] = {}
    for manifest in _manifests(folder, names):
        name = manifest_name(str(manifest.get("name")))
        if manifest.get("signature") != signature:
            foreign |= dict.fromkeys([name, *(str(file["name"]) for file in manifest.get("files") or ())])
    if foreign:
        for manifest in _manifests(folder, [name for name in names if name not in foreign]):
            for file in manifest.get("files") or ():
                foreign.pop(file["name"], None)
    for_each(folder.delete, foreign, folder)


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
    names = folder.list()
    totals = Totals()
    for manifest in _manifests(folder, sorted(_named(names, MANIFESTS))):
        totals.add(manifest)
    return totals.summary(complete=SUCCESS in names and (planned is None or totals.shards >= planned))


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
    return list(_manifests(folder, sorted(_names(folder, MANIFESTS))))


def _manifests(folder: Folder, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield manifests in the order of their names; a few are read together, since object stores take long for each."""
    for first in range(0, len(names), _READ_AT_ONCE):
        for name, content in folder.read_many(names[first : first + _READ_AT_ONCE]).items():
            yield parse_manifest(folder.at(name), content)


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
    return _named(folder.list(below), below)


def _named(names: Iterable[str], below: str) -> list[str]:
    """Return the names of a dataset's own files in one of its folders."""
    return [name for name in names if name.startswith(f"{below}/") and OWN.fullmatch(name)]
