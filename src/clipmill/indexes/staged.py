"""Names of what the workers of one run are given, and of what they leave to be put together.

Each carries the mark of its run: what a worker of an earlier one still writes is never taken for this one's.
"""

from __future__ import annotations

import dataclasses

from ..errors import DatasetError
from ..files.file_systems import Folder
from .manifest import STAGING


@dataclasses.dataclass(frozen=True, slots=True)
class Staged:
    """The files of a run.

    Attributes:
        run: Its mark.
    """

    run: str

    @property
    def trained(self) -> str:
        """The index without vectors."""
        return f"{STAGING}/{self.run}-trained.faiss"

    @property
    def queries(self) -> str:
        """What recall is measured with."""
        return f"{STAGING}/{self.run}-queries.npz"

    def codes(self, shard: int, part: int) -> str:
        """Codes of some rows of a shard."""
        return f"{STAGING}/{self.run}-{shard:05d}-{part:03d}.codes"

    def truth(self, shard: int) -> str:
        """The nearest of each query in a shard."""
        return f"{STAGING}/{self.run}-{shard:05d}.npz"

    def report(self, shard: int) -> str:
        """What a shard came to."""
        return f"{STAGING}/{self.run}-{shard:05d}.json"


def read_staged(folder: Folder, name: str) -> bytes:
    """Return what the workers of a run are given.

    Raises:
        DatasetError: If it is gone: the run has ended.
    """
    try:
        return folder.read(name)
    except FileNotFoundError:
        raise DatasetError(
            f"{folder.url}/{name} is gone: the command that this worker was started for has ended, or another one has "
            "begun to build this index anew"
        ) from None
