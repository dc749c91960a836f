"""The terminal: tables on standard output, progress and errors on standard error."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from ..files.json_text import clean_text

_WIDTH_IN_A_PIPE = 200


def printable(text: str) -> str:
    """Return untrusted text with control characters escaped, so that the terminal does not obey them."""
    shown = clean_text(text)
    if shown.isprintable():
        return shown
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in shown)


class Terminal(Console):
    """A console that shows every text as it is: no markup, no names of emoji, control characters escaped."""

    def __init__(self, **options: Any) -> None:
        """Take the options of a `Console`."""
        super().__init__(**options, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        """See `Console`, which calls it for every text that is printed, and for those in tables."""
        return super().render_str(printable(text), **options)


out = Terminal(width=None if sys.stdout.isatty() else _WIDTH_IN_A_PIPE)
err = Terminal(stderr=True)


def say(text: str) -> None:
    """Print a note, a warning or an error on standard error, with control characters escaped."""
    click.echo(printable(text), err=True)


@contextlib.contextmanager
def progress(total: int, count_done: Callable[[], int], pause: Callable[[float], float]) -> Iterator[None]:
    """Show a progress line on a terminal while the block runs; show nothing in a pipe.

    Args:
        total: The number of shards.
        count_done: Returns the number of shards that are done; it is called from a thread of its own.
        pause: Returns the seconds until the next call, from those that the last one took.
    """
    if not err.is_terminal:
        yield
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

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
        took = 0.0
        while not ended.wait(pause(took)):
            started = time.monotonic()
            with contextlib.suppress(Exception):  # reading a file that is being written must not end the job
                bar.update(task, completed=count_done())
            took = time.monotonic() - started

    with bar:
        task = bar.add_task("shards", total=total)
        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
