"""Report progress to an observer: of downloads, and of what the first use of a model takes besides.

The command line sets an observer, workers do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol


class Observer(Protocol):
    """Is notified of every requested file, whether it is downloaded or in the cache, and of steps of unknown length.

    Attributes:
        is_shown: Whether somebody sees the progress, so that the log need not say that something takes long.
    """

    is_shown: bool

    def started(self, name: str, done: int, total: int | None) -> None:
        """A transfer starts.

        Args:
            name: The file's name.
            done: Bytes received by an earlier attempt.
            total: Bytes of the whole file; None if unknown.
        """

    def advanced(self, name: str, count: int) -> None:
        """Another `count` bytes were received; negative if received bytes were discarded."""

    def finished(self, name: str, path: Path) -> None:
        """The file is complete."""

    def step_started(self, step: str) -> None:
        """A step starts whose length is not known, such as making a graph. Steps may be nested.

        Args:
            step: What is done, for people.
        """

    def step_ended(self, step: str) -> None:
        """The step of this text has ended, with or without success."""


class _NullObserver:
    is_shown = False

    def started(self, name: str, done: int, total: int | None) -> None: ...

    def advanced(self, name: str, count: int) -> None: ...

    def finished(self, name: str, path: Path) -> None: ...

    def step_started(self, step: str) -> None: ...

    def step_ended(self, step: str) -> None: ...


_observer: Observer = _NullObserver()


def observer() -> Observer:
    """Return the current observer."""
    return _observer


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Notify this observer of the progress inside the block."""
    global _observer
    before, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = before


@contextmanager
def observed_step(step: str) -> Iterator[None]:
    """Notify the observer that the block is a step; see `Observer.step_started`."""
    observer = _observer
    observer.step_started(step)
    try:
        yield
    finally:
        observer.step_ended(step)
