"""Prepares the directory of an index, and deletes what does not belong to it any more.

An index that is replaced stays in its directory, and opens, until the manifest of the new one takes the place of its
own: no file of the new one has the name of one of its files.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from typing import Any

from ..datasets.replacing import remove_empty
from ..errors import DatasetError
from ..files.file_systems import is_local
from ..files.folder import TEMPORARY, Folder
from ..files.json_text import json_text, some_of
from ..files.lock import LOCK
from ..messages import by_surface, setting
from .manifest import BUILDING, INDEX, MANIFEST, OWN, STAGING, IndexManifest, manifest_bytes, parse_manifest

_TEMPORARY = re.compile(rf"(.+/)?\.[^/]+{re.escape(TEMPORARY)}")


def prepare_index(folder: Folder, *, overwrite: bool, description: Mapping[str, Any]) -> IndexManifest | None:
    """Prepare a directory for a new index: afterwards, it has `_building.json`, and the index that is replaced.

    Files of an interrupted build are deleted.

    Returns:
        The manifest of the index that is replaced; None if there is none, or one that does not open.

    Raises:
        DatasetError: If it has an index and `overwrite` is False, has other files, or cannot be written.
    """
    if folder.kind() == "file":
        raise DatasetError(f"{folder.url} is a file; the output is a directory")
    names = [name for name in folder.list() if name != LOCK]
    if foreign := [name for name in names if not OWN.fullmatch(name)]:
        raise DatasetError(
            f"{folder.url} is not empty (it holds {some_of(foreign)}, no part of an index), and other files are never "
            "deleted; choose another directory"
        )
    if MANIFEST in names and not overwrite:
        raise DatasetError(
            f"{folder.url} holds an index already",
            hint="choose another directory, replace it with "
            + setting("overwrite", True)
            + by_surface(python=", or add rows to it with add_to_index", flags=", or add rows to it with --add-to"),
        )
    held = [name for name in names if not _TEMPORARY.fullmatch(name)]
    if held and MANIFEST not in names and BUILDING not in names and not overwrite:
        raise DatasetError(
            f"{folder.url} is not empty (it holds {some_of(held)}) and no index",
            hint="choose another directory, or replace these files with " + setting("overwrite", True),
        )
    old = None
    if MANIFEST in names:
        with contextlib.suppress(DatasetError):  # it is damaged, and opens no more
            old = parse_manifest(folder.url, manifest_bytes(folder.url))
    folder.write(BUILDING, json_text(dict(description), indent=1).encode())
    if old is None:
        folder.delete(MANIFEST)
        clear(folder, [name for name in names if name not in (MANIFEST, BUILDING)])
    else:
        clear_orphans(folder, old, building=True)
    return old


def next_index_file(old: IndexManifest | None) -> str:
    """Return the name of the file of codes that takes the place of an index's, if it has one."""
    match = re.fullmatch(r"index(?:-(\d+))?\.faiss", (old and old.index_file) or "")
    return f"index-{int(match.group(1) or 0) + 1}.faiss" if match else INDEX


def clear_orphans(folder: Folder, manifest: IndexManifest, *, building: bool = False) -> None:
    """Delete the files of an index's directory that its manifest does not name.

    Interrupted commands leave them, and an index that was replaced. `building` says to keep the mark of a running one.
    """
    kept = {MANIFEST, *manifest.files, *([BUILDING] if building else [])}
    own = [name for name in folder.list() if OWN.fullmatch(name) and name not in kept and not name.startswith("_lock")]
    clear(folder, own)


def clear(folder: Folder, names: list[str]) -> None:
    """Delete files of an index, and its folders that are then empty."""
    for name in names:
        folder.delete(name)
    remove_empty(folder, STAGING)
    if is_local(folder.fs):
        for below in ("vectors", "keys"):
            with contextlib.suppress(OSError):  # it does not exist, or is not empty
                os.rmdir(folder.at(below))
