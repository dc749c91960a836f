"""The cache directory, which holds downloaded weights and the graphs made from them."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .file_systems import local_directory

_log = logging.getLogger("clipmill")

VARIABLE = "CLIPMILL_CACHE"
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of file systems that don't support locks."""


def cache_root(cache_dir: str | None = None) -> Path:
    """Return the cache directory, which may not exist yet.

    Args:
        cache_dir: `cache_dir` of a spec. It takes precedence over the environment variable `CLIPMILL_CACHE`, which
            takes precedence over the default, `$XDG_CACHE_HOME/clipmill` (`~/.cache/clipmill`).
    """
    if chosen := cache_dir or os.environ.get(VARIABLE):
        return local_directory(chosen, "the cache directory")
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "clipmill"


@contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    """Let only one process, and one of its threads, at a time create an entry of the cache. The others wait.

    The lock ends with the process that holds it. On file systems without locks, the block runs without one, after a
    warning. Therefore write the entry under a temporary name and rename it when it is complete.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("waiting for another process that creates %s", name)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as err:
            if err.errno not in NO_LOCKS:
                raise
            _log.warning("%s: this file system has no locks, so several processes may create %s at once", path, name)
        yield
