"""Names of files relative to the input, as ids that stay the same when a mount or a bucket moves."""

from __future__ import annotations

import array
import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from ...errors import DatasetError
from ...files.file_systems import open_location, url_of
from .globs import is_glob, root_of
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
        folders: set[str] = set()
        for location in inputs:
            path = url_of(*open_location(location)).rstrip("/")
            # an input is a folder, a file or a pattern: whichever it is, the longest that a path begins with is right
            folders |= {path + "/", path.rpartition("/")[0] + "/"}
            if is_glob(path):
                folders.add(root_of(path) + "/")
        self._folders = folders

    def __call__(self, place: str) -> str:
        """Return the name of a path or URL, or of a place such as `<path>:<line>`; unchanged outside all inputs."""
        end = place.rfind("/") + 1
        while end and place[:end] not in self._folders:
            end = place.rfind("/", 0, end - 1) + 1
        return place[end:]

    def check(self, shards: Sequence[Shard]) -> None:
        """Raise `DatasetError` for two files of several inputs that would have one name.

        Memory holds 16 bytes for each file, and the names that may be there twice: of tables with several shards, too.
        """
        if len(self._inputs) < 2:
            return
        hashes = array.array("q", (hash(self(path)) for shard in shards for path in shard.paths))
        if not hashes:
            return
        found = np.sort(np.frombuffer(hashes, np.int64))
        twice = set(found[1:][found[1:] == found[:-1]].tolist())
        taken: dict[str, str] = {}
        for path in (path for shard in shards if twice for path in shard.paths):
            if hash(name := self(path)) in twice and (other := taken.setdefault(name, path)) != path:
                raise DatasetError(
                    f"relative to their inputs, {other} and {path} are both named {name!r}, and ids would be there "
                    "twice; give the folder that holds both as one input, or keep absolute ids"
                )


def renamed(row: SourceRow, name_of: Callable[[str], str]) -> SourceRow:
    """Return a row whose place, and that of its failure, are named by a function."""
    place, failure = name_of(row.place), row.failure
    if failure is not None and failure.row == row.place:
        failure = dataclasses.replace(failure, row=place)
    return row._replace(place=place, failure=failure)


def namer(relative_to: Sequence[str]) -> Callable[[str], str]:
    """Return the function that names places: relative to inputs, or as they are if there are none.

    There may be many inputs: a process prepares them once for all shards.
    """
    return _relative(tuple(relative_to)) if relative_to else as_they_are


@functools.lru_cache(maxsize=4)
def _relative(inputs: tuple[str, ...]) -> RelativeNames:
    return RelativeNames(inputs)


def as_they_are(place: str) -> str:
    """Return an absolute place as its own name."""
    return place
