"""The terminal: tables on standard output, progress and errors on standard error."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_WIDTH_IN_A_PIPE = 200
out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_IN_A_PIPE)
err = Console(stderr=True, highlight=False)

_SECONDS_BETWEEN_LOOKS = 0.5


@contextlib.contextmanager
def progress(total: int, count_done: Callable[[], int]) -> Iterator[None]:
    """Show a progress line on a terminal while the block runs; show nothing in a pipe.

    `count_done` returns the number of shards that are done; it is called from a thread of its own.
    """
    if not err.is_terminal:
        yield
        return
    bar = Progress(
        TextColumn("clipmill"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("shards"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    )
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            with contextlib.suppress(Exception):  # reading a file that is being written must not end the job
                bar.update(task, completed=count_done())

    with bar:
        task = bar.add_task("shards", total=total)
        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
