"""Pieces of work that run by turns, as a schedule draws them, and are killed, made to fail, or left for long.

Each piece of work has a thread, of which one runs at a time. It may stop at its points: wherever it calls `point`, and
before each operation on a file below a folder. A lock of the operating system that another one holds stops it, too.
What is drawn from a seed happens again with it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import sys
import threading
from collections.abc import Callable
from typing import Any, Literal

Fate = Literal["killed", "failed", "left"]
"""What happens at a point: the process is killed, an error is raised, or nothing is done for long (a zombie)."""

_FILES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.listdir", "os.scandir", "os.chmod"}
_here = threading.local()


class KilledError(BaseException):
    """Raised at every point of a work that was killed: nothing that it does afterwards reaches a file."""


class InjectedError(OSError):
    """An error that the schedule has drawn."""


class Work:
    """One piece of work.

    Attributes:
        result: What it returned.
        error: What it raised, if it was neither killed nor met with an injected error.
    """

    def __init__(self, do: Callable[[], Any], folder: str, *, fate: Fate | None = None, at: int = 0) -> None:
        """Prepare it.

        Args:
            do: The work.
            folder: Operations on files below it are points.
            fate: What happens to it; None lets it go to its end.
            at: The number of the point where that happens.
        """
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_over = self.is_killed = self.is_left = self.has_failed = False
        self.waits_for_lock = False
        self._do, self._folder = do, folder
        self._fate, self._at, self._points = fate, at, 0
        self._go, self._stopped = threading.Lock(), threading.Lock()  # a tenth of the time of semaphores
        self._go.acquire()
        self._stopped.acquire()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether it has come to its end, with a result."""
        return self.is_over and not self.has_failed

    def step(self) -> None:
        """Let it run to its next point, or to its end."""
        self._go.release()
        self._stopped.acquire()

    def kill(self) -> None:
        """Kill it where it stands."""
        self.is_killed, self.is_left = True, False
        while not self.is_over:
            self.step()

    def _run(self) -> None:
        self._go.acquire()
        _here.work = self
        try:
            self.point()
            self.result = self._do()
        except BaseException as err:
            self.has_failed = True
            if not self.is_killed and "drawn" not in str(err):
                self.error = err
        finally:
            _here.work = None
            self.is_over = True
            self._stopped.release()

    def point(self) -> None:
        """Stop here, unless it was killed."""
        if self.is_killed:
            raise KilledError("drawn")
        self._points += 1
        if self._fate is not None and self._points > self._at:
            fate, self._fate = self._fate, None
            if fate == "killed":
                self.is_killed = True
                raise KilledError("drawn")
            if fate == "failed":
                raise InjectedError(errno.EIO, "drawn")
            self.is_left = True
        self._pause()

    def lock(self, descriptor: int, operation: int) -> None:
        """Wait for a lock of the operating system, while the others go on."""
        if not operation & fcntl.LOCK_EX:
            return
        while True:
            if self.is_killed:
                raise KilledError("drawn")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                self.waits_for_lock = True
                self._pause()
        self.waits_for_lock = False

    def _pause(self) -> None:
        self._stopped.release()
        self._go.acquire()
        if self.is_killed:
            raise KilledError("drawn")

    def on_file(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take an operation on a file for a point, or on a lock."""
        _here.work = None  # what a point does itself is none
        try:
            if event == "fcntl.flock":
                self.lock(arguments[0], arguments[1])
            elif isinstance(arguments[0], str | bytes | os.PathLike) and os.fsdecode(arguments[0]).startswith(
                self._folder
            ):
                self.point()
        finally:
            _here.work = self


def point() -> None:
    """Stop the work that this is called in, if any."""
    if (work := getattr(_here, "work", None)) is not None:
        work.point()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if (event in _FILES or event == "fcntl.flock") and (work := getattr(_here, "work", None)) is not None:
        work.on_file(event, arguments)


sys.addaudithook(_hook)  # for as long as the process lives; it looks at nothing outside of work


def step_one(works: list[Work], draw: random.Random) -> None:
    """Let one of several go on: one that is left only now and then, or when no other can."""
    live = [work for work in works if not work.is_over]
    ready = [work for work in live if not work.is_left and not work.waits_for_lock]
    if not ready or draw.random() < 0.002:
        for work in live:
            work.is_left = False
        ready = live
    with contextlib.suppress(IndexError):
        draw.choice(ready).step()
