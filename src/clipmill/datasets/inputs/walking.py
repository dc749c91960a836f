"""Walks through folders and prefixes: their files, sorted by path, one by one.

A folder is cut into nodes: runs of its files, and its folders, in the order of their paths. Where the disk or the store
makes a walk wait, the next few nodes are looked at on threads; memory holds what these found, and the names of the
folders that lead to the present one.
"""

from __future__ import annotations

import itertools
import os
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from ...files.file_systems import is_local, url_of
from ...files.json_text import some_of
from ...files.retries import retry_store

_THREADS = 16
_AHEAD = 16
"""Nodes of a folder that are looked at ahead of the walk."""
_RUN = 1000
"""Files of a folder that are looked at together."""
_FEW_FOLDERS = 16
_DEEPEST = 3
"""Prefixes of a store are listed level by level, at most so many, until there are some that can be listed at once."""
_VERSIONS = (
    *("ETag", "etag", "generation", "md5Hash", "blob_id", "xet_hash"),
    *("LastModified", "last_modified", "updated", "mtime", "created"),
)
"""Names that file systems use for the version of a file's content, the most reliable first."""


class Listed(NamedTuple):
    """A file of the input.

    Attributes:
        path: Absolute path or URL.
        size: Bytes; None if the file system does not report it.
        version: Modification time or etag, as text; "" if there is none.
        beside: Extensions of an image's sidecar files, such as `(".json", ".txt")`: its metadata and caption, which
            have the image's name. `size` and `version` cover them too.
    """

    path: str
    size: int | None = None
    version: str = ""
    beside: tuple[str, ...] = ()


class Skipped:
    """What a walk skips: how many, and the first few for a message."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.count = 0
        self._first: list[str] = []

    def add(self, path: str) -> None:
        """Add a path, which may hold any characters."""
        self.count += 1
        if len(self._first) < _SHOWN:
            self._first.append(path if path.isprintable() else ascii(path))

    def __str__(self) -> str:
        return some_of(self._first, self.count)


_SHOWN = 4


class _Folder(NamedTuple):
    """A folder, its level below the first one, and whether all below it is listed at once."""

    path: str
    level: int
    whole: bool = False


class _Run(NamedTuple):
    """Files of one local folder, whose sizes are not known yet."""

    folder: str
    names: Sequence[str]


class _Files(NamedTuple):
    """Files of a store, as it listed them."""

    files: list[Listed]


_Node = _Folder | _Run | _Files


def walk(
    fs: Any, root: str, depth: int | None = None, *, hidden: bool = False, skipped: dict[str, Skipped] | None = None
) -> Iterator[Listed]:
    """Yield the files below a folder, recursively, sorted by path.

    Args:
        fs: An fsspec file system.
        root: The folder.
        depth: Most levels of files below it; None for any number.
        hidden: Whether folders whose names begin with a dot are looked at; of object stores they are.
        skipped: Gets what is skipped, by reason.

    Raises:
        OSError: If a folder cannot be read; or what a driver raises.
    """
    reasons = {} if skipped is None else skipped
    look = _LocalLook(depth, hidden, reasons) if is_local(fs) else _StoreLook(fs, depth)
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="clipmill-list")
    try:
        frames = [_Frame([_Folder(root, 0)], look, pool)]
        while frames:
            found = frames[-1].following()
            if found is None:
                frames.pop()
            elif isinstance(found, _Contents):
                if look.enter(found):
                    frames.append(_Frame(found.nodes, look, pool))
            else:
                yield from found
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Contents(NamedTuple):
    """The nodes of a folder; `key` identifies it, whatever it is called."""

    folder: _Folder
    key: Any
    nodes: Sequence[_Node]


class _Frame:
    """The nodes of one folder, and what was found in those that are ahead of the walk."""

    def __init__(self, nodes: Sequence[_Node | None], look: _LocalLook | _StoreLook, pool: ThreadPoolExecutor) -> None:
        self._nodes = list(nodes)
        self._look = look
        self._pool = pool
        self._at = 0
        self._ahead: dict[int, Future[_Contents | list[Listed]]] = {}
        self._submitted = 0

    def following(self) -> _Contents | list[Listed] | None:
        """Return what is in the next node, None at the end."""
        if self._at == len(self._nodes):
            return None
        if self._look.waits:
            self._submitted = max(self._submitted, self._at)
            while self._submitted < min(self._at + _AHEAD, len(self._nodes)):
                self._ahead[self._submitted] = self._pool.submit(self._look, self._taken(self._submitted))
                self._submitted += 1
        number, self._at = self._at, self._at + 1
        future = self._ahead.pop(number, None)
        return self._look(self._taken(number)) if future is None else future.result()

    def _taken(self, number: int) -> _Node:
        """Return a node, which may hold many names, and let go of it."""
        node, self._nodes[number] = self._nodes[number], None
        assert node is not None
        return node


class _LocalLook:
    """Looks at nodes of a local file system. Threads help where looking is mostly waiting, as on a network's disk."""

    def __init__(self, depth: int | None, hidden: bool, skipped: dict[str, Skipped]) -> None:
        self.waits = False
        self._depth = depth
        self._hidden = hidden
        self._seen: set[Any] = set()
        self._lock = threading.Lock()
        self._skipped = skipped

    def __call__(self, node: _Node) -> _Contents | list[Listed]:
        wall, cpu = time.perf_counter(), time.thread_time()
        found: _Contents | list[Listed]
        if isinstance(node, _Folder):
            found = self._contents(node)
        else:
            assert isinstance(node, _Run)
            beginning = _beginning(node.folder)
            found = [file for name in node.names if (file := self.file(beginning + name)) is not None]
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        self.waits = wall > _WAITING * cpu and wall > _LONG_S
        return found

    def enter(self, found: _Contents) -> bool:
        """Return whether a folder was not walked yet: links may lead to a parent, or to a folder elsewhere."""
        if found.key in self._seen:
            self._skip(LISTED_AGAIN, found.folder.path)
            return False
        self._seen.add(found.key)
        return True

    def _contents(self, folder: _Folder) -> _Contents:
        path, level, _ = folder
        status = os.stat(path)
        is_deepest = self._depth is not None and level + 1 >= self._depth
        files, folders = [], []
        with os.scandir(path) as entries:
            for entry in entries:
                if not _is_folder(entry):
                    files.append(entry.name)
                elif not self._hidden and entry.name.startswith("."):
                    if self._depth is None:
                        self._skip(HIDDEN, f"{entry.path}/")
                elif not is_deepest:
                    folders.append(entry.name)
        return _Contents(folder, (status.st_dev, status.st_ino), _in_order(folder, files, folders))

    def file(self, path: str) -> Listed | None:
        try:
            status = os.stat(path)
        except OSError:  # a broken link: listed, so that it becomes a failure
            return Listed(path)
        if not stat.S_ISREG(status.st_mode):
            self._skip(SPECIAL, path)
            return None
        return Listed(path, status.st_size, str(status.st_mtime_ns))

    def _skip(self, why: str, path: str) -> None:
        with self._lock:
            self._skipped.setdefault(why, Skipped()).add(path)


