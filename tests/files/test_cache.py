"""The lock of a cache: one thread or process at a time creates an entry."""

from __future__ import annotations

import errno
import fcntl
import logging
import subprocess
import sys
import threading

import pytest

from clipmill.files.cache import locked

HOLDER = """
import sys
from pathlib import Path
from clipmill.files.cache import locked
with locked(Path(sys.argv[1]), "an entry"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def waiting() -> threading.Event:
    """Is set when a thread of this process says that it waits for a lock."""
    event = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting for another process that creates an entry" in record.getMessage():
                event.set()

    logger, handler = logging.getLogger("clipmill"), Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield event
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.parametrize("holder", ["thread", "process"])
def test_only_one_holds_the_lock_and_the_next_waits(tmp_path, waiting: threading.Event, holder: str) -> None:
    path, order = tmp_path / "lock", []

    def enter() -> None:
        with locked(path, "an entry"):
            order.append("next")

    thread = threading.Thread(target=enter)
    if holder == "thread":
        with locked(path, "an entry"):
            thread.start()
            assert waiting.wait(20)
            order.append("first")
    else:
        with subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout.readline() == b"held\n"
            thread.start()
            assert waiting.wait(20)
            order.append("first")
    thread.join()
    assert order == ["first", "next"]


def test_a_killed_holder_leaves_no_lock(tmp_path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        process.kill()
    with locked(path, "an entry"), path.open("a") as again, pytest.raises(BlockingIOError):
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EIO])
def test_a_file_system_without_locks_gets_a_warning_and_a_failing_one_an_error(
    tmp_path, monkeypatch, caplog, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(fcntl, "flock", refuse)
    entered = []
    if code == errno.EIO:
        with pytest.raises(OSError, match="no"), locked(tmp_path / "lock", "an entry"):
            entered.append(True)
        assert not entered
        return
    with locked(tmp_path / "lock", "an entry"):
        entered.append(True)
    assert entered and "has no locks" in caplog.text
