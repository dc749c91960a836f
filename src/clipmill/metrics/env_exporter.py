"""Exports the totals of a process that has an environment variable for it, such as the workers of an engine."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import threading
from collections.abc import Callable, Mapping

from ..errors import SpecError
from .counts import on_record
from .prometheus_text import LOOPBACK, MetricsFile, serve_metrics

FILE_VARIABLE, PORT_VARIABLE = "CLIPMILL_METRICS_FILE", "CLIPMILL_METRICS_PORT"
ADDRESS_VARIABLE = "CLIPMILL_METRICS_ADDRESS"

_log = logging.getLogger("clipmill")

_starting = threading.Lock()
_started_in: int | None = None
"""The process id: a fork does not have its parent's threads, and starts its own when it loads a model."""


def _reset_after_fork() -> None:
    """Make a new lock: a thread of the parent may have held the old one."""
    global _starting
    _starting = threading.Lock()


os.register_at_fork(after_in_child=_reset_after_fork)


def start_from_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Write or serve the totals of this process if its environment asks for it, once; called before a model is loaded.

    `CLIPMILL_METRICS_FILE` is the path of a file, in which `{pid}` is replaced by the process id; the numbers then have
    a label `pid`, without which node_exporter would refuse two files of the same metrics. `CLIPMILL_METRICS_PORT` is a
    port, or a range (`9400-9431`) of which each process takes the first free one; `CLIPMILL_METRICS_ADDRESS` is the
    address of the interface to listen on, by default that of this machine alone.

    Raises:
        MissingExtraError: If `prometheus_client` is not installed.
        SpecError: If a variable is invalid, or the file cannot be written.
    """
    global _started_in
    path, ports = environment.get(FILE_VARIABLE), environment.get(PORT_VARIABLE)
    if not (path or ports):
        return
    with _starting:
        if _started_in == os.getpid():
            return
        numbers = parse_ports(ports) if ports else None
        if path:
            _keep_file(path)
        if ports and numbers:  # last: errors above are retried with the next load
            _serve_on_one_of(ports, numbers, environment.get(ADDRESS_VARIABLE) or LOOPBACK)
        _started_in = os.getpid()


def _keep_file(given: str) -> None:
    pid = os.getpid()
    labels = {"pid": str(pid)} if "{pid}" in given else None
    file = MetricsFile(given.replace("{pid}", str(pid)), labels=labels)
    try:
        file.__enter__()
    except (OSError, UnicodeError) as err:
        raise SpecError(f"{FILE_VARIABLE}={given!r} cannot be written: {err}") from err
    on_record(functools.partial(_in_process, pid, file.write_soon))  # engines kill workers
    atexit.register(_in_process, pid, file.write)


def _in_process(pid: int, write: Callable[[], None]) -> None:
    if os.getpid() == pid:
        write()


def _serve_on_one_of(given: str, ports: range, address: str) -> None:
    problem: OSError | None = None
    for port in ports:
        try:
            served = serve_metrics(port, address=address)
        except OSError as err:
            problem = err
            continue
        _log.info("metrics of process %d on port %d", os.getpid(), served.port)
        return
    _log.warning(
        "%s=%s: none of these ports is free (%s); this process serves no metrics", PORT_VARIABLE, given, problem
    )


def parse_ports(given: str) -> range:
    """Return the ports of `9400` or `9400-9431`.

    Raises:
        SpecError: If it is neither.
    """
    first, dash, last = given.strip().partition("-")
    last = last if dash else first
    if first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 2**16:
        return range(int(first), int(last) + 1)
    raise SpecError(f"{PORT_VARIABLE}={given!r} is neither a port (9400) nor a range of ports (9400-9431)")
