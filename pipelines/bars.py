"""Bars on the terminal while a model is used for the first time: of its downloads, and of making its graphs."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from . import console


class Bars:
    """An observer: bars of transfers and of steps, on a terminal; the list of files in any case.

    Nothing is drawn before something happens, since a model that was used before has nothing to show.

    Attributes:
        files: Paths of the files that were looked for.
        is_shown: As in `clipmill.models.progress.Observer`.
    """

    def __init__(self) -> None:
        """Observe what happens in an `observed_by` block."""
        self.files: list[str] = []
        self.is_shown = console.err.is_terminal
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()  # another thread draws the bars

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *error: object) -> None:
        if self._tasks:
            self._progress.stop()

    @functools.cached_property
    def _progress(self) -> Progress:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            _Either(DownloadColumn(), TimeElapsedColumn()),
            _Either(TransferSpeedColumn()),
        )
        progress = Progress(*columns, console=console.err, disable=not self.is_shown)
        progress.start()
        return progress

    def started(self, name: str, done: int, total: int | None) -> None:
        """Draw a bar; see `Observer`."""
        with self._lock:
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=None)
            self._progress.update(self._tasks[name], completed=done, total=total)

    def advanced(self, name: str, count: int) -> None:
        """Advance the bar of a transfer."""
        with self._lock:
            if name in self._tasks:
                self._progress.advance(self._tasks[name], count)

    def finished(self, name: str, path: Path) -> None:
        """Keep the path of a file."""
        self.files.append(str(path))

    def step_started(self, step: str) -> None:
        """Draw a bar without an end, with a clock."""
        with self._lock:
            self._tasks[step] = self._progress.add_task(step, total=None, is_step=True)

    def step_ended(self, step: str) -> None:
        """Stop the clock of a step."""
        with self._lock:
            self._progress.update(self._tasks[step], total=1, completed=1)


class _Either(ProgressColumn):
    """A column of transfers and another of steps, which have no bytes."""

    def __init__(self, transfers: ProgressColumn, steps: ProgressColumn | None = None) -> None:
        super().__init__()
        self._transfers, self._steps = transfers, steps

    def render(self, task: Task) -> Text:
        if not task.fields.get("is_step"):
            return Text(str(self._transfers.render(task)))
        return Text() if self._steps is None else Text(str(self._steps.render(task)))
