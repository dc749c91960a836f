"""The file systems under inputs and datasets: local paths and everything that fsspec opens."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import ClipmillError, DatasetError, MissingExtraError
from .drivers import DRIVERS

TEMPORARY = ".tmp"
"""Ending of files that are being written; their names begin with a dot, so that readers pass them over."""

_WAYS_OUT = {
    errno.ENOSPC: "free space or write elsewhere",
    errno.EDQUOT: "free space or write elsewhere",
    errno.EFBIG: "raise the limit on file sizes or write elsewhere",
    errno.EACCES: "change its permissions or choose another place",
    errno.EPERM: "change its permissions or choose another place",
    errno.EROFS: "choose another place",
}


def open_location(location: str | os.PathLike[str]) -> tuple[Any, str]:
    """Return the file system of a path or URL that the user gave, and the path in it.

    Raises:
        DatasetError: If its scheme is none that can be listed.
        MissingExtraError: If the scheme's driver is not installed.
    """
    import fsspec  # late: it brings asyncio and ssl, which many users of an encoder never need
    from fsspec.implementations.local import LocalFileSystem

    location = os.fspath(location)
    scheme, mark, _ = location.partition("://")
    if not mark:
        return LocalFileSystem(), os.path.abspath(os.path.expanduser(location))
    if scheme.lower() in ("http", "https"):
        raise DatasetError(f"{location}: http(s) cannot be listed; put such URLs into the 'uri' of JSON lines")
    try:
        file_system, path = fsspec.core.url_to_fs(scheme.lower() + mark + location[len(scheme) + len(mark) :])
    except ValueError as err:
        raise DatasetError(f"{location}: no file system for the scheme {scheme!r}: {err}") from err
    except ImportError as err:
        package, extra = DRIVERS.get(scheme.lower(), (f"an fsspec driver for {scheme}", "remote"))
        raise MissingExtraError(package, extra, f"reading and writing {scheme}://") from err
    return file_system, str(path)


def is_local(file_system: Any) -> bool:
    """Return whether a file system is this machine's own."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(file_system, LocalFileSystem)


def url_of(file_system: Any, path: str) -> str:
    """Return how documents and messages name a file: a plain absolute path, or the URL."""
    return path if is_local(file_system) else str(file_system.unstrip_protocol(path))


def open_input(location: str) -> IO[bytes]:
    """Open a file of the input for reading."""
    file_system, path = open_location(location)
    return open(path, "rb") if is_local(file_system) else file_system.open(path, "rb")


@contextlib.contextmanager
def dataset_errors(action: str, where: str) -> Iterator[None]:
    """Turn what a file system raises into a `DatasetError` that says what was done, where, and the way out."""
    try:
        yield
    except ClipmillError:
        raise
    except OSError as err:
        hint = _WAYS_OUT.get(err.errno or 0)
        reason = os.strerror(err.errno).lower() if err.errno else reason_of(err)
        raise DatasetError(f"cannot {action} {where}: {reason}{f'; {hint}' if hint else ''}") from err
    except Exception as err:  # drivers raise their own clients' errors, which share no base
        raise DatasetError(f"cannot {action} {where}: {type(err).__name__}: {str(err)[:300]}") from err


def reason_of(error: BaseException) -> str:
    """Return what an error says; of a checksum that differs what that means, and the way out."""
    said = str(error)
    if "CRC checksum" in said:  # pyarrow's words, which name no file
        return (
            "the file is damaged: a page of it is not as its checksum says; bring back a copy of the file, or make it "
            "again (one of a dataset: delete it and embed with --resume; one of an index: build the index again)"
        )
    return said or type(error).__name__


@dataclasses.dataclass(frozen=True)
class Folder:
    """A directory on any file system, whose files appear whole or not at all.

    Locally a file is written under a temporary name in the same directory, synced and renamed. Object stores show an
    upload under its final name when it is complete, and have no cheap rename; there the temporary file is local.

    Attributes:
        fs: Its fsspec file system.
        path: Its path in there.
    """

    fs: Any
    path: str

    @classmethod
    def of(cls, location: str | os.PathLike[str]) -> Folder:
        """Name a directory; it need not exist."""
        file_system, path = open_location(location)
        return cls(file_system, path.rstrip("/") or "/")

    @property
    def url(self) -> str:
        """How messages name it."""
        return url_of(self.fs, self.path)

    def at(self, name: str) -> str:
        """Return the path of a file in it."""
        return f"{self.path.rstrip('/')}/{name}"

    def list(self, below: str = "") -> dict[str, int]:
        """Return the size of every file in it or in a directory below, by its name in there; empty without it."""
        root = self.at(below) if below else self.path
        with dataset_errors("list", self.url):
            self.fs.invalidate_cache(root)  # other workers have written since
            found = self.fs.find(root, detail=True) if self.fs.isdir(root) else {}
        return {path[len(self.path) :].lstrip("/"): int(info.get("size") or 0) for path, info in sorted(found.items())}

    def read(self, name: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            FileNotFoundError: If there is none.
            DatasetError: If it cannot be read.
        """
        try:
            with dataset_errors("read", f"{self.url}/{name}"):
                return bytes(self.fs.cat_file(self.at(name)))
        except DatasetError as err:
            if isinstance(err.__cause__, FileNotFoundError):
                raise err.__cause__ from None
            raise

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, whole or not at all."""
        temporary = self.temporary(name)
        try:
            with dataset_errors("write", f"{self.url}/{name}"):
                temporary.write_bytes(data)
            self.publish(temporary, name)
        finally:
            temporary.unlink(missing_ok=True)

    def make(self, below: str = "") -> None:
        """Make the directory, or one below it, with its parents."""
        protocol = self.fs.protocol if isinstance(self.fs.protocol, str) else self.fs.protocol[0]
        if protocol in DRIVERS:
            return  # object stores have no directories, and their drivers would make a bucket of a misspelt name
        with dataset_errors("make the directory", self.url):
            self.fs.makedirs(self.at(below) if below else self.path, exist_ok=True)

    def delete(self, name: str) -> None:
        """Delete a file if it is there."""
        with dataset_errors("delete", f"{self.url}/{name}"), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.at(name))

    def temporary(self, name: str) -> Path:
        """Return a fresh local path to write a file at that `publish` then moves to `name`."""
        unique = f"{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}"
        if is_local(self.fs):
            return Path(self.path) / f".{os.path.basename(name)}.{unique}"
        return Path(tempfile.gettempdir()) / f".{os.path.basename(name)}.{_mark_of(self)}.{unique}"

    def publish(self, temporary: Path, name: str) -> int:
        """Put a finished temporary file in place, over an older one of that name, and return its size in bytes."""
        with dataset_errors("write", f"{self.url}/{name}"):
            size = temporary.stat().st_size
            target = self.at(name)
            if is_local(self.fs):
                _sync(temporary)
                os.replace(temporary, target)
                _sync(Path(target).parent)
            else:
                self.fs.put_file(str(temporary), target)
                temporary.unlink()
        return size


def remove_temporaries(folder: Folder) -> None:
    """Delete what dead processes of this machine left of a directory of an object store; of others nobody can tell.

    Args:
        folder: A directory that no other process writes.
    """
    if is_local(folder.fs):
        return  # there they stand in the directory itself
    for path in Path(tempfile.gettempdir()).glob(f".*.{_mark_of(folder)}.*{TEMPORARY}"):
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            path.unlink()


def _mark_of(folder: Folder) -> str:
    """Return what tells the temporary files of one directory from those of others."""
    return hashlib.sha256(folder.url.encode()).hexdigest()[:12]


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
