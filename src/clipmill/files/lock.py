"""One job at a time in a directory: a lock that says who holds it, and that is taken over from the dead.

It is a file in the directory with the process, its machine, and a sign of life that a thread renews. A lock whose
process is gone from this machine counts for nothing; what runs on another machine cannot be looked at, so there the
sign of life decides, by the clocks of both. Locally the lock is made in one step or not at all, under a lock of the
operating system. Object stores are asked to make the file only if there is none, which S3, Google's and Azure's do;
elsewhere, and wherever a dead lock was removed, it is read back after a moment: the last one who wrote it has it.
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
from .file_systems import Folder, dataset_errors, is_local
from .json_text import json_object, json_text
from .processes import may_be_alive, this_place, this_process

LOCK = "_lock.json"
BEAT_EVERY_S = 20.0
"""Seconds between two signs of life."""
DEAD_AFTER_S = 120.0
"""Seconds without one after which a lock of another machine counts for nothing."""
_SETTLE_S = 1.0
"""Seconds after which a lock that two may have written at once is read back."""

_log = logging.getLogger("clipmill")
_held: set[DirectoryLock] = set()


class DirectoryLock:
    """Holds a directory while its block runs, against other jobs of this machine and of others."""

    def __init__(self, directory: str) -> None:
        """Name the directory; nothing happens before the block is entered.

        Args:
            directory: Path or URL of a dataset; made if it is not there.
        """
        self._folder = Folder.of(directory)
        self._says = {"token": secrets.token_hex(8), **this_process(), "since": _now()}
        self._ended = threading.Event()
        self._writing = threading.Lock()  # a store in memory shows a file while it is written
        self._beating: threading.Thread | None = None
        self._taken_by: dict[str, Any] | None = None

    @property
    def token(self) -> str:
        """What tells this lock from every other."""
        return str(self._says["token"])

    def __enter__(self) -> Self:
        self._acquire()
        _held.add(self)
        self._beating = threading.Thread(target=self._beat, name="clipmill-lock", daemon=True)
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def check(self) -> None:
        """Refuse to go on where somebody took the lock: this process was held up for so long that it counted as dead.

        Raises:
            DatasetError: Naming who has it now.
        """
        with self._writing:
            self._look()
        if self._taken_by is not None:
            gone = f"the lock of {self._folder.url} is gone"
            raise DatasetError(
                f"{_held_by(self._folder, self._taken_by) if self._taken_by else gone}: somebody took this job for "
                f"dead, which gave no sign of life for {DEAD_AFTER_S:.0f} seconds, or deleted its lock; when no other "
                "job is at work, start the command again (clipmill embed with --resume)"
            )

    def release(self) -> None:
        """Give the directory back. What cannot be deleted counts for nothing once this process has ended."""
        _held.discard(self)
        self._ended.set()
        if self._beating is not None and self._beating is not threading.current_thread():
            self._beating.join(timeout=BEAT_EVERY_S)
        with contextlib.suppress(DatasetError):
            if (read_lock(self._folder) or {}).get("token") == self.token:
                self._folder.delete(LOCK)

    def _acquire(self) -> None:
        folder = self._folder
        folder.make()
        with one_at_a_time(folder) as is_certain:
            standing = _settled(folder)
            if standing is not None:
                _refuse_if_alive(folder, standing)
                folder.delete(LOCK)
            is_certain = self._create() and is_certain
        if not is_certain or (standing is not None and not _is_of_here(folder, standing)):
            time.sleep(_SETTLE_S)
            self._refuse_others(read_lock(folder) or {})

    def _create(self) -> bool:
        """Make the lock; return whether the file system promised that there was none."""
        folder, content = self._folder, self._content()
        try:
            with dataset_errors("write", f"{folder.url}/{LOCK}"):
                if is_local(folder.fs):
                    _create_local(folder, content)
                else:
                    folder.fs.pipe_file(folder.at(LOCK), content, mode="create")
        except DatasetError:
            if (standing := read_lock(folder)) is not None:
                self._refuse_others(standing)
            folder.write(LOCK, content)  # a store that does not know the condition
            return False
        return True

    def _refuse_others(self, standing: dict[str, Any]) -> None:
        if standing.get("token") != self.token:
            if not standing:
                raise DatasetError(f"another job began to write {self._folder.url} at this moment; try again")
            raise DatasetError(f"{_held_by(self._folder, standing)}; wait for its end, or choose another directory")

    def _content(self) -> bytes:
        return json_text({**self._says, "beat": time.time()}, indent=1).encode()

    def _look(self) -> None:
        """Notice that the lock is somebody else's, or gone: a job that came meanwhile may be over already."""
        standing = read_lock(self._folder) or {}
        if standing.get("token") != self.token:
            self._taken_by = standing

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_EVERY_S):
            try:
                with self._writing:
                    self._look()
                    if self._taken_by is not None:
                        _log.error("%s is somebody else's now: this job was taken for dead", self._folder.url)
                        return
                    self._folder.write(LOCK, self._content())
            except DatasetError as err:
                _log.warning("no sign of life could be given: %s", err)


