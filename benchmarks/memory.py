"""Peak memory of whole commands: the process and all its children, sampled."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

import psutil

_SECONDS_BETWEEN_SAMPLES = 0.05


class Watched(NamedTuple):
    """Memory, time and output of a command.

    Attributes:
        peak_bytes: Peak memory of all its processes together; shared memory counts for each process.
        seconds: From its start to its end.
        printed: Its standard output.
    """

    peak_bytes: int
    seconds: float
    printed: str


def watch(command: Sequence[str]) -> Watched:
    """Run a command.

    Raises:
        RuntimeError: If the exit code is not 0.
    """
    with tempfile.TemporaryFile("w+") as printed:
        started = time.perf_counter()
        process = psutil.Popen(command, stdout=printed)
        peak = 0
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                family = [process, *process.children(recursive=True)]
                total = 0
                for member in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        total += member.memory_info().rss
                peak = max(peak, total)
            time.sleep(_SECONDS_BETWEEN_SAMPLES)
        seconds = time.perf_counter() - started
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        printed.seek(0)
        return Watched(peak, seconds, printed.read())
