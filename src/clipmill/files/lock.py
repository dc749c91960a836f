"""One job at a time in a directory: a lock file that identifies its holder, and that replaces locks of dead jobs.

The file holds the process, its machine, and a heartbeat, which a thread renews. A lock is ignored if its process no
longer runs on this machine. Processes on other machines cannot be checked, so there the age of the heartbeat decides:
by the clock of the file system, which is one for all, since the clocks of two machines may be hours apart. On a local
file system, the file is created atomically, under a lock of the operating system. On S3, Google Cloud Storage and
Azure, it is created with the condition that it does not exist. On other stores, and wherever a dead lock was removed,
it is read back after a moment: the last writer holds it.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from ..errors import DatasetError
from .file_systems import dataset_errors, is_local
from .folder import TEMPORARY, Folder
from .json_shape import fits
from .json_text import json_object, json_text
from .processes import may_be_alive, pid_namespace, this_process
from .retries import is_transient_error

LOCK = "_lock.json"
HEARTBEAT_S = 20.0
"""Seconds between heartbeats."""
DEAD_AFTER_S = 120.0
"""Seconds without a heartbeat after which the lock of a job on another machine is ignored."""
_SHAPE = {"token": str, "pid": int, "host": str, "beat": float}
_MAX_BYTES = 64 * 2**10
"""Bytes of a lock file that are read; clipmill writes a few hundred."""
_SETTLE_S = 1.0
"""Seconds before a lock that two jobs may have written at the same time is read back."""

_log = logging.getLogger("clipmill")
_held: set[DirectoryLock] = set()
_in_use: set[str] = set()
"""Tokens of the locks that this process holds or is about to acquire."""
_entered = threading.local()
"""The local directories for which this thread is inside `one_at_a_time`, and whether others are kept out."""


class DirectoryLock:
    """Context manager that locks a directory against other jobs, on this machine and on others."""

    def __init__(self, directory: str) -> None:
        """Set the directory. The lock is acquired when the block is entered.

        Args:
            directory: Path or URL of a dataset. It is created if it does not exist.
        """
        self._folder = Folder.of(directory)
        self._record = {"token": secrets.token_hex(8), **this_process(), "since": _now()}
        self._ended = threading.Event()
        self._writing = threading.Lock()  # an in-memory store shows a file that is being written
        self._heartbeat: threading.Thread | None = None
        self._taken_by: dict[str, Any] | None = None

    @property
    def token(self) -> str:
        """A unique identifier of this lock."""
        return str(self._record["token"])

    def __enter__(self) -> Self:
        _in_use.add(self.token)
        try:
            self._acquire()
        except BaseException:
            _in_use.discard(self.token)
            raise
        _held.add(self)
        self._heartbeat = threading.Thread(target=self._send_heartbeats, name="clipmill-lock", daemon=True)
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def check(self) -> None:
        """Check that this process still holds the lock.

        It loses the lock if it was suspended for so long that another job considered it dead.

        Raises:
            DatasetError: If the lock is lost. The message names the new holder.
        """
        with self._writing:
            self._check_owner()
        if self._taken_by is not None:
            gone = f"the lock of {self._folder.url} is gone"
            raise DatasetError(
                f"{_held_by(self._folder, self._taken_by) if self._taken_by else gone}: this job sent no heartbeat "
                f"for {DEAD_AFTER_S:.0f} seconds and was considered dead, or its lock was deleted; when no other job "
                "is running, start the command again (clipmill embed with --resume)"
            )

    def release(self) -> None:
        """Release the lock. A lock file that cannot be deleted is ignored once this process has ended."""
        _held.discard(self)
        self._ended.set()
        if self._heartbeat is not None and self._heartbeat is not threading.current_thread():
            self._heartbeat.join(timeout=HEARTBEAT_S)
        with contextlib.suppress(DatasetError):
            if (read_lock(self._folder) or {}).get("token") == self.token:
                self._folder.delete(LOCK)
        _in_use.discard(self.token)

    def _acquire(self) -> None:
        folder = self._folder
        folder.make()
        with one_at_a_time(folder) as is_certain:
            current = _settled(folder)
            if current is not None:
                _refuse_if_alive(folder, current)
                folder.delete(LOCK)
            is_certain = self._create() and is_certain
        if not is_certain or (current is not None and not _is_exclusive(folder, current)):
            time.sleep(_SETTLE_S)
            self._refuse_others(read_lock(folder) or {})

    def _create(self) -> bool:
        """Create the lock file; return whether the file system guarantees that none existed."""
        folder, content = self._folder, self._content()
        if not is_local(folder.fs):
            there = folder.create(LOCK, content)
            if there is not None and there != content:
                self._refuse_others(read_lock(folder) or {})
            elif there is None:
                folder.write(LOCK, content)
            return there is not None
        try:
            with dataset_errors("write", f"{folder.url}/{LOCK}"):
                _create_local(folder, content)
        except DatasetError as err:
            if (current := read_lock(folder)) is not None:
                self._refuse_others(current)
                return True
            if isinstance(err.__cause__, Exception) and is_transient_error(err.__cause__):
                raise
            folder.write(LOCK, content)
            return False
        return True

    def _refuse_others(self, current: dict[str, Any]) -> None:
        if current.get("token") != self.token:
            if not current:
                raise DatasetError(f"another job started writing to {self._folder.url} at the same moment; try again")
            raise DatasetError(f"{_held_by(self._folder, current)}; wait until it ends, or choose another directory")

    def _content(self) -> bytes:
        return json_text({**self._record, "beat": time.time()}, indent=1).encode()

    def _check_owner(self) -> None:
        """Detect that the lock was taken over, or is gone: the job that took it may have ended already."""
        current = read_lock(self._folder) or {}
        if current.get("token") != self.token:
            self._taken_by = current

    def _send_heartbeats(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            try:
                with self._writing:
                    self._check_owner()
                    if self._taken_by is not None:
                        _log.error(
                            "another job took over %s: this job was considered dead"
                            if self._taken_by
                            else "%s, or the lock in it, was deleted while this job runs",
                            self._folder.url,
                        )
                        return
                    self._folder.write(LOCK, self._content())
            except DatasetError as err:
                _log.warning("the heartbeat could not be written: %s", err)


def read_lock(folder: Folder) -> dict[str, Any] | None:
    """Return the content of a directory's lock: None if it has none, empty if the file is damaged."""
    try:
        content = json_object(folder.read(LOCK, max_bytes=_MAX_BYTES))
    except FileNotFoundError:
        return None
    return content if content is not None and fits(content, _SHAPE) else {}


