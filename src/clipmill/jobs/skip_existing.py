"""Which rows of a job have their vectors in other datasets already and are skipped by a nightly increment.

No process holds all keys. Workers read the match keys of each shard of the input (`row_keys.keys_wanted`) and of each
finished shard of the other datasets (`embedded_keys`); the engine joins both by digests of 16 bytes and asks
`is_embedded` of each, and its workers write the rows to skip for every shard of the input (`skip_lists`), which
`embed_shard` reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from ..datasets.directory import LISTS, MANIFESTS
from ..datasets.formats.manifest import parse_manifest
from ..errors import DatasetError, SpecError, WeightsError, check_choice
from ..files.folder import Folder
from ..files.parted_list import Codec, PartedList, store

By = Literal["id", "content"]
FinishedShard = tuple[int, str]
"""A finished shard of another dataset: the dataset's number, and the name of the shard's manifest."""


@dataclasses.dataclass(frozen=True, slots=True)
class SkipExisting:
    """Datasets whose rows are not embedded again; pickles to its fields.

    Attributes:
        datasets: Their directories, paths or URLs; relative ones are made absolute.
        by: The match key: `id`; `content`, the hash of what rows hold.
        weights: Of datasets that say so, the SHA-256 of the weights that made them.

    Raises:
        SpecError: If there is no dataset, or the match key is neither.
    """

    datasets: Sequence[str]
    by: By = "id"
    weights: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Check the fields and make paths absolute."""
        if not self.datasets:
            raise SpecError("no dataset is named whose rows would be skipped")
        check_choice("by", self.by, get_args(By))
        object.__setattr__(self, "datasets", tuple(dict.fromkeys(Folder.of(one).url for one in self.datasets)))

    def check_weights(self, sha256: str | None) -> None:
        """Raise `WeightsError`, naming the dataset, if a worker loaded other weights; `sha256` is None if unknown."""
        for directory, theirs in self.weights:
            if sha256 is not None and sha256 != theirs:
                raise WeightsError(
                    f"{directory} was made with weights of SHA-256 {theirs}, and these have {sha256}, so that none of "
                    "its rows can be skipped; bring the old weights back, or embed without skipping its rows"
                )


def is_embedded(found: Iterable[tuple[int, bool]]) -> bool:
    """Return whether a row has its vectors, from what `embedded_keys` yields for its digest.

    `found` has the number of each dataset, and whether the row has a vector there: False where something of the row
    failed, which outweighs any vectors in the same dataset.
    """
    said = set(found)
    return any(has_vector and (number, False) not in said for number, has_vector in said)


def finished_shards(skip_existing: SkipExisting) -> list[FinishedShard]:
    """Return the finished shards of all datasets; a job that did not end has those that it finished."""
    names = [Folder.of(directory).list(MANIFESTS) for directory in skip_existing.datasets]
    return [(number, name) for number, found in enumerate(names) for name in found if name.endswith(".json")]


def stored_parts(skip_existing: SkipExisting, folder: Folder) -> PartedList[FinishedShard]:
    """Return `finished_shards` as a list that pickles to its address; it is in the dataset until its job ends."""
    return store(finished_shards(skip_existing), folder, f"{LISTS}/parts", Codec(list, tuple))


def shard_manifest(part: FinishedShard, skip_existing: SkipExisting) -> dict[str, Any]:
    """Return the manifest of a finished shard."""
    folder = Folder.of(skip_existing.datasets[part[0]])
    try:
        return parse_manifest(f"{folder.url}/{part[1]}", folder.read(part[1]))
    except FileNotFoundError as err:
        raise DatasetError(f"{folder.url}/{part[1]} is gone: is the dataset being replaced?") from err


def files_of(manifest: Mapping[str, Any]) -> list[str]:
    """Return the files of a finished shard."""
    return [str(file["name"]) for file in manifest.get("files") or []]
