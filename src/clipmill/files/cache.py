"""The one directory of this machine that downloaded weights and graphs made from them are kept in."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger("clipmill")

VARIABLE = "CLIPMILL_CACHE"
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems say that have none."""


def cache_root(cache_dir: str | None = None) -> Path:
    """Return the directory, which need not exist yet.

    Args:
        cache_dir: `cache_dir` of a spec; it wins over the environment's `CLIPMILL_CACHE`, and that over
            `$XDG_CACHE_HOME/clipmill` (`~/.cache/clipmill`).
    """
    if chosen := cache_dir or os.environ.get(VARIABLE):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "clipmill"


@contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    """Let one process, and one thread of it, at a time make something in the cache; the others wait here.

    The lock ends with the process that holds it. What is made has to get its name when it is whole all the same: file
    systems without locks are used without one, with a warning.

    Args:
        path: The file that stands for the lock, made if need be; it stays.
        name: What the log calls what is waited for.

    Raises:
        OSError: If the folder cannot be written.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("waiting for another process that makes %s", name)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as err:
            if err.errno not in NO_LOCKS:
                raise
            _log.warning("%s: this file system has no locks, so several processes may make %s at once", path, name)
        yield
