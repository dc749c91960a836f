"""The start of a job, on the driver, before any shard: of a new dataset, or of one that a previous run left."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from .. import __version__
from ..datasets.directory import MANIFESTS, SUCCESS
from ..datasets.if_exists import IfExists, if_exists_of, look_at_directory, prepare_directory
from ..datasets.inputs.planning import write_plan
from ..datasets.inputs.shards import Shard
from ..datasets.replacing import finish_replacing, folder_written
from ..datasets.tables.provenance import differences, read_provenance
from ..errors import DatasetError
from ..files.file_systems import open_location, url_of
from ..files.folder import Folder, remove_temporaries
from ..files.json_text import json_text
from ..files.lock import refuse_if_held
from ..messages import setting
from ..models.spec import EncoderSpec
from .comparison import COMPARISON, described_comparison
from .job import MAY_DIFFER, Job
from .resume import PreviousRun, Progress, look_back, read_previous_run
from .runs import write_current

_OF_PLANS = ("columns", "key", "access_paths", "fuse", "keep_parts", "heads")
"""Entries of a description that plans of vectors make."""
_SPEC_DEFAULTS = {field.name: field.default for field in dataclasses.fields(EncoderSpec)}
_SHOWN = 60


def start_job(
    job: Job,
    shards: Sequence[Shard],
    *,
    inputs: Sequence[str] = (),
    arguments: Mapping[str, Any] | None = None,
    if_exists: IfExists | None = None,
    overwrite: bool = False,
    previous: PreviousRun | None = None,
    dry_run: bool = False,
) -> Progress:
    """Prepare the directory and write the description of the job; once, on the driver, before any shard is processed.

    `finish_job` ends the job. A `DirectoryLock` around both keeps other jobs out.

    Args:
        job: The job.
        shards: All of its shards.
        inputs: The inputs as the user named them.
        arguments: The user's other options that decide what is written: plain values without secrets.
        if_exists: What is done with a dataset in the directory; see `datasets.if_exists`. A dataset that is replaced
            stays as it is until `finish_job`: the shards are written into `_next/` in its directory.
        overwrite: Short for `if_exists="replace"`.
        previous: What `read_previous_run` returned: the job is resumed. `shards` were planned with its plan.
        dry_run: Whether to check everything that can be checked without writing, and to write nothing.

    Returns:
        What is left to do: all shards, or the missing ones, as lists that pickle to the address of the stored plan.

    Raises:
        DatasetError: If the directory holds the job's own input, another job is writing it, or the job was started
            with different arguments; or see `prepare_directory`.
    """
    policy = if_exists_of(if_exists, overwrite=overwrite, resume=previous is not None)
    if not dry_run:
        refuse_if_held(folder := Folder.of(job.directory))
        finish_replacing(folder)
    progress = _check(job, shards, inputs, arguments, policy, previous)
    if dry_run:
        return progress
    description = _description(job, inputs, arguments)
    if previous is None:
        target = prepare_directory(job.directory, if_exists=policy)
        write_current(target, job, description, shards=len(shards))
        return progress.planned(write_plan(Folder.of(target), shards))
    if progress.is_complete:
        return progress
    folder = folder_written(job.directory)
    folder.delete(SUCCESS)
    # Manifests first: without its manifest, a shard is not finished.
    for name in sorted(progress.leftovers, key=lambda name: (not name.startswith(MANIFESTS), name)):
        folder.delete(name)
    remove_temporaries(folder)
    plan = write_plan(folder, shards)
    again = {"started": description["started"], "clipmill": __version__, **_other_ways(job, previous)}
    kept = {**previous.description, "shards": len(shards), "resumed": [*previous.description.get("resumed", ()), again]}
    named = {name: description[name] for name in ("inputs", "locations")}
    write_current(folder.url, job, {**kept, **named}, shards=len(shards))
    return progress.planned(plan)


def _check(
    job: Job,
    shards: Sequence[Shard],
    inputs: Sequence[str],
    arguments: Mapping[str, Any] | None,
    if_exists: IfExists,
    previous: PreviousRun | None,
) -> Progress:
    """Return the progress of the job, or refuse to resume it."""
    refuse_input_inside(job, shards)
    if previous is None:
        found = look_at_directory(job.directory, if_exists=if_exists)
        return Progress(shards, shards, leftovers=[*found.leftovers, *found.replaced])
    folder = Folder.of(job.directory)
    refuse_if_held(folder, may_write=False)
    refuse_changes(job, inputs, arguments, previous)
    if read_previous_run(job.directory) != previous:
        raise DatasetError(f"another job wrote {job.directory} a moment ago; start again to resume it as it is now")
    return look_back(job.directory, shards, previous)


def refuse_input_inside(job: Job, shards: Sequence[Shard]) -> None:
    """Raise `DatasetError`, naming a file, for an output directory that contains the input."""
    inside = job.directory.rstrip("/") + "/"
    if own := next((path for shard in shards for path in shard.paths if path.startswith(inside)), None):
        raise DatasetError(f"the input {own} lies in the output directory {job.directory}; choose another output")


def refuse_changes(job: Job, inputs: Sequence[str], arguments: Mapping[str, Any] | None, previous: PreviousRun) -> None:
    """Raise `DatasetError`, saying how they differ, for a job that was started with different arguments.

    Inputs may be added; a missing one is refused, because its results would be deleted.
    """
    changed = changes_of(previous.description, _description(job, inputs, arguments))
    if not changed:  # same arguments, but another version of clipmill that preprocesses images differently
        changed = _differing_provenance(previous.description, read_provenance(job.schema))
    missing = [one for one in previous.description.get("locations", ()) if one not in _locations(inputs)]
    changed += [f"the input {one} is not named any more" for one in missing]
    if changed:
        raise DatasetError(
            f"{job.directory} was started with different arguments: {'; '.join(changed)}",
            hint="give the same arguments to resume it, choose another directory, or replace the dataset with "
            + setting("overwrite", True),
        )


def changes_of(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return how two descriptions of jobs differ in what decides the output, as a sentence for each option."""
    before, after = _comparable(then), _comparable(_plain(now))
    return [
        _change(name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _flat(name: str, value: Any) -> dict[str, Any]:
    """Return the leaves of a value by path, so that only the differing ones are shown."""
    if not isinstance(value, Mapping):
        return {name: value}
    return {path: one for inner, within in value.items() for path, one in _flat(f"{name}.{inner}", within).items()}


def _differing_provenance(description: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    then = description.get("provenance") or {}
    return [
        f"what makes the column {column!r} differs in {', '.join(names)}"
        for column in sorted(then.keys() & now.keys())
        if (names := differences(then[column], now[column]))
    ]


def _description(job: Job, inputs: Sequence[str], arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "clipmill": __version__,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "signature": job.signature,
        "spec": job.spec.as_dict(),
        **job.plan.description(),
        "rows_as": job.format,
        "reader": job.read_as,
        "written": {field.name: str(field.type) for field in job.schema},
        **described_comparison(job),
        "provenance": read_provenance(job.schema),
        "inputs": [os.fspath(given) for given in inputs],
        "locations": _locations(inputs),
        "arguments": dict(arguments or {}),
    }


def _locations(inputs: Sequence[str]) -> list[str]:
    """Return the absolute paths or URLs of inputs."""
    return [url_of(*open_location(given)) for given in inputs]


def _comparable(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that must not change between runs, by the names that users know."""
    # fields of later versions had their defaults before
    spec = {**_plain(_SPEC_DEFAULTS), **(description.get("spec") or {})}
    found = {name: value for name, value in spec.items() if name not in MAY_DIFFER}
    found |= {name: description.get(name) for name in (*_OF_PLANS, *COMPARISON)}
    found |= _flat("plan", description.get("plan"))
    found |= {f"the reader's {name}": value for name, value in (description.get("reader") or {}).items()}
    found |= {f"the written column {name!r}": kind for name, kind in (description.get("written") or {}).items()}
    return {**found, "format": description.get("rows_as"), **(description.get("arguments") or {})}


def _other_ways(job: Job, previous: PreviousRun) -> dict[str, Any]:
    """Return the differences that are allowed, for the record."""
    then = previous.description.get("spec") or {}
    now = _plain(job.spec.as_dict())
    differing = {name: now[name] for name in sorted(MAY_DIFFER & now.keys()) if now[name] != then.get(name)}
    return {"spec": differing} if differing else {}


def _plain(value: Any) -> Any:
    """Return plain values as JSON reads them."""
    return json.loads(json_text(value))


def _change(name: str, before: Any, after: Any) -> str:
    if isinstance(before, list) and isinstance(after, list):
        gone = [one for one in before if one not in after]
        new = [one for one in after if one not in before]
        parts = [f"{word} {_shown(values)}" for word, values in (("lacks", gone), ("also has", new)) if values]
        if parts:
            return f"{name} now {' and '.join(parts)}"
    return f"{name} was {_shown(before)} and is {_shown(after)}"


def _shown(value: Any) -> str:
    if value is None:
        return "not there"
    text = json_text(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
