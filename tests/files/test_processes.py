"""Which process is which: whether it lives, and what an exit code means."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from clipmill.files.processes import may_be_alive, meaning_of_exit, started, this_process


def test_a_process_is_told_from_others_of_its_number():
    here = this_process()
    assert here["pid"] == os.getpid() and may_be_alive(here) is True
    assert may_be_alive({**here, "started": here["started"] + 1}) is False
    assert may_be_alive({**here, "place": "elsewhere"}) is None
    assert may_be_alive({**here, "started": None}) is True


def test_a_process_that_ended_is_not_alive():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = {**this_process(), "pid": child.pid, "started": started(child.pid)}
    assert may_be_alive(mark) is True
    child.communicate(b"\n")
    assert started(child.pid) is None
    assert may_be_alive(mark) is False
    assert may_be_alive({**mark, "started": None}) is False


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
def test_exit_codes_are_named(code, meaning):
    assert meaning_of_exit(code) == meaning
