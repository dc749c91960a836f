"""Local copies of an index in an object store, one for each version of it.

Copies of one index are side by side in the cache, in a folder for each version. A process that uses a copy holds a
shared lock on its manifest. A version that no process holds is deleted when a newer one is complete.
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
from ..files.file_systems import dataset_errors, is_local
from ..files.folder import Folder
from ..models.downloads.copies import only_one, part_of, publish
from .manifest import MANIFEST, STAGING, IndexManifest, manifest_bytes


class LocalCopy(NamedTuple):
    """A copy of an index on this machine.

    Attributes:
        path: Its directory.
        held: Its manifest, open and locked: nobody deletes the copy until this is closed.
    """

    path: str
    held: IO[bytes]


def fetch_index(folder: Folder, manifest: IndexManifest, content: bytes) -> LocalCopy:
    """Return this machine's copy of an index; make it if there is none of this version.

    One process at a time copies. Files appear whole. The manifest comes last, and only if the index in the store still
    has this manifest: an index that is rebuilt meanwhile may have files of the same names.

    `content` is the manifest's bytes, which identify the version.
    """
    versions = Path(cache_root(None)) / "indexes" / _digest(folder.url.encode())
    target = versions / _digest(content)
    if (held := _hold(target)) is not None:
        return LocalCopy(str(target), held)
    with only_one(versions, folder.url):
        if (held := _hold(target)) is None:
            _copy_all(folder, manifest, content, target)
            held = (target / MANIFEST).open("rb")
            _lock_shared(held)
            for other in versions.iterdir():
                if other != target:
                    _delete(other)
    return LocalCopy(str(target), held)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _hold(target: Path) -> IO[bytes] | None:
    """Lock a complete copy and return its manifest, open; None where there is no such copy."""
    try:
        held = (target / MANIFEST).open("rb")
    except FileNotFoundError:
        return None
    _lock_shared(held)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(held.fileno()), (target / MANIFEST).stat()):
            return held
    held.close()  # it was deleted before the lock was granted
    return None


def _lock_shared(held: IO[bytes]) -> None:
    """Take a shared lock. On a file system without locks none is needed: `_delete` then deletes nothing."""
    try:
        fcntl.flock(held, fcntl.LOCK_SH)
    except OSError as err:
        if err.errno not in NO_LOCKS:
            raise


def _delete(copy: Path) -> None:
    """Delete a copy, unless a process uses it. A copy without a manifest was left incomplete by a dead process.

    A copy that cannot be locked or deleted stays: it only costs disk space.
    """
    try:
        with (copy / MANIFEST).open(
            "r+b"
        ) as manifest:  # some file systems lock exclusively only files open for writing
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
            f"{folder.url} was replaced while it was copied to this machine; try again when that has ended"
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
        folder.call(lambda: folder.fs.get_file(folder.at(name), os.fspath(part)))
    publish(part, target)


def local_path(folder: Folder, name: str, scratch: Path) -> str:
    """Return the path of one file of an index on this machine; copy it to `scratch` if it is in an object store."""
    if is_local(folder.fs):
        return folder.at(name)
    target = scratch / name.replace("/", "-").removeprefix(STAGING)
    with dataset_errors("copy", f"{folder.url}/{name}"):
        folder.call(lambda: folder.fs.get_file(folder.at(name), str(target)))
    return str(target)
