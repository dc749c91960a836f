"""What a previous run of a job has finished, and which shards are left to do."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..datasets.dataset import read_job
from ..datasets.directory import (
    ATTEMPTS,
    JOB,
    MANIFESTS,
    OWN,
    PLAN,
    SUCCESS,
    check_folders,
    is_orphan,
    is_own,
    is_plan,
    manifest_name,
)
from ..datasets.formats.manifest import manifest_or_none
from ..datasets.inputs.planning import number_of, read_plan
from ..datasets.inputs.shards import Shard
from ..datasets.replacing import files_of, folder_written
from ..errors import DatasetError
from ..files.folder import Folder
from ..files.lock import LOCK
from ..files.parted_list import Chosen
from ..messages import setting

NEW, CHANGED, UNFINISHED, DAMAGED = "new input", "changed input", "not finished", "damaged files"
FOREIGN = "made by another job"
"""Why a shard has to be processed."""
_AT_ONCE = 500
"""Shards whose manifests are read together, and held."""


@dataclasses.dataclass(frozen=True)
class PreviousRun:
    """What a previous run of a job wrote before its first shard.

    Attributes:
        description: `_job.json`.
        plan: Its shards; their numbers rise.
    """

    description: Mapping[str, Any]
    plan: Sequence[Shard]


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a job is when it is resumed.

    Attributes:
        shards: All shards, in order.
        to_do: Shards without valid files, in order.
        reasons: Number of shards in `to_do` by reason: `NEW`, `CHANGED`, `UNFINISHED`, `DAMAGED` or `FOREIGN`.
        rows: Rows of the input in the finished shards.
        gone: Finished shards of the previous plan whose input no longer exists.
        leftovers: Files in the directory that belong to no shard; they are deleted.
        weights: SHA-256 of the weights that made the finished shards; None if unknown.
        finished: Whether the previous run finished.
    """

    shards: Sequence[Shard]
    to_do: Sequence[Shard]
    reasons: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rows: int = 0
    gone: int = 0
    leftovers: Sequence[str] = ()
    weights: str | None = None
    finished: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        foreign = any(name.startswith(f"{MANIFESTS}/") for name in self.leftovers)
        return self.finished and not self.to_do and not self.gone and not foreign

    @property
    def done(self) -> int:
        """Number of finished shards."""
        return len(self.shards) - len(self.to_do)

    def planned(self, plan: Sequence[Shard]) -> Progress:
        """Return the same progress with the shards of a stored plan, which are equal."""
        to_do = self.to_do.of(plan) if isinstance(self.to_do, Chosen) else plan
        return dataclasses.replace(self, shards=plan, to_do=to_do)


def read_previous_run(directory: str) -> PreviousRun | None:
    """Return what a previous run of a job left in a directory; None if there is nothing to resume.

    If that job was replacing a dataset, it is what is there of the new one.

    Raises:
        DatasetError: If there is a dataset that was made without a plan, or the description or the plan is damaged.
    """
    folder = Folder.of(directory)
    names = [name for name in folder.list() if name != LOCK and not is_orphan(name)]
    check_folders(folder, names)
    is_planned = PLAN in names or any(name != JOB and not is_plan(name) for name in names)
    if JOB not in names or (not is_planned and is_own(folder)):
        return None  # anything else there is refused when the directory is prepared
    written = folder_written(directory)
    description = read_job(written.url)
    plan = read_plan(written)
    if plan is None and written != folder:
        plan = read_plan(folder)  # it may have moved there already
    if plan is None:
        raise DatasetError(
            f"{folder.url} holds a dataset without a plan of its shards ({PLAN}), as WriteEmbeddings makes them, which "
            "cannot be resumed",
            hint="choose another directory, or replace it with " + setting("overwrite", True),
        )
    return PreviousRun(description, plan)


def look_back(directory: str, shards: Sequence[Shard], previous: PreviousRun) -> Progress:
    """Find the finished shards: their manifest is of the current input, and the files have the sizes that it names.

    Files are found where they are, if the job was interrupted while its dataset replaced another one. Memory holds the
    names of the files, and the manifests of a few shards.
    """
    folder = Folder.of(directory)
    sizes, places = files_of(directory)
    left = set(sizes).difference({JOB, PLAN, SUCCESS, LOCK})
    left.difference_update([name for name in left if is_plan(name)])  # replaced when the plan is written
    to_do, reasons, rows, weights, gone = [], collections.Counter[str](), 0, None, 0
    marked = set()
    at = 0
    for pairs in _batches(_paired(shards, previous.plan)):
        there = [name for now, _ in pairs if now is not None and (name := manifest_name(now.name)) in sizes]
        contents = folder.read_many([places.get(name, name) for name in there])
        found = {name: contents.get(places.get(name, name)) for name in there}
        manifests = {name: manifest_or_none(content) for name, content in found.items() if content is not None}
        for now, before in pairs:
            if now is None:
                gone += before is not None and manifest_name(before.name) in sizes
                continue
            manifest = manifests.get(manifest_name(now.name))
            reason = _reason(now, before, manifest, sizes)
            if reason is None and (manifest or {}).get("signature") != previous.description.get("signature"):
                reason = FOREIGN
            if reason is None and manifest is not None:
                left.difference_update((manifest_name(now.name), *(file["name"] for file in manifest["files"])))
                rows += manifest.get("input_rows") or 0
                weights = weights or (manifest.get("resolved") or {}).get("weights_sha256")
            else:
                to_do.append(at)
                marked.add(f"{ATTEMPTS}/{now.name}")
                reasons[str(reason)] += 1
            at += 1
    left.difference_update([name for name in left if name.rsplit(".", 2)[0] in marked])
    return Progress(
        shards=shards,
        to_do=shards if len(to_do) == at else Chosen(shards, to_do),
        reasons=dict(reasons),
        rows=rows,
        gone=gone,
        leftovers=[name for name in sizes if name in left and (OWN.fullmatch(name) or is_orphan(name))],
        weights=weights,
        finished=SUCCESS in sizes,
    )


def _paired(shards: Iterable[Shard], before: Iterable[Shard]) -> Iterator[tuple[Shard | None, Shard | None]]:
    """Yield shards with the shard of the previous plan that has the same number; None where one plan has no such."""
    olds = iter(before)
    old = next(olds, None)
    for shard in shards:
        number = number_of(shard)
        while old is not None and number_of(old) < number:
            yield None, old
            old = next(olds, None)
        if old is not None and number_of(old) == number:
            yield shard, old
            old = next(olds, None)
        else:
            yield shard, None
    while old is not None:
        yield None, old
        old = next(olds, None)


def _batches(pairs: Iterator[tuple[Shard | None, Shard | None]]) -> Iterator[list[tuple[Shard | None, Shard | None]]]:
    while some := list(itertools.islice(pairs, _AT_ONCE)):
        yield some


def _reason(
    shard: Shard, before: Shard | None, manifest: Mapping[str, Any] | None, sizes: Mapping[str, int]
) -> str | None:
    """Return why a shard has to be processed, None if its files are valid."""
    if before is None:
        return NEW
    if before.identity() != shard.identity():
        return CHANGED
    if manifest_name(shard.name) not in sizes:
        return UNFINISHED
    if manifest is None or not isinstance(manifest.get("files"), list):
        return DAMAGED
    if manifest.get("shard") != shard.identity():
        return CHANGED
    is_whole = all(sizes.get(file.get("name")) == file.get("bytes") for file in manifest["files"])
    return None if is_whole else DAMAGED
