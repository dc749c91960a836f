"""The file systems of inputs and datasets: local paths and everything that fsspec opens."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from ..errors import ClipmillError, DatasetError, MissingExtraError
from .atomic import move_durably
from .drivers import DRIVERS, SCHEMES
from .json_shape import is_inside
from .json_text import clean_text
from .local_files import sizes_below
from .retries import is_failing_store, retry_store

_T = TypeVar("_T")

TEMPORARY = ".tmp"
"""Suffix of files that are being written. Their names start with a dot, so that readers skip them."""

_HINTS = {
    errno.ENOSPC: "free space or write elsewhere",
    errno.EDQUOT: "free space or write elsewhere",
    errno.EFBIG: "raise the limit on file sizes or write elsewhere",
    errno.EACCES: "change its permissions or choose another place",
    errno.EPERM: "change its permissions or choose another place",
    errno.EROFS: "choose another place",
}


def open_location(location: str | os.PathLike[str]) -> tuple[Any, str]:
    """Return the file system of a path or URL from the user, and the path in it.

    Raises:
        DatasetError: If the scheme is unknown, or is http(s), which cannot be listed.
    """
    import fsspec  # imported here: it imports asyncio and ssl, which many users of an encoder never need
    from fsspec.implementations.local import LocalFileSystem

    location = os.fspath(location)
    check_location(location)
    scheme, mark, rest = location.partition("://")
    if not mark:
        return LocalFileSystem(), os.path.abspath(os.path.expanduser(location))
    with _driver_errors(location, scheme):
        file_system, path = fsspec.core.url_to_fs(scheme.lower() + mark + rest)
    file_system.invalidate_cache()  # one object serves the whole process, and would show what an earlier job listed
    return file_system, str(path)


def check_location(location: str) -> None:
    """Check a path or URL from the user, and that there is a driver for its scheme, without connecting to anything.

    Raises:
        DatasetError: As `open_location`.
    """
    scheme, mark, rest = location.partition("://")
    if not mark:
        check_local_path(location)
        return
    import fsspec

    if scheme.lower() in ("file", "local") and not rest.startswith("/"):
        raise DatasetError(f"{location}: such a URL needs an absolute path, as in file:///data; or give the path alone")
    if scheme.lower() in DRIVERS and (not rest or rest.startswith("/")):
        raise DatasetError(f"{location} names no bucket; write {scheme}://bucket/path")
    if scheme.lower() in ("http", "https"):
        raise DatasetError(f"{location}: http(s) cannot be listed; put such URLs into the 'uri' of JSON lines")
    with _driver_errors(location, scheme):
        fsspec.get_filesystem_class(scheme.lower().rpartition("::")[2])


@contextlib.contextmanager
def _driver_errors(location: str, scheme: str) -> Iterator[None]:
    """Turn the errors of fsspec about a scheme into ours, which say what to install."""
    try:
        yield
    except ValueError as err:
        raise DatasetError(f"{location}: no file system for the scheme {scheme!r}: {err}") from err
    except ImportError as err:
        package, extra = DRIVERS.get(scheme.lower(), (f"an fsspec driver for {scheme}", "remote"))
        raise MissingExtraError(package, extra, f"reading and writing {scheme}://") from err


def check_local_path(path: str) -> None:
    """Raise `DatasetError` for a path that is a URL, or a path of Windows, with a slip of the pen; unless it exists.

    Otherwise the output of a whole night would lie in a folder called `gs:bucket`.
    """
    if (match := _URL_LIKE.match(path)) is None or os.path.lexists(path):
        return
    scheme, rest = match.group(1), path[match.end() :].lstrip("/")
    if scheme.lower() in SCHEMES:
        raise DatasetError(f"{path!r} is neither a URL nor a path that exists; write {scheme}://{rest}, or ./{path}")
    if len(scheme) == 1 and path[2:3] in ("\\", "/"):
        raise DatasetError(f"{path!r} is a path of Windows; write it as this machine names it, or ./{path}")


def absolute(location: str) -> str:
    """Return a path, glob or URL that means the same in every process of this machine.

    Raises:
        DatasetError: If it is no path but looks like a URL; see `check_local_path`.
    """
    if "://" in location:
        return location
    check_local_path(location)
    return os.path.abspath(os.path.expanduser(location))


_URL_LIKE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def local_directory(path: str | os.PathLike[str], what: str) -> Path:
    """Return the absolute path of a directory that must be on this machine; `what` names it in the message.

    Raises:
        DatasetError: If it is a URL, which would become a relative path.
    """
    given = os.fspath(path)
    if "://" in given:
        raise DatasetError(f"{what} {given!r} is a URL, and must be a directory of this machine")
    check_local_path(given)
    return Path(os.path.abspath(os.path.expanduser(given)))


def is_local(file_system: Any) -> bool:
    """Return whether a file system is the local one."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(file_system, LocalFileSystem)


