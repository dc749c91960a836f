"""Identify processes reliably: a PID alone is reused, and exists on every machine and in every container."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
from pathlib import Path
from typing import Any

_PIDS = 2**31
"""PIDs are below it on all systems; `os.kill` takes no larger number, and 0 and -1 for many processes."""


@functools.cache
def pid_namespace() -> str:
    """Return the scope in which a PID is unique: the host, its current boot and the container."""
    boot = namespace = ""
    with contextlib.suppress(OSError):  # not on Linux
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    return " ".join(filter(None, (socket.gethostname(), boot, namespace)))


def this_process() -> dict[str, Any]:
    """Identify this process for `may_be_alive`, as plain values. `started` is in clock ticks since the boot."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "place": pid_namespace(), "pid": pid, "started": started(pid)}


def may_be_alive(process: dict[str, Any]) -> bool | None:
    """Return whether the process that `this_process` identified is running, or None if this machine cannot tell."""
    pid, started_at = process.get("pid"), process.get("started")
    if process.get("place") != pid_namespace() or not isinstance(pid, int) or not 0 < pid < _PIDS:
        return None
    if started_at is not None:
        return started(pid) == started_at
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def started(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the boot. None if it has ended or this is not Linux."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def meaning_of_exit(code: int) -> str:
    """Describe an exit code of a shell (137) or of `Popen` (-9), as in "SIGKILL: perhaps …"."""
    number = -code if code < 0 else code - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"exit code {code}"
    return f"{name}: perhaps the machine ran out of memory" if name == "SIGKILL" else name
