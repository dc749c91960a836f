"""Lists the files below a folder of this machine."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator


def sizes_below(root: str) -> Iterator[tuple[str, int]]:
    """Yield the paths and sizes of all files below a folder; a link to a folder, or to nothing, is a file without size.

    The size of a FIFO, socket or device is -1.

    Raises:
        OSError: If a folder cannot be read; one that is deleted meanwhile is skipped.
    """
    folders = [root]
    while folders:
        with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    continue
                size = 0
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    size = -1 if _is_special(status.st_mode) else status.st_size * stat.S_ISREG(status.st_mode)
                yield entry.path, size


def _is_special(mode: int) -> bool:
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
