"""Identifying processes, whether they are alive, and what exit codes mean."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from clipmill.files.processes import may_be_alive, meaning_of_exit, started, this_process


def test_processes_with_the_same_pid_are_distinguished():
    here = this_process()
    assert here["pid"] == os.getpid() and may_be_alive(here) is True
    assert may_be_alive({**here, "started": here["started"] + 1}) is False
    assert may_be_alive({**here, "place": "elsewhere"}) is None
    assert may_be_alive({**here, "started": None}) is True


def test_an_ended_process_is_not_alive():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = {**this_process(), "pid": child.pid, "started": started(child.pid)}
    assert may_be_alive(identity) is True
    child.communicate(b"\n")
    assert started(child.pid) is None
    assert may_be_alive(identity) is False
    assert may_be_alive({**identity, "started": None}) is False


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (137, "SIGKILL: perhaps the machine ran out of memory"),
        (-9, "SIGKILL: perhaps the machine ran out of memory"),
        (-11, "SIGSEGV"),
        (143, "SIGTERM"),
        (1, "exit code 1"),
        (127, "exit code 127"),
    ],
)
def test_exit_codes_are_described(code, meaning):
    assert meaning_of_exit(code) == meaning
