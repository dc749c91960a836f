"""The file systems of inputs and datasets: local paths and everything that fsspec opens."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import stat
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import ClipmillError, DatasetError, MissingExtraError, StoreError
from .drivers import DRIVERS, SCHEMES
from .hub import SCHEME, refusal_at
from .retries import is_failing_store, retry_store

_HINTS = {
    errno.ENOSPC: "free space or write elsewhere",
    errno.EDQUOT: "free space or write elsewhere",
    errno.EFBIG: "raise the limit on file sizes or write elsewhere",
    errno.EACCES: "change its permissions or choose another place",
    errno.EPERM: "change its permissions or choose another place",
    errno.EROFS: "choose another place",
}

_STORE_HINTS = (
    (re.compile(r"(rate|request).{0,12}(limit|quota)", re.IGNORECASE), ""),  # it passes, and is no lack of space
    (
        re.compile(r"quota|insufficient.?storage|storage.?full", re.IGNORECASE),
        "free space there, raise the quota, or write elsewhere",
    ),
    (re.compile(r"entity.?too.?large", re.IGNORECASE), "make files smaller, with fewer rows in a shard"),
    (re.compile(r"access.?denied|forbidden", re.IGNORECASE), "change its permissions or choose another place"),
)
"""What to do about errors of stores, which say them in words of their own."""
TEMPORARY_OF = ", the temporary files of "


def open_location(location: str | os.PathLike[str]) -> tuple[Any, str]:
    """Return the file system of a path or URL from the user, and the path in it.

    Raises:
        DatasetError: If the scheme is unknown, or is http(s), which cannot be listed. It is a `StoreError` if the
            driver cannot be set up, for instance without credentials.
    """
    import fsspec  # imported here: it imports asyncio and ssl, which many users of an encoder never need
    from fsspec.implementations.local import LocalFileSystem

    location = os.fspath(location)
    check_location(location)
    scheme, mark, rest = location.partition("://")
    if not mark:
        return LocalFileSystem(), os.path.abspath(os.path.expanduser(location))
    with dataset_errors("connect to", location):
        file_system, path = fsspec.core.url_to_fs(scheme.lower() + mark + rest)
    _forget_listings(file_system)
    return file_system, str(path)


def _forget_listings(file_system: Any) -> None:
    """Forget what a file system listed: one object serves the whole process, and would show an earlier job's files.

    On a hub, where requests are limited to some thousands in five minutes, every opened file would cost two. There,
    listings are kept for a minute, except those of inputs, which are always asked for (`inputs.listing`).
    """
    now = time.monotonic()
    if SCHEME in file_system.protocol and now - _FORGOTTEN_S.get(file_system, -math.inf) < _KEPT_S:
        return
    file_system.invalidate_cache()
    _FORGOTTEN_S[file_system] = now


_KEPT_S = 60.0
_FORGOTTEN_S: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()


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
    try:
        fsspec.get_filesystem_class(scheme.lower().rpartition("::")[2])
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


def named(location: str) -> str:
    """Return the absolute path or URL of a location as messages and documents have it.

    A URL whose driver cannot be set up here stays as it is: it may be usable where a job runs.

    Raises:
        DatasetError: As `open_location`, but for `StoreError`.
    """
    try:
        return url_of(*open_location(location)).rstrip("/") or "/"
    except StoreError:
        return location.rstrip("/")


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
    """Turn errors of file systems into a `DatasetError` "cannot {action} {where}", with a hint.

    For a URL it is a `StoreError`.
    """
    kind = StoreError if "://" in where else DatasetError
    try:
        yield
    except ClipmillError:
        raise
    except OSError as err:
        if (refusal := refusal_at(err, where)) is not None:
            raise kind(f"cannot {action} {where}: {refusal}") from err
        hint = _HINTS.get(err.errno or 0)
        if hint and TEMPORARY_OF in where:
            hint = "free space, or set TMPDIR to a folder on another disk"
        elif hint is None and "://" in where and action == "write":
            hint = next((said for pattern, said in _STORE_HINTS if pattern.search(str(err))), None)
        if action == "write" and err.errno == errno.ENOENT:
            hint = "was the directory deleted meanwhile?"
        reason = os.strerror(err.errno).lower() if err.errno else reason_of(err)
        if "://" in where:
            reason = " ".join(reason.split())  # some stores say much
        if err.errno and "://" in where and (said := (err.strerror or "")[:300]).lower() != reason:
            reason += f" ({said})"  # a store says more than the number
        raise kind(f"cannot {action} {where}: {reason}{f'; {hint}' if hint else ''}") from err
    except Exception as err:  # drivers raise errors of their own client libraries, without a common base class
        raise kind(f"cannot {action} {where}: {type(err).__name__}: {str(err)[:300]}") from err


def raise_failing_store(err: Exception, path: str) -> None:
    """Raise `DatasetError` if an object store failed, or a hub refused, to give a file; see `is_failing_store`.

    What was not read is there: it is no failure of rows, and is read when the work is done again.
    """
    if "://" in path and (is_failing_store(err) or refusal_at(err, path) is not None):
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
