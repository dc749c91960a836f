"""Which process is which, beyond its number: a number is given again, on every machine and in every container."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
from pathlib import Path
from typing import Any


@functools.cache
def this_place() -> str:
    """Return what tells apart where numbers of processes mean something: the host, its boot, the container."""
    boot = namespace = ""
    with contextlib.suppress(OSError):  # no Linux
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    return " ".join(filter(None, (socket.gethostname(), boot, namespace)))


def this_process() -> dict[str, Any]:
    """Return what `may_be_alive` needs, as plain values; `started` is in ticks since the boot."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "place": this_place(), "pid": pid, "started": started(pid)}


def may_be_alive(process: dict[str, Any]) -> bool | None:
    """Return whether a process that called `this_process` runs; None where that cannot be told from here."""
    if process.get("place") != this_place():
        return None
    pid, began = int(process["pid"]), process.get("started")
    if began is not None:
        return started(pid) == began
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def started(pid: int) -> int | None:
    """Return when a process began, in ticks since the boot; None if it ended, or the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def meaning_of_exit(code: int) -> str:
    """Say what an exit code of a shell (137) or of `Popen` (-9) stands for."""
    number = -code if code < 0 else code - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"exit code {code}"
    return f"{name}: perhaps the machine ran out of memory" if name == "SIGKILL" else name
