"""An index out of an object store, copied to this machine once for each version of it.

Copies of one index lie side by side in the cache, a folder for each version. Who uses one holds a lock on its manifest,
which is shared; a version that nobody holds is deleted when a newer one is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from pathlib import Path
from typing import IO, NamedTuple

from ..errors import DatasetError
from ..files.cache import NO_LOCKS, cache_root
from ..files.file_systems import Folder, dataset_errors
from ..models.downloads.copies import only_one, part_of, publish
from .manifest import MANIFEST, IndexManifest, manifest_bytes


class Copy(NamedTuple):
    """A copy of an index on this machine.

    Attributes:
        path: Its directory.
        held: Keeps others from deleting it until it is closed.
    """

    path: str
    held: IO[bytes]


def fetch_index(folder: Folder, manifest: IndexManifest, content: bytes) -> Copy:
    """Return this machine's copy of an index, made if there is none of this version.

    Files are copied by one process at a time and appear whole; the manifest is the last, and only if it still is that
    of the index there: one that is built anew may have files of the same names.

    Args:
        folder: In an object store.
        manifest: Of the index there.
        content: The manifest's bytes, which name the version.

    Raises:
        DatasetError: If a file cannot be copied, or there is another index after it was.
        WeightsError: If the cache cannot be written.
    """
    versions = Path(cache_root(None)) / "indexes" / _digest(folder.url.encode())
    target = versions / _digest(content)
    if (held := _hold(target)) is not None:
        return Copy(str(target), held)
    with only_one(versions, folder.url):
        if (held := _hold(target)) is None:
            _copy_all(folder, manifest, content, target)
            held = (target / MANIFEST).open("rb")
            _lock_shared(held)
            for other in versions.iterdir():
                if other != target:
                    _delete(other)
    return Copy(str(target), held)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _hold(target: Path) -> IO[bytes] | None:
    """Return what keeps a copy that is whole from being deleted; None where there is none."""
    try:
        held = (target / MANIFEST).open("rb")
    except FileNotFoundError:
        return None
    _lock_shared(held)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(held.fileno()), (target / MANIFEST).stat()):
            return held
    held.close()  # it was deleted before the lock was had
    return None


def _lock_shared(held: IO[bytes]) -> None:
    """Lock a file with all who read it. On a file system without locks nobody can delete it either: see `_delete`."""
    try:
        fcntl.flock(held, fcntl.LOCK_SH)
    except OSError as err:
        if err.errno not in NO_LOCKS:
            raise


def _delete(copy: Path) -> None:
    """Delete a copy, unless a process uses it; one without a manifest is what a dead process began.

    A copy that cannot be deleted, or locked before, stays: it costs room and nothing else.
    """
    try:
        with (copy / MANIFEST).open("r+b") as manifest:  # some file systems give that lock to who may write alone
            fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (copy / MANIFEST).unlink()
    except FileNotFoundError:
        pass
    except OSError:
        return
    shutil.rmtree(copy, ignore_errors=True)


def _copy_all(folder: Folder, manifest: IndexManifest, content: bytes, target: Path) -> None:
    failed = None
    try:
        for name, size in manifest.files.items():
            _copy(folder, name, size, target / name)
    except DatasetError as err:
        failed = err
    if manifest_bytes(folder.url) != content:
        shutil.rmtree(target, ignore_errors=True)
        raise DatasetError(
            f"{folder.url} was written anew while it was copied to this machine; try again when that has ended"
        ) from failed
    if failed is not None:
        raise failed
    target.mkdir(parents=True, exist_ok=True)
    part_of(target / MANIFEST).write_bytes(content)
    publish(part_of(target / MANIFEST), target / MANIFEST)


def _copy(folder: Folder, name: str, size: int, target: Path) -> None:
    if target.is_file() and target.stat().st_size == size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(target)
    with dataset_errors("copy", f"{folder.url}/{name}"):
        folder.fs.get_file(folder.at(name), os.fspath(part))
    publish(part, target)