def refuse_if_held(folder: Folder, *, may_write: bool = True) -> None:
    """Raise `DatasetError` if another process holds the lock of a directory.

    Without `may_write`, the age of a heartbeat from another machine is judged by the clocks of both machines, since the
    time of the file system is that of a file written now. Then a lock whose time is far from this machine's passes.
    """
    current = read_lock(folder)
    if current and current["token"] not in _in_use:
        _refuse_if_alive(folder, current, may_write=may_write)


def check_held(folder: Folder) -> None:
    """Raise `DatasetError` if this process has lost its lock of a directory. Directories that it never locked pass."""
    for lock in list(_held):
        if lock._folder.url == folder.url:
            lock.check()


def clear_lock(folder: Folder) -> None:
    """Delete the lock of a dead job; raise `DatasetError` if another process holds it."""
    refuse_if_held(folder)
    current = read_lock(folder)
    if current is not None and current.get("token") not in _in_use:
        folder.delete(LOCK)


def release_all() -> None:
    """Release all locks of this process: for callers that end it without leaving their blocks."""
    for lock in list(_held):
        lock.release()


def _is_exclusive(folder: Folder, current: dict[str, Any]) -> bool:
    """Return whether the operating system alone can exclude all other jobs: the lock was local to this machine."""
    return is_local(folder.fs) and current.get("place") == pid_namespace()


