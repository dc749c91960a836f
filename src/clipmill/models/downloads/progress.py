"""Telling whoever listens how far downloads are: `clipmill models --download` does, workers do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol


class Observer(Protocol):
    """Hears of every file that is looked for, whether it is downloaded or here already."""

    def started(self, name: str, done: int, total: int | None) -> None:
        """A transfer begins.

        Args:
            name: The file's name.
            done: Bytes that are here from an earlier try.
            total: Bytes of the whole file, None where it is not known.
        """

    def advanced(self, name: str, count: int) -> None:
        """Another `count` bytes have arrived; below 0 when they turned out to be of no use."""

    def finished(self, name: str, path: Path) -> None:
        """The file is here."""


class _Nobody:
    def started(self, name: str, done: int, total: int | None) -> None: ...

    def advanced(self, name: str, count: int) -> None: ...

    def finished(self, name: str, path: Path) -> None: ...


_observer: Observer = _Nobody()


def observer() -> Observer:
    """Return who listens at the moment."""
    return _observer


@contextmanager
def observed_by(listener: Observer) -> Iterator[None]:
    """Tell this listener about the downloads inside the block."""
    global _observer
    before, _observer = _observer, listener
    try:
        yield
    finally:
        _observer = before
