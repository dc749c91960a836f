"""Lists the files that the inputs name, one by one: single files, folders and globs, on any file system."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from ...errors import DatasetError
from ...files.compression import SUFFIXES
from ...files.file_systems import dataset_errors, is_local, open_location, url_of
from ...files.folder import Folder
from ...files.retries import retry_store
from .globs import Glob, is_glob, prefix_of, root_of
from .sidecars import attach_sidecars
from .walking import HIDDEN, Listed, Skipped, list_file, walk

_log = logging.getLogger("clipmill")

Kind = Literal["files", "jsonl", "csv", "uris", "parquet", "arrow", "tar"]

_KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".parq": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_TAR_EXTENSIONS = (".tar", ".tgz", ".tbz2", ".txz", ".tzst")
NO_MATCH = " matches no file ('**' crosses folders, '*' does not)"

Lister = Callable[[str], tuple[Iterator[Listed], str]]
"""Returns the files of one input, and the end of the error message for an input without files."""


def kind_of(path: str) -> Kind:
    """Return how a file is read, based on its name; a file with an unknown extension is one document."""
    return _kind_of_name(name_with_ending(path))


@functools.lru_cache(maxsize=4096)
def _kind_of_name(name: str) -> Kind:
    name = uncompressed_name(name)
    if name.endswith(_TAR_EXTENSIONS):
        return "tar"
    return _KINDS.get(os.path.splitext(name)[1], "files")


def name_with_ending(path: str) -> str:
    """Return a name with the ending of a file, compression included, that many files share: it is looked up faster."""
    name, at = path.rfind("/") + 1, path.rfind(".")
    if at > name and path[name] != "." and path[at:].lower() not in SUFFIXES:
        return f"x{path[at:]}"
    stem, dot, ending = path[path.rfind("/") + 1 :].rpartition(".")
    if f".{ending.lower()}" in SUFFIXES:
        inner, inner_dot, inside = stem.rpartition(".")
        stem, ending = (inner, f"{inside}.{ending}") if inner_dot else (stem, ending)
    return f"{'x' if stem.strip('.') else stem}{dot}{ending}"


def uncompressed_name(path: str) -> str:
    """Return a path in lower case, without the ending of a compression."""
    name = path.lower()
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def list_inputs(
    inputs: Sequence[str], *, list_input: Lister | None = None, allow_empty: bool = False
) -> Iterator[Listed]:
    """Yield the files of all inputs.

    Folders are searched recursively. Names that begin with a dot are skipped. Tables, and files without an extension,
    are skipped if their name or a folder's name begins with `_`: Spark and clipmill write such files. Other files, such
    as `_1.jpg`, are inputs. FIFOs, sockets, devices and folders that were listed already are skipped too. A warning
    names what is skipped in a folder. Patterns are those of `globs.Glob`; an existing path is never a pattern.

    A `.txt` or `.json` file with the name of an image next to it is the image's caption or metadata, and not an input
    by itself. Neither are the records that img2dataset writes about a shard: `00000.parquet` and `00000_stats.json`
    next to `00000.tar` or `00000/`. A file that is named by its own path is always an input.

    Args:
        inputs: Paths and URLs of files and folders, and globs.
        list_input: Lists one input; by default `list_location`.
        allow_empty: Whether an input may have no files.

    Yields:
        The files in the order of the inputs, sorted by path within each input, without duplicates. Memory holds a few,
        and 100 bytes for each file of inputs that may have files in common.

    Raises:
        DatasetError: If an input has no files, or cannot be listed.
    """
    locations = list(map(os.fspath, inputs))
    overlapping = _overlapping(locations)
    known: set[bytes] = set()
    again = Skipped()
    for location in locations:
        files, reason = (list_input or list_location)(location)
        may_repeat = location in overlapping
        is_empty = True
        for file in files:
            is_empty = False
            if may_repeat:
                if (digest := _digest_of(file.path)) in known:
                    again.add(file.path)
                    continue
                known.add(digest)
            yield file
        if is_empty and not allow_empty:
            raise DatasetError(f"input {location!r}{reason}")
    _warn_of(again, "named more than once, and read once")


def _overlapping(locations: Sequence[str]) -> set[str]:
    """Return the inputs that may have files in common, because the path of one begins like that of another."""
    found: set[str] = set()
    above: list[tuple[str, str]] = []
    for start, location in sorted((_start_of(one), one) for one in locations):
        while above and not start.startswith(above[-1][0]):
            above.pop()
        if above:
            found |= {location, above[-1][1]}
        above.append((start, location))
    return found


def _start_of(location: str) -> str:
    """Return how the paths of all files of an input begin, without the scheme, which may have several names."""
    _, mark, rest = location.partition("://")
    return prefix_of(rest if mark else os.path.abspath(os.path.expanduser(location)))


def _digest_of(path: str) -> bytes:
    return hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def list_location(location: str) -> tuple[Iterator[Listed], str]:
    """List one input with fsspec.

    Returns:
        Its files, and the end of the error message for an input without files.

    Raises:
        DatasetError: If it cannot be listed; also while the files are taken.
    """
    fs, path = open_location(location)
    fs.invalidate_cache()
    with dataset_errors("list", location):
        if is_local(fs):
            return _list_location(location, fs, path)
        return retry_store(lambda: _list_location(location, fs, path))


def _list_location(location: str, fs: Any, path: str) -> tuple[Iterator[Listed], str]:
    kind = _kind_of_place(fs, path)
    if kind == "directory":
        skipped: dict[str, Skipped] = {}
        found = files_of(AllBelow(url_of(fs, path)), walk(fs, path, skipped=skipped), skipped)
        return _listing(location, found), ": the folder holds no files"
    if kind is not None or (is_local(fs) and os.path.lexists(path)):
        if (file := list_file(fs, path)) is None:
            raise DatasetError(f"input {path!r} is neither a regular file nor a folder")
        return iter([file]), ""
    if not is_glob(path):
        return iter(()), ": no such file or folder"
    glob, root = Glob(url_of(fs, path)), root_of(path) or "/"
    skipped = {}
    candidates: Iterator[Listed] = iter(())
    if _kind_of_place(fs, root) == "directory":
        candidates = walk(fs, root, glob.depth, hidden=glob.finds_hidden, skipped=skipped)
    return _listing(location, files_of(glob, candidates, skipped)), NO_MATCH


def _kind_of_place(fs: Any, path: str) -> str | None:
    """Return what a path is, as `Folder.kind`; an object that is a prefix of others too is a directory.

    For a store that did not answer, `isdir` and `exists` of some drivers are False.
    """
    return "directory" if fs.isdir(path) else Folder(fs, path).kind()


def _listing(location: str, files: Iterator[Listed]) -> Iterator[Listed]:
    with dataset_errors("list", location):
        yield from files


def listed_again(path: str) -> Listed:
    """Return a listed file as it is now; raise `FileNotFoundError`, or what its file system raises."""
    fs, path = open_location(path)
    if is_local(fs):
        os.stat(path)
        file = list_file(fs, path)
    else:
        fs.invalidate_cache(path)  # a listing of the folder would be old
        file = retry_store(lambda: list_file(fs, path))
    if file is None:
        raise DatasetError(f"input {path!r} is neither a regular file nor a folder")
    return file


def files_of(
    matcher: Glob | AllBelow, candidates: Iterable[Listed], skipped: dict[str, Skipped] | None = None
) -> Iterator[Listed]:
    """Yield the candidates that are inputs, each image with its sidecar files.

    At the end, warnings name the files of a folder that are none because of their names, and what was `skipped` before.

    Args:
        matcher: Decides which candidates are inputs.
        candidates: Files sorted by path.
        skipped: What a walk skips, by reason.
    """
    reasons = {} if skipped is None else skipped
    yield from attach_sidecars(_matching(matcher, candidates, reasons))
    for reason, some in reasons.items():
        _warn_of(some, reason)


def _matching(matcher: Glob | AllBelow, candidates: Iterable[Listed], skipped: dict[str, Skipped]) -> Iterator[Listed]:
    for file in candidates:
        if matcher.matches(file.path):
            yield file
        elif isinstance(matcher, AllBelow):
            skipped.setdefault(HIDDEN, Skipped()).add(file.path)


def _warn_of(skipped: Skipped, what: str) -> None:
    """Log what happened to files that are not read, with the names of a few."""
    if skipped.count:
        _log.warning("%s: %s", what, skipped)


class AllBelow:
    """Matches all inputs in a folder, recursively; `prefix` is the common beginning of the paths of its files."""

    def __init__(self, folder: str) -> None:
        """Take the folder's absolute path or URL."""
        self.prefix = folder.rstrip("/") + "/"
        self._folder = ""
        self._marks = frozenset[str]()

    def matches(self, path: str) -> bool:
        """Return whether a file of the folder is an input."""
        end = path.rfind("/") + 1
        if path[:end] != self._folder:  # most files come behind one of the same folder
            self._folder = path[:end]
            self._marks = frozenset(part[:1] for part in path[len(self.prefix) : end].split("/"))
        first = path[end : end + 1]
        if first == "." or "." in self._marks:
            return False
        if first != "_" and "_" not in self._marks:
            return True
        return kind_of(path) == "files" and "." in path[end:]


def is_matched(location: str, path: str) -> bool:
    """Return whether an input is a glob that matches an absolute local path; the file need not exist."""
    fs, pattern = open_location(location)
    return is_local(fs) and is_glob(pattern) and not os.path.exists(pattern) and Glob(pattern).matches(path)
