"""Names of files relative to the input, as ids that stay the same when a mount or a bucket moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from ...errors import DatasetError
from ...files.file_systems import open_location, url_of
from .globs import Glob, is_glob
from .shards import Shard
from .source_row import SourceRow


class RelativeNames:
    """Names files, and places in them, relative to the input that they belong to.

    The file of a folder is named below that folder, the match of a pattern below the part without wildcards, and a file
    that is an input itself by its own name. Nothing is read or listed.
    """

    def __init__(self, inputs: Sequence[str]) -> None:
        """Take the inputs of a job as the user named them."""
        self._inputs = list(inputs)
        folders: dict[str, None] = {}
        for location in inputs:
            path = url_of(*open_location(location)).rstrip("/")
            # an input is a folder, a file or a pattern: whichever it is, the longest that a path begins with is right
            folders[path + "/"] = folders[path.rpartition("/")[0] + "/"] = None
            if is_glob(path):
                folders[Glob(path).root + "/"] = None
        self._folders = sorted(folders, key=len, reverse=True)

    def __call__(self, place: str) -> str:
        """Return the name of a path or URL, or of a place such as `<path>:<line>`; unchanged outside all inputs."""
        return next((place[len(one) :] for one in self._folders if place.startswith(one)), place)

    def check(self, shards: Iterable[Shard]) -> None:
        """Raise `DatasetError` for two files of several inputs that would have one name."""
        if len(self._inputs) < 2:
            return
        taken: dict[str, str] = {}
        for shard in shards:
            for path in shard.paths:
                if (other := taken.setdefault(self(path), path)) != path:
                    raise DatasetError(
                        f"relative to their inputs, {other} and {path} are both named {self(path)!r}, and ids would be "
                        "there twice; give the folder that holds both as one input, or keep absolute ids"
                    )


def renamed(row: SourceRow, name_of: Callable[[str], str]) -> SourceRow:
    """Return a row whose place, and that of its failure, are named by a function."""
    place, failure = name_of(row.place), row.failure
    if failure is not None and failure.row == row.place:
        failure = dataclasses.replace(failure, row=place)
    return row._replace(place=place, failure=failure)


def as_they_are(place: str) -> str:
    """Return an absolute place as its own name."""
    return place
