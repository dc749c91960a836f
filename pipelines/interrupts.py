"""What signals do to a command: the first one ends it cleanly, a second one at once.

SIGINT (Ctrl-C), SIGTERM (`kill`, a container that is stopped) and SIGHUP (a closed terminal) raise `Interrupted` in the
main thread, so that locks, temporary files and worker processes go as after any error. A thread watches beside it: it
wakes the main thread wherever that waits, and ends the process if a second signal comes before the end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_QUIET_S = 1.0
"""Seconds after which a command that has not ended says that it is ending."""


class Interrupted(KeyboardInterrupt):
    """A signal that ends the command; a `KeyboardInterrupt`, because engines and libraries let that pass.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the block at the first signal, and end the process at the second.

    A signal that the caller ignores (`nohup`) or handles itself stays as it is. Outside the main thread, which alone
    gets signals, nothing is changed. After a signal the handlers stay, because the interpreter may still wait for
    threads of the engine when the block has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.getsignal(one) for one in _SIGNALS}
    replaced = {one: kept for one, kept in before.items() if kept in (signal.SIG_DFL, signal.default_int_handler)}
    watcher = _Watcher()
    for one in replaced:
        signal.signal(one, watcher.interrupt)
    wakeup = signal.set_wakeup_fd(watcher.writing, warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        if not watcher.is_interrupted:
            signal.set_wakeup_fd(wakeup)
            watcher.stop()  # before the handlers go: it may be about to wake this thread with a signal
            for one, kept in replaced.items():
                signal.signal(one, kept)


@contextlib.contextmanager
def kept_handlers() -> Iterator[None]:
    """Undo what the block does to the handler of SIGINT: PySpark's own talks to Java in the middle of another call."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the interrupt during whose handling an error was raised, as engines do when their end fails; else None."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def end_at_once(code: int) -> None:
    """End this process and all that it started, without waiting for anything; its locks are released."""
    from ..files.lock import release_all

    for pid in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    release_all()
    os._exit(code)


def descendants(pid: int) -> list[int]:
    """Return the descendants of a process, if the system lists them; elsewhere workers end by themselves."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has ended
            parent = status.read_text(errors="replace").rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(status.parent.name))
    found = children.get(pid, [])
    for child in found:  # grows as it goes
        found += children.get(child, [])
    return found


class _Watcher:
    """The thread that reads which signals arrived: Python writes each to a pipe, whatever the main thread does."""

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        os.set_blocking(self.writing, False)
        self._first: int | None = None
        self._is_raised = False
        self._thread = threading.Thread(target=self._watch, name="clipmill-signals", daemon=True)

    @property
    def is_interrupted(self) -> bool:
        """Whether a signal has arrived."""
        return self._is_raised or self._first is not None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        os.close(self.writing)
        self._thread.join()
        os.close(self._reading)

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise in the main thread, once: what follows is the end of the command, which must not be interrupted."""
        if not self._is_raised:
            self._is_raised = True
            raise Interrupted(self._first or number)

    def _watch(self) -> None:
        while received := os.read(self._reading, 1):
            number = received[0]
            if signal.getsignal(number) != self.interrupt:
                continue  # the caller's own
            if self._first is not None:
                _say(f"clipmill: ended at once ({signal.Signals(number).name})")
                end_at_once(128 + number)
            self._first = number
            self._wake_main_thread()
            if not select.select([self._reading], [], [], _QUIET_S)[0]:
                _say(f"clipmill: {signal.Signals(number).name}: ending; a second one ends it at once")

    def _wake_main_thread(self) -> None:
        """Send it a signal: it may wait where it notices only its own. The handler raises once."""
        main = threading.main_thread().ident
        if main is not None and signal.getsignal(signal.SIGTERM) == self.interrupt:
            signal.pthread_kill(main, signal.SIGTERM)
            os.read(self._reading, 1)


def _say(text: str) -> None:
    from .console import say  # late: rich takes long to import

    with contextlib.suppress(OSError):  # the terminal is closed
        say(text)
