"""Names of the files that a run hands to its workers, and that the workers hand back.

Each name has the id of its run, so that files of an earlier run's workers, which may still be alive, are never mixed
with this run's.
"""

from __future__ import annotations

import dataclasses

from ..errors import DatasetError
from ..files.folder import Folder
from .manifest import STAGING


@dataclasses.dataclass(frozen=True, slots=True)
class StagedFiles:
    """The staged files of a run."""

    run: str

    @property
    def trained(self) -> str:
        """The trained index, without vectors."""
        return f"{STAGING}/{self.run}-trained.faiss"

    @property
    def queries(self) -> str:
        """The queries that recall is measured with."""
        return f"{STAGING}/{self.run}-queries.npz"

    @property
    def shards(self) -> str:
        """The list of the shards; see `files.parted_list`."""
        return f"{STAGING}/{self.run}-shards"

    def codes(self, shard: int, part: int) -> str:
        """Codes of some rows of a shard."""
        return f"{STAGING}/{self.run}-{shard:05d}-{part:03d}.codes"

    def ground_truth(self, shard: int) -> str:
        """The nearest rows of each query in a shard."""
        return f"{STAGING}/{self.run}-{shard:05d}.npz"

    def report(self, shard: int) -> str:
        """The report of a shard."""
        return f"{STAGING}/{self.run}-{shard:05d}.json"


def read_staged(folder: Folder, name: str) -> bytes:
    """Return a file that a run hands to its workers; raise `DatasetError` if the run has ended and it is gone."""
    try:
        return folder.read(name)
    except FileNotFoundError:
        raise DatasetError(
            f"{folder.url}/{name} is gone: the command that this worker was started for has ended, or another one "
            "rebuilds this index"
        ) from None