def _settled(folder: Folder) -> dict[str, Any] | None:
    """Read a lock, and once more if it is incomplete: some file systems cannot create a file atomically."""
    current = read_lock(folder)
    if current == {}:
        time.sleep(_SETTLE_S)
        current = read_lock(folder)
    return current


def _refuse_if_alive(folder: Folder, current: dict[str, Any], *, may_write: bool = True) -> None:
    if not current:
        return
    age_s, hint = None, ""
    alive = may_be_alive(current)
    if alive and _is_this_process(current) and current["token"] not in _in_use:
        return  # this process could not delete its lock when it released it
    if alive is None:
        age_s = _seconds_since_heartbeat(folder, current, may_write=may_write)
        alive = age_s < DEAD_AFTER_S and (may_write or age_s > -DEAD_AFTER_S)
        hint = (
            f"; if that machine is gone, try again {DEAD_AFTER_S:.0f} seconds after its last heartbeat, or delete "
            f"{folder.url}/{LOCK}"
        )
    if alive:
        held = _held_by(folder, current, age_s)
        raise DatasetError(f"{held}; wait until it ends, or choose another directory{hint}")


def _is_this_process(current: dict[str, Any]) -> bool:
    return all(current.get(name) == value for name, value in this_process().items())


def _seconds_since_heartbeat(folder: Folder, current: dict[str, Any], *, may_write: bool) -> float:
    """Return the age of a lock by the clock of its file system: how much older it is than a file written now."""
    probe = f".{LOCK}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}"
    if may_write:
        try:
            beat = _written_at(folder, LOCK)
            folder.write(probe, b"")
            return (_written_at(folder, probe) - beat).total_seconds()
        except (DatasetError, NotImplementedError, TypeError) as err:  # not all file systems know times
            _log.info("the age of %s/%s is taken from the clocks of two machines: %s", folder.url, LOCK, err)
        finally:
            with contextlib.suppress(DatasetError):
                folder.delete(probe)
    return time.time() - float(current["beat"])


def _written_at(folder: Folder, name: str) -> datetime.datetime:
    with dataset_errors("look at", f"{folder.url}/{name}"):
        written: datetime.datetime = folder.call(lambda: folder.fs.modified(folder.at(name)))
        return written


def _held_by(folder: Folder, current: dict[str, Any], age_s: float | None = None) -> str:
    age = time.time() - float(current["beat"]) if age_s is None else age_s
    said = f"{age:.0f} s ago" if age > -HEARTBEAT_S else f"{-age:.0f} s ahead of this machine's clock"
    return (
        f"another job is writing to {folder.url}: process {current['pid']} on {current['host']}, started "
        f"{current.get('since')}, last heartbeat {said}"
    )


@contextlib.contextmanager
def one_at_a_time(folder: Folder) -> Iterator[bool]:
    """Run the block while no other process or thread of this machine runs one for the same local directory.

    Blocks may be nested.

    Yields:
        False if the file system does not support locks on directories, so that others are not excluded.
    """
    if not is_local(folder.fs):
        yield True  # object stores create the lock file conditionally instead
        return
    entered = vars(_entered).setdefault("paths", {})
    if folder.path in entered:
        yield entered[folder.path]
        return
    with dataset_errors("write", folder.url):
        descriptor = os.open(folder.path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            entered[folder.path] = True
        except OSError:  # some network file systems don't support locks on directories
            entered[folder.path] = False
        yield entered[folder.path]
    finally:
        entered.pop(folder.path, None)
        os.close(descriptor)


def _create_local(folder: Folder, content: bytes) -> None:
    """Create the lock file, atomically if the file system supports links. Never replace an existing one."""
    temporary = folder.temporary(LOCK)
    try:
        temporary.write_bytes(content)
        try:
            os.link(temporary, folder.at(LOCK))
        except FileExistsError:
            raise
        except OSError:
            with open(folder.at(LOCK), "xb") as file:
                file.write(content)
    finally:
        temporary.unlink(missing_ok=True)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
