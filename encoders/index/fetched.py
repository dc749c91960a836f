"""An index out of an object store, copied to this machine once for each version of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..cache import cache_root
from ..downloads.urls import only_one, part_of, publish
from ..storage.files import Folder, dataset_errors
from .manifest import MANIFEST, IndexManifest


def fetch_index(folder: Folder, manifest: IndexManifest, content: bytes) -> str:
    """Return the path of this machine's copy of an index, made if there is none of this version.

    Files are copied by one process at a time and appear whole; the manifest is the last.

    Args:
        folder: In an object store.
        manifest: Of the index there.
        content: The manifest's bytes, which name the version.

    Raises:
        DatasetError: If a file cannot be copied.
        WeightsError: If the cache cannot be written.
    """
    target = Path(cache_root(None)) / "indexes" / hashlib.sha256(folder.url.encode() + content).hexdigest()[:32]
    done = target / MANIFEST
    if not done.is_file():
        with only_one(done, folder.url):
            if not done.is_file():
                for name, size in manifest.files.items():
                    _copy(folder, name, size, target / name)
                part_of(done).write_bytes(content)
                publish(part_of(done), done)
    return str(target)


def _copy(folder: Folder, name: str, size: int, target: Path) -> None:
    if target.is_file() and target.stat().st_size == size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(target)
    with dataset_errors("copy", f"{folder.url}/{name}"):
        folder.fs.get_file(folder.at(name), os.fspath(part))
    publish(part, target)
