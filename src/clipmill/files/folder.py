"""`Folder`: a directory on any file system, in which files are written atomically."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DatasetError
from .atomic import move_durably
from .drivers import DRIVERS
from .file_systems import TEMPORARY_OF, check_is_no_device, dataset_errors, is_local, open_location, url_of
from .hub import check_is_no_hub, refusal_at
from .json_shape import is_inside
from .json_text import clean_text
from .local_files import sizes_below
from .retries import is_transient_error, retry_store

_T = TypeVar("_T")

TEMPORARY = ".tmp"
"""Suffix of files that are being written. Their names start with a dot, so that readers skip them."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """A directory on any file system, in which files are written atomically.

    On a local file system, a file is written under a temporary name in the same directory, synced and renamed. An
    object store shows an upload only when it is complete, and has no cheap rename. There the temporary file is local.

    Attributes:
        fs: The fsspec file system.
        path: The path in that file system.
    """

    fs: Any
    path: str

    @classmethod
    def of(cls, location: str | os.PathLike[str]) -> Folder:
        """Return the folder of a path or URL. It need not exist."""
        file_system, path = open_location(location)
        return cls(file_system, path.rstrip("/") or "/")

    @property
    def url(self) -> str:
        """The name in messages: an absolute path if the folder is local, else the URL."""
        return url_of(self.fs, self.path)

    def at(self, name: str) -> str:
        """Return the path of a file in the folder.

        Raises:
            DatasetError: If the name leads outside of the folder: names come from manifests and plans too.
        """
        if not is_inside(name):
            raise DatasetError(f"{name!r} is not a name in {self.url}: it is empty, or leads outside of this folder")
        return f"{self.path.rstrip('/')}/{name}"

    def list(self, below: str = "") -> dict[str, int]:
        """Return the size in bytes of every file, including those in subdirectories.

        Args:
            below: List only this subdirectory.

        Returns:
            Sizes by path relative to the folder. Empty if the directory does not exist.

        Raises:
            DatasetError: If it cannot be listed, or holds a FIFO, a socket or a device.
        """
        root = self.at(below) if below else self.path
        with dataset_errors("list", self.url):
            if is_local(self.fs):
                sizes = dict(sizes_below(root)) if os.path.isdir(root) else {}
                for path in (path for path, size in sizes.items() if size < 0):
                    check_is_no_device(path)
            else:
                found = self.call(lambda: self._find(root))
                sizes = {path: int(info.get("size") or 0) for path, info in found.items()}
        return {path[len(self.path) :].lstrip("/"): size for path, size in sorted(sizes.items())}

    def _find(self, root: str) -> dict[str, Any]:
        try:  # `isdir` would be False also for a store that did not answer
            found = self.fs.find(root, detail=True)
        except FileNotFoundError as err:
            if refusal_at(err, self.url) is not None:
                raise
            return {}
        return {path: info for path, info in found.items() if path != root}

    def call(self, call: Callable[[], _T]) -> _T:
        """Call the driver; again, if it is that of an object store and the error may pass. See `retry_store`."""
        if is_local(self.fs):
            return call()

        def ask() -> _T:
            self.fs.invalidate_cache()  # drivers answer from old listings, also that a file does not exist
            return call()

        return retry_store(ask)

    def kind(self) -> str | None:
        """Return what the path is: `directory`, `file` (or a device), None if it does not exist."""
        with dataset_errors("look at", self.url):
            if is_local(self.fs):
                is_there = os.path.exists(self.path)
                return "directory" if os.path.isdir(self.path) else "file" if is_there else None
            try:
                return str(self.call(lambda: self.fs.info(self.path))["type"])
            except FileNotFoundError as err:
                if refusal_at(err, self.url) is not None:
                    raise
                return None

    def exists(self, name: str) -> bool:
        """Return whether there is a file of that name now."""
        with dataset_errors("look at", f"{self.url}/{name}"):
            return os.path.exists(self.at(name)) if is_local(self.fs) else self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Return the bytes of a file as it is now, None if it does not exist: listings of some stores are old."""
        with dataset_errors("look at", f"{self.url}/{name}"):
            try:
                info = self.call(lambda: self.fs.info(self.at(name)))  # some drivers' `exists` is False after any error
            except FileNotFoundError:
                return None
            return int(info.get("size") or 0)

    def read(self, name: str, *, max_bytes: int | None = None) -> bytes:
        """Return the bytes of a file; of a larger local file, only `max_bytes`.

        Raises:
            FileNotFoundError: If the file does not exist.
            DatasetError: If the file cannot be read.
        """
        try:
            with dataset_errors("read", f"{self.url}/{name}"):
                if is_local(self.fs):
                    check_is_no_device(self.at(name))
                    with open(self.at(name), "rb") as file:
                        return file.read(-1 if max_bytes is None else max_bytes)
                return bytes(self.call(lambda: self.fs.cat_file(self.at(name))))
        except DatasetError as err:
            if isinstance(err.__cause__, FileNotFoundError):
                raise err.__cause__ from None
            raise

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return the bytes of files by name, in one call, since object stores read many at once.

        Files that do not exist are left out: some stores list files for a while that were deleted.

        Raises:
            DatasetError: If one cannot be read.
        """
        found: dict[str, bytes] = {}
        for name in names if is_local(self.fs) else ():
            with contextlib.suppress(FileNotFoundError):
                found[name] = self.read(name)
        if names and not is_local(self.fs):
            with dataset_errors("read", f"{self.url}/{names[0]}"):
                found = self.call(lambda: self._read_many(names))
        return found

    def _read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        paths = [self.at(name) for name in names]
        contents = self.fs.cat_ranges(paths, None, None, on_error="return")  # `cat` takes brackets for patterns
        for content in contents:
            if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                raise content
        pairs = zip(names, contents, strict=True)
        return {name: bytes(content) for name, content in pairs if not isinstance(content, Exception)}

    def write(self, name: str, data: bytes) -> None:
        """Write a small file atomically."""
        temporary = self.temporary(name)
        try:
            with dataset_errors("write", self.written_as(name, temporary)):
                temporary.write_bytes(data)
            self.publish(temporary, name)
        finally:
            with contextlib.suppress(OSError):  # gone, or on a disk that has become read-only, as the other error says
                temporary.unlink()

    def create(self, name: str, data: bytes) -> bytes | None:
        """Write a small file to an object store, unless there is one of that name; return what is there then.

        Returns:
            `data`, or the content that was there. None if the store does not support this condition: nothing is done.
        """
        try:
            with dataset_errors("write", f"{self.url}/{name}"):
                self.call(lambda: self.fs.pipe_file(self.at(name), data, mode="create"))
        except DatasetError as err:
            with contextlib.suppress(FileNotFoundError):
                return self.read(name)  # also if it was created, and the answer was lost
            if isinstance(err.__cause__, Exception) and is_transient_error(err.__cause__):
                raise
            return None
        return data

    def make(self, below: str = "") -> None:
        """Create the directory, or a subdirectory, with its parents.

        Raises:
            DatasetError: If it cannot be created, its name is not UTF-8 (Arrow and Spark take no such path), or it is
                on a hub, which is only read.
        """
        if clean_text(self.path) != self.path:
            raise DatasetError(f"the name of the directory {clean_text(self.url)} is not UTF-8; choose another one")
        check_is_no_hub(self.url)
        protocol = self.fs.protocol if isinstance(self.fs.protocol, str) else self.fs.protocol[0]
        if protocol in DRIVERS:
            return  # object stores have no directories, and their drivers would create a bucket for a misspelt name
        with dataset_errors("make the directory", self.url):
            self.fs.makedirs(self.at(below) if below else self.path, exist_ok=True)

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        with dataset_errors("delete", f"{self.url}/{name}"), contextlib.suppress(FileNotFoundError):
            self.call(lambda: self.fs.rm_file(self.at(name)))

    def temporary(self, name: str) -> Path:
        """Return a new local path for a file that `publish` will move to `name`.

        On an object store, the file exists already, empty, and only this user can read it.
        """
        self.at(name)  # refuses names that lead outside
        unique = f"{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}"
        if is_local(self.fs):
            return Path(self.path) / f".{os.path.basename(name)}.{unique}"
        path = Path(tempfile.gettempdir()) / f".{os.path.basename(name)}.{_folder_hash(self)}.{unique}"
        with dataset_errors("write", str(path)):  # everybody may list that directory: others must not read rows in it
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        return path

    def written_as(self, name: str, temporary: Path) -> str:
        """Return the name of a file in messages while it is written: where its space is needed."""
        where = f"{self.url}/{name}"
        return where if is_local(self.fs) else f"{temporary.parent}{TEMPORARY_OF}{where}"

    def publish(self, temporary: Path, name: str) -> int:
        """Move a complete temporary file to `name`, replacing an existing file, and return its size in bytes."""
        with dataset_errors("write", f"{self.url}/{name}"):
            size = temporary.stat().st_size
            target = self.at(name)
            if is_local(self.fs):
                move_durably(temporary, Path(target))
            else:
                self.call(lambda: _upload(self.fs, temporary, target))
                temporary.unlink()
        return size


def _upload(file_system: Any, temporary: Path, target: str) -> None:
    try:
        file_system.put_file(str(temporary), target)
    except FileNotFoundError as err:
        if not temporary.exists():
            raise
        # An upload in parts was completed, the answer was lost, and the driver asked again: it is gone by then.
        raise TimeoutError(str(err)) from err


def remove_temporaries(folder: Folder) -> None:
    """Delete the temporary files that dead processes left on this machine for a folder on an object store.

    Temporary files on other machines cannot be found from here.
    """
    if is_local(folder.fs):
        return  # their temporary files are in the folder itself
    for path in Path(tempfile.gettempdir()).glob(f".*.{_folder_hash(folder)}.*{TEMPORARY}"):
        with contextlib.suppress(OSError):  # another user's file, or already gone
            path.unlink()


def _folder_hash(folder: Folder) -> str:
    """Return a short hash that marks the temporary files of this folder."""
    return hashlib.sha256(folder.url.encode()).hexdigest()[:12]
