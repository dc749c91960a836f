"""Files that are at their place completely or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomic(path: Path, text: str) -> None:
    """Write a small file that all users may read, atomically.

    Raises:
        OSError: If it cannot be written; no file is left behind.
    """
    draft = tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8")  # noqa: SIM115
    try:
        with draft:
            draft.write(text)
        os.chmod(draft.name, 0o644)  # other users' workers read the same cache
        os.replace(draft.name, path)
    except BaseException:
        Path(draft.name).unlink(missing_ok=True)
        raise


def move_durably(part: Path, target: Path) -> None:
    """Move a complete file to its place on the same disk, atomically, and flush both to the disk."""
    sync_to_disk(part)
    os.replace(part, target)
    sync_to_disk(target.parent)


def sync_to_disk(path: Path) -> None:
    """Flush a file, or the entries of a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