def url_of(file_system: Any, path: str) -> str:
    """Return the name of a file in documents and messages: an absolute path if it is local, else the URL."""
    return path if is_local(file_system) else str(file_system.unstrip_protocol(path))


def open_input(location: str) -> IO[bytes]:
    """Open an input file for reading; raise `DatasetError` for a FIFO or a device, which would block or never end."""
    file_system, path = open_location(location)
    if not is_local(file_system):
        opened: IO[bytes] = retry_store(lambda: file_system.open(path, "rb"))
        return opened
    check_is_no_device(path)
    return open(path, "rb")


def check_is_no_device(path: str) -> None:
    """Raise `DatasetError` if a local path is a FIFO, a socket or a device; other paths need not exist."""
    with contextlib.suppress(OSError):  # opening it says more
        if (kind := special_kind(os.stat(path).st_mode)) is not None:
            raise DatasetError(f"{path} is a {kind}; only regular files are read")


def special_kind(mode: int) -> str | None:
    """Return what a file is, by its `st_mode`; None for regular files and folders."""
    return next((name for test, name in _SPECIAL if test(mode)), None)


_SPECIAL = (
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


@contextlib.contextmanager
def dataset_errors(action: str, where: str) -> Iterator[None]:
    """Turn errors of file systems into a `DatasetError` "cannot {action} {where}", with a hint."""
    try:
        yield
    except ClipmillError:
        raise
    except OSError as err:
        hint = _HINTS.get(err.errno or 0)
        if action == "write" and err.errno == errno.ENOENT:
            hint = "was the directory deleted meanwhile?"
        reason = os.strerror(err.errno).lower() if err.errno else reason_of(err)
        if err.errno and "://" in where and (said := (err.strerror or "")[:300]).lower() != reason:
            reason += f" ({said})"  # a store says more than the number
        raise DatasetError(f"cannot {action} {where}: {reason}{f'; {hint}' if hint else ''}") from err
    except Exception as err:  # drivers raise errors of their own client libraries, without a common base class
        raise DatasetError(f"cannot {action} {where}: {type(err).__name__}: {str(err)[:300]}") from err


def raise_failing_store(err: Exception, path: str) -> None:
    """Raise `DatasetError` if an object store failed while a file was read; see `is_failing_store`.

    What was not read is there: it is no failure of rows, and is read when the work is done again.
    """
    if "://" in path and is_failing_store(err):
        with dataset_errors("read", path):
            raise err


def reason_of(error: BaseException) -> str:
    """Return an error's message. For a checksum mismatch, explain it and say how to fix it."""
    message = str(error)
    if "CRC checksum" in message:  # pyarrow's message, which does not name the file
        return (
            "the file is damaged: a page does not match its checksum; restore the file from a copy, or create it "
            "again (a file of a dataset: delete it and embed with --resume; a file of an index: build the index again)"
        )
    return message or type(error).__name__


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
        except FileNotFoundError:
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
            except FileNotFoundError:
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
            with dataset_errors("write", f"{self.url}/{name}"):
                temporary.write_bytes(data)
            self.publish(temporary, name)
        finally:
            with contextlib.suppress(OSError):  # gone, or on a disk that has become read-only, as the other error says
                temporary.unlink()

    def make(self, below: str = "") -> None:
        """Create the directory, or a subdirectory, with its parents.

        Raises:
            DatasetError: If it cannot be created, or its name is not UTF-8: Arrow and Spark take no such path.
        """
        if clean_text(self.path) != self.path:
            raise DatasetError(f"the name of the directory {clean_text(self.url)} is not UTF-8; choose another one")
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