def read_lock(folder: Folder) -> dict[str, Any] | None:
    """Return what a directory's lock says; empty where that is damaged, None where there is none.

    Raises:
        DatasetError: If it cannot be read.
    """
    try:
        said = json_object(folder.read(LOCK)) or {}
    except FileNotFoundError:
        return None
    return said if {"token", "pid", "host", "beat"} <= said.keys() else {}


def refuse_if_held(folder: Folder) -> None:
    """Refuse to touch a directory in which another job is at work.

    Raises:
        DatasetError: If its lock is held, and not by this process.
    """
    standing = read_lock(folder)
    if standing and standing["token"] not in {lock.token for lock in _held}:
        _refuse_if_alive(folder, standing)


def check_held(folder: Folder) -> None:
    """Refuse to go on where this process held a directory and somebody took it; without a lock nothing is said.

    Raises:
        DatasetError: As `DirectoryLock.check` does.
    """
    for lock in list(_held):
        if lock._folder.url == folder.url:
            lock.check()


def clear_lock(folder: Folder) -> None:
    """Delete the lock of a job that is gone.

    Raises:
        DatasetError: If it is held, and not by this process.
    """
    refuse_if_held(folder)
    standing = read_lock(folder)
    if standing is not None and standing.get("token") not in {lock.token for lock in _held}:
        folder.delete(LOCK)


def release_all() -> None:
    """Give back all that this process holds: for those who end it without leaving their blocks."""
    for lock in list(_held):
        lock.release()


def _is_of_here(folder: Folder, standing: dict[str, Any]) -> bool:
    """Return whether all who may take a lock over are kept apart by the operating system of this machine."""
    return is_local(folder.fs) and standing.get("place") == this_place()


def _settled(folder: Folder) -> dict[str, Any] | None:
    """Return a lock, read again if it may have been half-written: where a file cannot be made in one step."""
    standing = read_lock(folder)
    if standing == {}:
        time.sleep(_SETTLE_S)
        standing = read_lock(folder)
    return standing


def _refuse_if_alive(folder: Folder, standing: dict[str, Any]) -> None:
    if not standing:
        return
    alive = may_be_alive(standing)
    if alive is None:
        alive = time.time() - float(standing["beat"]) < DEAD_AFTER_S
        way_out = (
            f"; if that machine is gone, try again {DEAD_AFTER_S:.0f} seconds after its last sign of life, or delete "
            f"{folder.url}/{LOCK}"
        )
    else:
        way_out = ""
    if alive:
        raise DatasetError(f"{_held_by(folder, standing)}; wait for its end, or choose another directory{way_out}")


def _held_by(folder: Folder, standing: dict[str, Any]) -> str:
    age = max(0.0, time.time() - float(standing["beat"]))
    return (
        f"another job writes {folder.url}: process {standing['pid']} on {standing['host']}, begun "
        f"{standing.get('since')}, last sign of life {age:.0f} s ago"
    )


@contextlib.contextmanager
def one_at_a_time(folder: Folder) -> Iterator[bool]:
    """Let one process of this machine at a time change what a directory says; yields whether that could be had."""
    if not is_local(folder.fs):
        yield True  # said of the file itself
        return
    descriptor = os.open(folder.path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            is_locked = True
        except OSError:  # some network file systems have no locks for directories
            is_locked = False
        yield is_locked
    finally:
        os.close(descriptor)


def _create_local(folder: Folder, content: bytes) -> None:
    """Make the file with its content in one step, where the file system has links, and never over another."""
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
