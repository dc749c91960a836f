"""Replaces a dataset by another one that is whole: `_next/` in its directory, and how that takes the old one's place.

A job that replaces a dataset writes into `_next/`, which readers skip, and which is a dataset of its own with all of
its files. Until it is whole, the old dataset stays as it is. `_next/_SUCCESS` marks that it is whole:

    1.  _next/_SUCCESS is written, empty     the new dataset is whole; from here on, it replaces the old one
    2.  the old dataset's files are deleted, `_SUCCESS` first; its description stays
    3.  _next/_SUCCESS says "moving"         whatever stands in the directory now is new
    4.  the new files move up, the description last; `_SUCCESS` is written
    5.  _next/_SUCCESS is deleted

Every step may be repeated. After a crash, `finish_replacing` continues, at the next start of a job in this directory or
when its end is repeated.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import DatasetError
from ..files.atomic import sync_to_disk
from ..files.file_systems import dataset_errors, is_local
from ..files.folder import Folder, remove_temporaries
from ..files.lock import LOCK, check_held
from .directory import ATTEMPTS, JOB, NEXT, OWN, PLAN, SKIP_LISTS, STAGING, SUCCESS, is_orphan

_MOVING = b"moving"
_AT_ONCE = 16
"""Files of an object store that are moved or deleted in parallel; the threads only wait."""


def folder_written(directory: str) -> Folder:
    """Return the folder that the current job of a directory writes: `_next/` while it replaces a dataset."""
    folder = Folder.of(directory)
    if _is_elsewhere(folder):
        return folder
    below = next_of(folder)
    return below if below.exists(JOB) else folder


def next_of(folder: Folder) -> Folder:
    """Return the folder of the dataset that is about to replace the one in a folder."""
    return Folder(folder.fs, folder.at(NEXT))


def is_being_replaced(directory: str) -> bool:
    """Return whether another dataset is whole and takes the place of the one in a directory."""
    folder = Folder.of(directory)
    return not _is_elsewhere(folder) and next_of(folder).exists(SUCCESS)


def directory_of(location: str) -> Folder:
    """Return the folder of a dataset, also if `_next/` in it is given."""
    folder = Folder.of(location)
    above, _, name = folder.path.rpartition("/")
    return Folder(folder.fs, above) if name == NEXT else folder


def files_of(directory: str) -> tuple[dict[str, int], dict[str, str]]:
    """Return the files that the current job of a directory has written, also while they move to their places.

    Returns:
        Their sizes, and where in the directory those are that are not in their places, both by name.
    """
    folder, below = Folder.of(directory), f"{NEXT}/"
    marker, found = _marker(folder), folder.list()
    if marker is None and folder_written(directory) == folder:
        return found, {}
    places = {name.removeprefix(below): name for name in found if name.startswith(below)}
    sizes = {name: found[place] for name, place in places.items()}
    if marker == _MOVING:  # before, the files beside `_next/` are those of the old dataset
        sizes = {name: size for name, size in found.items() if not name.startswith(below)} | sizes
    return sizes, places


def finish_replacing(folder: Folder, known: Iterable[str] = ()) -> bool:
    """Let the dataset in `_next/` take the place of the old one, if it is whole; return whether it did.

    Files that are no part of a dataset stay.

    Args:
        folder: The directory.
        known: Names of files of the new dataset, which move also if a listing does not show them yet.

    Raises:
        DatasetError: If a file cannot be deleted or moved, or this process has lost the lock of the directory.
    """
    marker = _marker(folder)
    if marker is None:
        return False
    below = next_of(folder)
    check_held(folder)
    if marker != _MOVING:
        _delete_old(folder)
        below.write(SUCCESS, _MOVING)
    check_held(folder)
    listed = [name for name in below.list() if name != SUCCESS and not is_orphan(name)]
    names = sorted({*listed, *known})
    # readers of a resumed job look for the description and the plan, so these leave the folder last; parts of the plan
    # are looked for in both places
    last = [name for name in (PLAN, JOB) if name in names]
    folders = sorted({name.rpartition("/")[0] for name in names} - {""})
    for one in folders:
        folder.make(one)
    for_each(lambda name: _move_up(folder, name), [name for name in names if name not in last], folder)
    for name in last:
        _move_up(folder, name)
    if is_local(folder.fs):
        for one in folders:
            sync_to_disk(Path(folder.at(one)))
    folder.write(SUCCESS, b"")
    folder.delete(f"{NEXT}/{SUCCESS}")
    remove_temporaries(below)
    remove_empty(folder, NEXT)
    return True


def _delete_old(folder: Folder) -> None:
    """Delete the old dataset's files but its description, which marks the directory as ours; `_SUCCESS` first."""
    folder.delete(SUCCESS)
    kept = {JOB, LOCK, SUCCESS}
    names = [name for name in folder.list() if name not in kept and not name.startswith(f"{NEXT}/")]
    for_each(folder.delete, [name for name in names if OWN.fullmatch(name) or is_orphan(name)], folder)
    for name in (ATTEMPTS, SKIP_LISTS, STAGING):
        remove_empty(folder, name)


def _move_up(folder: Folder, name: str) -> None:
    try:
        move(folder, f"{NEXT}/{name}", name)
    except DatasetError as err:  # some stores list files for a while that were deleted
        if is_local(folder.fs) or not isinstance(err.__cause__, FileNotFoundError):
            raise


def move(folder: Folder, source: str, target: str) -> None:
    """Move a file in a folder, unless an earlier attempt has moved it; an existing file is replaced."""
    with dataset_errors("move", f"{folder.url}/{source}"):
        if is_local(folder.fs):
            try:
                os.replace(folder.at(source), folder.at(target))
            except FileNotFoundError:
                if not os.path.exists(folder.at(target)):
                    raise
            return
        if folder.exists(source) or not folder.exists(target):
            # not `mv`, which takes brackets in names for patterns
            folder.call(lambda: folder.fs.cp_file(folder.at(source), folder.at(target)))
            folder.delete(source)


def for_each(work: Callable[[str], None], names: Iterable[str], folder: Folder) -> None:
    """Do something with each file of a folder: many at once in an object store, where each takes long."""
    if is_local(folder.fs):
        for name in names:
            work(name)
        return
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(work, names))


def remove_empty(folder: Folder, below: str) -> None:
    """Remove the empty folders in a folder, itself included; object stores have none."""
    with contextlib.suppress(Exception):  # it does not exist, or a file that is not ours keeps it
        if is_local(folder.fs):
            for found in sorted(Path(folder.at(below)).glob("**/"), reverse=True):
                found.rmdir()
        else:
            folder.fs.rmdir(folder.at(below))


def _marker(folder: Folder) -> bytes | None:
    """Return the content of the file that marks a whole dataset in `_next/`, None without it."""
    if _is_elsewhere(folder):
        return None
    try:
        return next_of(folder).read(SUCCESS, max_bytes=len(_MOVING))
    except FileNotFoundError:
        return None


def _is_elsewhere(folder: Folder) -> bool:
    """Return whether `_next` is no folder but a link, through which files elsewhere would be moved; or a file."""
    path = folder.at(NEXT)
    return is_local(folder.fs) and (os.path.islink(path) or os.path.isfile(path))