_WAITING, _LONG_S = 3.0, 0.02
"""Looking at a node waits if it takes so many times its CPU time, and so long."""
HIDDEN = "skipped, because a name begins with '.' or '_'"
SPECIAL = "skipped, because only regular files are read (no FIFO, socket or device)"
LISTED_AGAIN = "skipped, because it is a link to a folder that is listed already"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _beginning(folder: str) -> str:
    return folder if folder.endswith("/") else f"{folder}/"


def _in_order(folder: _Folder, files: list[str], folders: list[str]) -> list[_Node]:
    """Return the nodes of a local folder in the order of the paths of the files in them."""
    nodes: list[_Node] = []
    names = sorted([*files, *(f"{name}/" for name in folders)])
    for is_folder, group in itertools.groupby(names, lambda name: name.endswith("/")):
        if is_folder:
            nodes += [_Folder(_beginning(folder.path) + name[:-1], folder.level + 1) for name in group]
        else:
            some = list(group)
            nodes += [_Run(folder.path, some[first : first + _RUN]) for first in range(0, len(some), _RUN)]
    return nodes


class _StoreLook:
    """Looks at nodes of other file systems, mostly object stores, on threads.

    Listing all of a prefix takes the fewest requests, one behind the other; several prefixes are listed at once.
    """

    waits = True

    def __init__(self, fs: Any, depth: int | None) -> None:
        self._fs = fs
        self._depth = depth

    def __call__(self, node: _Node) -> _Contents | list[Listed]:
        if not isinstance(node, _Folder):
            assert isinstance(node, _Files)
            return node.files
        path, level, whole = node
        if whole:
            return self._all_below(path, level)
        files, folders = [], []
        for info in retry_store(lambda: self._fs.ls(path, detail=True)):
            name = info["name"].rstrip("/")
            if name == path.rstrip("/"):
                continue  # the mark of a folder, or its own entry
            if info["type"] == "directory":
                folders.append(name)
            else:
                files.append(_from_info(self._fs, name, info))
        self._fs.invalidate_cache()  # what was listed is not asked for again
        if self._depth is not None and level + 1 >= self._depth:
            folders = []
        whole = len(folders) >= _FEW_FOLDERS or level + 1 >= _DEEPEST
        entries: list[Listed | _Folder] = [*files, *(_Folder(one, level + 1, whole) for one in folders)]
        entries.sort(key=lambda one: f"{url_of(self._fs, one.path)}/" if isinstance(one, _Folder) else one.path)
        nodes: list[_Node] = []
        for is_folder, group in itertools.groupby(entries, lambda one: isinstance(one, _Folder)):
            some: list[Any] = list(group)
            nodes += some if is_folder else [_Files(some)]
        return _Contents(node, path, nodes)

    def enter(self, found: _Contents) -> bool:
        return True

    def _all_below(self, path: str, level: int) -> list[Listed]:
        depth = None if self._depth is None else self._depth - level
        found = retry_store(lambda: self._fs.find(path, maxdepth=depth, detail=True))
        self._fs.invalidate_cache()
        return sorted(_from_info(self._fs, name, info) for name, info in found.items())


def list_file(fs: Any, path: str) -> Listed | None:
    """Return one file as a walk would; None if it is local and neither a regular file nor a link to nothing."""
    if not is_local(fs):
        return _from_info(fs, path, fs.info(path))
    return _LocalLook(None, False, {}).file(path)


def _from_info(fs: Any, path: str, info: dict[str, Any]) -> Listed:
    version = next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
    size = info.get("size")
    return Listed(url_of(fs, path), None if size is None else int(size), version)
