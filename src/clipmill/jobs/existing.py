"""Which rows of a job have their vectors in other datasets already: what a nightly increment passes over.

Nobody holds all keys. Workers say what tells the rows of each shard of the input (`row_keys.keys_wanted`) and those of
each finished shard of the other datasets (`existing_rows.keys_there`); the engine joins both by digests of 16 bytes,
asks `is_there` of each, and its workers write for every shard of the input what is passed over (`skip_lists`), which
`embed_shard` reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from ..datasets.dataset import parse_manifest
from ..datasets.formats.shard_writer import MANIFESTS
from ..errors import DatasetError, SpecError, WeightsError
from ..files.file_systems import Folder

By = Literal["id", "content"]
Part = tuple[int, str]
"""A finished shard of another dataset: the dataset's number, and the name of the shard's manifest."""


@dataclasses.dataclass(frozen=True, slots=True)
class Existing:
    """Datasets whose rows are not embedded again; pickles to its fields.

    Attributes:
        datasets: Their directories, absolute paths or URLs.
        by: What rows are told by: `id`, their key; `content`, the hash of what they hold.
        weights: Of datasets that say so, the SHA-256 of the weights that made them.
    """

    datasets: tuple[str, ...]
    by: By = "id"
    weights: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, datasets: Sequence[str], by: By = "id") -> Existing:
        """Name the datasets; relative paths are made absolute.

        Raises:
            SpecError: If there is none, or `by` is neither.
        """
        if not datasets:
            raise SpecError("no dataset is named whose rows would be skipped")
        if by not in get_args(By):
            raise SpecError(f"by={by!r} is none of {', '.join(map(repr, get_args(By)))}")
        return cls(tuple(dict.fromkeys(Folder.of(one).url for one in datasets)), by)

    def check_weights(self, sha256: str | None) -> None:
        """Refuse other weights under the same name.

        Args:
            sha256: Of those that a worker has loaded; None where nobody knows.

        Raises:
            WeightsError: Naming the dataset that was made with others.
        """
        for directory, theirs in self.weights:
            if sha256 is not None and sha256 != theirs:
                raise WeightsError(
                    f"{directory} was made with weights of SHA-256 {theirs}, and these have {sha256}, so that none of "
                    "its rows can be skipped; bring the old weights back, or embed without skipping its rows"
                )


def is_there(found: Iterable[tuple[int, bool]]) -> bool:
    """Tell whether a row has its vectors, by what `keys_there` said of its digest.

    Args:
        found: Number of a dataset, and whether it says there that the row has a vector; False where something of the
            row failed, which outweighs any vectors in the same dataset.
    """
    said = set(found)
    return any(has_vector and (number, False) not in said for number, has_vector in said)


def parts_of(existing: Existing) -> list[Part]:
    """Return the finished shards of all datasets; a job that did not end has those that it finished.

    Raises:
        DatasetError: If a dataset cannot be listed.
    """
    names = [Folder.of(directory).list(MANIFESTS) for directory in existing.datasets]
    return [(number, name) for number, found in enumerate(names) for name in found if name.endswith(".json")]


def manifest_of(part: Part, existing: Existing) -> dict[str, Any]:
    """Return the manifest of a finished shard.

    Raises:
        DatasetError: If it cannot be read.
    """
    folder = Folder.of(existing.datasets[part[0]])
    try:
        return parse_manifest(f"{folder.url}/{part[1]}", folder.read(part[1]))
    except FileNotFoundError as err:
        raise DatasetError(f"{folder.url}/{part[1]} is gone: is the dataset being written anew?") from err


def files_of(manifest: Mapping[str, Any]) -> list[str]:
    """Return the files of a finished shard."""
    return [str(file["name"]) for file in manifest.get("files") or []]
