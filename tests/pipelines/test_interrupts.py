"""Signals end a command cleanly: no traceback, the exit code of the signal, and a dataset that can be resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kills import ENGINES, check, finish, manifests, said, start, write_inputs

from clipmill.pipelines.interrupts import Interrupted, interrupt_behind, interruptible

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Set the usual handlers of signals, and restore those before, which Spark may have set."""
    before = {one: signal.getsignal(one) for one in SIGNALS}
    for one in SIGNALS:
        signal.signal(one, signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL)
    yield
    signal.set_wakeup_fd(-1)
    for one, handler in before.items():
        signal.signal(one, handler)


IN_A_PROCESS = """
import os, signal, sys, time
from clipmill.pipelines.interrupts import Interrupted, interruptible
number = int(sys.argv[1])
try:
    with interruptible():
        os.kill(os.getpid(), number)
        time.sleep(60)
        print("not interrupted")
except Interrupted as err:
    print("interrupted by", err.number == number)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_raises_in_the_main_thread(number) -> None:
    """In a process of its own: after a signal, the handlers stay."""
    command = [sys.executable, "-c", IN_A_PROCESS, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("interrupted by True\n", 0), done.stderr


def test_without_a_signal_nothing_is_changed(handlers) -> None:
    before = {one: signal.getsignal(one) for one in SIGNALS}
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
    assert {one: signal.getsignal(one) for one in SIGNALS} == before


def test_a_signal_that_nohup_ignores_stays_ignored(handlers) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible():
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_an_interrupt_is_found_behind_what_its_handling_raised() -> None:
    """Engines that are stopped while they work raise errors of their own, which are no reason of the end."""
    first = Interrupted(signal.SIGTERM)
    try:
        try:
            try:
                raise first
            finally:
                raise ConnectionError("refused")
        except ConnectionError as err:
            raise RuntimeError("the job failed") from err
    except RuntimeError as err:
        assert interrupt_behind(err) is first
    assert interrupt_behind(ValueError()) is None


@pytest.mark.parametrize(
    ("engine", "number"),
    [
        pytest.param([], signal.SIGTERM, id="beam in one process"),
        pytest.param(ENGINES["beam"], signal.SIGINT, id="beam"),
        pytest.param(["--engine", "spark", "--master", "local[1]"], signal.SIGINT, id="spark", marks=pytest.mark.spark),
    ],
)
def test_a_job_ends_cleanly(tmp_path, engine, number) -> None:
    """The signal goes to all processes of the command, as a terminal and a service manager send it."""
    folder, output = write_inputs(tmp_path), tmp_path / "out"
    process = start(folder, output, *engine)
    _wait_for_shards(process, folder, output)
    os.killpg(process.pid, number)
    assert process.wait(timeout=60) == 128 + number, said(folder)
    assert "Traceback" not in said(folder)
    assert "--resume" in said(folder) and number.name in said(folder)
    assert not (output / "_lock.json").exists()
    if not engine:  # what is resumed does not depend on it
        assert finish(folder, output) == 0, said(folder)
        check(output)


def test_a_second_signal_ends_the_command_at_once(tmp_path) -> None:
    """The first one waits for the cleanup, here for ever."""
    program = (
        "import time; from clipmill.pipelines.interrupts import interruptible\n"
        "with interruptible():\n"
        "    try:\n        print('ready', flush=True); time.sleep(60)\n"
        "    finally:\n        print('cleaning', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        for line, number in ((b"ready\n", signal.SIGINT), (b"cleaning\n", signal.SIGTERM)):
            assert process.stdout.readline() == line
            process.send_signal(number)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
        assert b"Traceback" not in process.stderr.read()


def _wait_for_shards(process: subprocess.Popen, folder: Path, output: Path) -> None:
    while len(manifests(output)) < 2:
        assert process.poll() is None, said(folder)
        time.sleep(0.005)
