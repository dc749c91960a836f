"""Limits of the operating system on this process: what is said when one of them ends a command."""

from __future__ import annotations

import resource

from ..errors import DeviceError, OutOfMemoryError, ran_out_of_memory

_LEAST_FILES_OF_SPARK = 400
"""Open files with which Spark 4.3 starts (360 are enough); with 320 Java fails, and prints pages of its own."""
_LEAST_MEMORY = 512 * 2**20
"""Address space in which no command can embed: on 2 cores, 600 MiB are too few for rows without a model."""
_HALF_DONE = "error return without exception set"
"""What modules in C say if they cannot be loaded and there is no memory for the reason."""


def memory_error(error: BaseException, what: str = "") -> OutOfMemoryError | None:
    """Return our error for one that means that memory ran out, None for any other; `what` begins its message."""
    limit = limit_of(resource.RLIMIT_AS)
    if not ran_out_of_memory(error) and not (limit and _HALF_DONE in str(error)):
        return None
    reason = (str(error).strip().splitlines() or [""])[-1][:300]
    message = "out of memory" + (f" ({reason})" if reason else "")
    allowed = _raise_it(limit) if limit else "use a larger machine"
    return OutOfMemoryError(
        what + message,
        hint=f"{allowed}, or hold less at once: fewer workers, or a lower --max-batch-rows, --max-batch-bytes or "
        "--preprocess-threads",
    )


def check_memory() -> None:
    """Raise `OutOfMemoryError` if this process may hold less than the libraries of a command take.

    Some of them, written in C, end the process where they find no memory while they are imported.
    """
    limit = limit_of(resource.RLIMIT_AS)
    if limit and limit < _LEAST_MEMORY:
        raise OutOfMemoryError(
            f"out of memory: this shell allows {limit // 2**20} MiB, and the libraries alone need more than "
            f"{_LEAST_MEMORY // 2**20}",
            hint=_raise_it(limit),
        )


def _raise_it(limit: int) -> str:
    return f"raise the limit of this shell (ulimit -v is {limit // 1024} KiB)"


def check_open_files_for_spark() -> None:
    """Raise `DeviceError` if Java may open too few files for a local Spark; it raises the soft limit by itself."""
    limit = limit_of(resource.RLIMIT_NOFILE)
    if limit and limit < _LEAST_FILES_OF_SPARK:
        raise DeviceError(
            f"this shell allows {limit} open files (ulimit -n), and Spark needs {_LEAST_FILES_OF_SPARK} or more",
            hint="raise it: ulimit -n 4096",
        )


def limit_of(which: int) -> int | None:
    """Return the hard limit or the soft one of memory; None without one."""
    soft, hard = resource.getrlimit(which)
    given = soft if which == resource.RLIMIT_AS else hard
    return None if given == resource.RLIM_INFINITY else given
