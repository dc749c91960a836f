"""What a previous run of a job has finished, and which shards are left to do."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..datasets.dataset import read_job
from ..datasets.directory import ATTEMPTS, JOB, OWN, PLAN, SUCCESS, check_folders, is_orphan, is_own
from ..datasets.formats.manifest import manifest_or_none
from ..datasets.formats.shard_writer import MANIFESTS, manifest_name
from ..datasets.inputs.planning import number_of, read_plan
from ..datasets.inputs.shards import Shard
from ..datasets.replacing import folder_written
from ..errors import DatasetError
from ..files.file_systems import Folder
from ..files.lock import LOCK
from ..messages import setting

NEW, CHANGED, UNFINISHED, DAMAGED = "new input", "changed input", "not finished", "damaged files"
FOREIGN = "made by another job"
"""Why a shard has to be processed."""


@dataclasses.dataclass(frozen=True)
class PreviousRun:
    """What a previous run of a job wrote before its first shard.

    Attributes:
        description: `_job.json`.
        plan: Its shards.
    """

    description: Mapping[str, Any]
    plan: tuple[Shard, ...]


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


def read_previous_run(directory: str) -> PreviousRun | None:
    """Return what a previous run of a job left in a directory; None if there is nothing to resume.

    If that job was replacing a dataset, it is what is there of the new one.

    Raises:
        DatasetError: If there is a dataset that was made without a plan, or the description or the plan is damaged.
    """
    folder = Folder.of(directory)
    names = [name for name in folder.list() if name != LOCK and not is_orphan(name)]
    check_folders(folder, names)
    if JOB not in names or (set(names) <= {JOB} and is_own(folder)):
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
    return PreviousRun(description, tuple(plan))


def look_back(directory: str, shards: Sequence[Shard], previous: PreviousRun) -> Progress:
    """Find the finished shards: their manifest is of the current input, and the files have the sizes that it names."""
    folder = Folder.of(directory)
    sizes = folder.list()
    manifests = _manifests(folder, sizes)
    before = {number_of(shard): shard for shard in previous.plan}
    accounted = {JOB, PLAN, SUCCESS, LOCK}
    to_do, reasons, whole = [], collections.Counter[str](), []
    for shard in shards:
        manifest = manifests.get(manifest_name(shard.name))
        reason = _reason(shard, before.get(number_of(shard)), manifest, sizes)
        if reason is None and (manifest or {}).get("signature") != previous.description.get("signature"):
            reason = FOREIGN
        if reason is None and manifest is not None:
            whole.append(manifest)
            accounted |= {manifest_name(shard.name), *(file["name"] for file in manifest["files"])}
            continue
        to_do.append(shard)
        reasons[str(reason)] += 1
    marked = {f"{ATTEMPTS}/{shard.name}" for shard in to_do}
    accounted |= {name for name in sizes if name.rsplit(".", 2)[0] in marked}
    leftovers = [name for name in sizes if name not in accounted and (OWN.fullmatch(name) or is_orphan(name))]
    there = {number_of(shard) for shard in shards}
    return Progress(
        shards=shards,
        to_do=to_do,
        reasons=dict(reasons),
        rows=sum(manifest.get("input_rows") or 0 for manifest in whole),
        gone=sum(number not in there and manifest_name(shard.name) in sizes for number, shard in before.items()),
        leftovers=leftovers,
        weights=next(filter(None, ((one.get("resolved") or {}).get("weights_sha256") for one in whole)), None),
        finished=SUCCESS in sizes,
    )


def _manifests(folder: Folder, names: Mapping[str, int]) -> dict[str, dict[str, Any] | None]:
    """Return the manifests by name; None for one that is damaged."""
    there = [name for name in names if name.startswith(f"{MANIFESTS}/") and OWN.fullmatch(name)]
    return {name: manifest_or_none(content) for name, content in folder.read_many(there).items()}


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
