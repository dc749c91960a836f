"""Report the progress of downloads to an observer: `clipmill models --download` sets one, workers do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol


class Observer(Protocol):
    """Is notified of every requested file, whether it is downloaded or in the cache."""

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


class _NullObserver:
    def started(self, name: str, done: int, total: int | None) -> None: ...

    def advanced(self, name: str, count: int) -> None: ...

    def finished(self, name: str, path: Path) -> None: ...


_observer: Observer = _NullObserver()


def observer() -> Observer:
    """Return the current observer."""
    return _observer


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Notify this observer of the downloads inside the block."""
    global _observer
    before, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = before
