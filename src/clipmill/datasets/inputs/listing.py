"""Lists the files that the inputs name: single files, folders and globs, on any file system."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from ...errors import DatasetError
from ...files.compression import SUFFIXES
from ...files.file_systems import dataset_errors, is_local, open_location, url_of
from ...files.json_text import some_of
from ...files.retries import retry_store
from .globs import Glob, is_glob

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
_SIDECAR_EXTENSIONS = (".json", ".txt")
_IMG2DATASET_RECORD = re.compile(r"((?:.*/)?\d+)(\.parquet|_stats\.json)", re.DOTALL)
"""Files that img2dataset writes next to each of its shards, which are named by numbers."""
IMAGE_EXTENSIONS = frozenset(
    ["jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"]
) | frozenset(["avif", "heic", "heif", "hif", "jxl"])
"""Extensions of images that may have sidecar files. Whether a file is an image is decided later, by its content."""
_TAR_EXTENSIONS = (".tar", ".tgz", ".tbz2", ".txz", ".tzst")
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "created")
"""Names that file systems use for the version of a file's content, the most reliable first."""
_HIDDEN = "because a name begins with '.' or '_'"
NO_MATCH = " matches no file ('**' crosses folders, '*' does not)"


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
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


Lister = Callable[[str], tuple[list[Listed], str]]
"""Returns the files of one input, and the end of the error message for an input without files."""


def kind_of(path: str) -> Kind:
    """Return how a file is read, based on its name; a file with an unknown extension is one document."""
    name = uncompressed_name(path)
    if name.endswith(_TAR_EXTENSIONS):
        return "tar"
    return _KINDS.get(os.path.splitext(name)[1], "files")


def uncompressed_name(path: str) -> str:
    """Return a path in lower case, without the ending of a compression."""
    name = path.lower()
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def list_inputs(inputs: Sequence[str], *, list_input: Lister | None = None, allow_empty: bool = False) -> list[Listed]:
    """List the files of all inputs.

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

    Returns:
        The files in the order of the inputs, sorted by path within each input, without duplicates.

    Raises:
        DatasetError: If an input has no files, or cannot be listed.
    """
    listed: dict[str, Listed] = {}
    again: dict[str, None] = {}
    for location in map(os.fspath, inputs):
        files, reason = (list_input or list_location)(location)
        if not files and not allow_empty:
            raise DatasetError(f"input {location!r}{reason}")
        again |= {file.path: None for file in files if file.path in listed}
        for file in files:
            listed.setdefault(file.path, file)
    _warn_of(list(again), "named more than once, and read once")
    return list(listed.values())


def list_location(location: str) -> tuple[list[Listed], str]:
    """List one input with fsspec.

    Returns:
        Its files, and the end of the error message for an input without files.

    Raises:
        DatasetError: If it cannot be listed.
    """
    fs, path = open_location(location)
    if not is_local(fs):
        return retry_store(lambda: _list_location(location, fs, path))
    return _list_location(location, fs, path)


def _list_location(location: str, fs: Any, path: str) -> tuple[list[Listed], str]:
    with dataset_errors("list", location):
        if fs.isdir(path):
            return files_of(AllBelow(url_of(fs, path)), _walk(fs, path)), ": the folder holds no files"
        if fs.exists(path) or (is_local(fs) and os.path.lexists(path)):
            return [_list_file(fs, path)], ""
        if not is_glob(path):
            return [], ": no such file or folder"
        glob, root = Glob(url_of(fs, path)), Glob(path).root or "/"
        candidates = _walk(fs, root, glob.depth, hidden=glob.finds_hidden) if fs.isdir(root) else ()
        return files_of(glob, candidates), NO_MATCH


def listed_again(path: str) -> Listed:
    """Return a listed file as it is now; raise `FileNotFoundError`, or what its file system raises."""
    fs, path = open_location(path)
    if is_local(fs):
        os.stat(path)
    else:
        fs.invalidate_cache(path)  # a listing of the folder would be old
        return retry_store(lambda: _list_file(fs, path))
    return _list_file(fs, path)


def files_of(matcher: Glob | AllBelow, candidates: Iterable[Listed]) -> list[Listed]:
    """Return the candidates that are inputs, sorted by path, each image with its sidecar files.

    The files of a folder that are none because of their names are named in a warning.
    """
    there = list(candidates)
    files = [file for file in there if matcher.matches(file.path)]
    if isinstance(matcher, AllBelow) and len(files) < len(there):
        _warn_of([file.path for file in there if not matcher.matches(file.path)], f"skipped, {_HIDDEN}")
    return sorted(_attach_sidecars(files), key=lambda file: file.path)


def _warn_of(paths: Sequence[str], what: str) -> None:
    """Log what happened to files that are not read, with the names of a few; names may hold any characters."""
    if paths:
        _log.warning("%s: %s", what, some_of([path if path.isprintable() else ascii(path) for path in paths]))


class AllBelow:
    """Matches all inputs in a folder, recursively; `prefix` is the common beginning of the paths of its files."""

    def __init__(self, folder: str) -> None:
        """Take the folder's absolute path or URL."""
        self.prefix = folder.rstrip("/") + "/"

    def matches(self, path: str) -> bool:
        """Return whether a file of the folder is an input."""
        parts = path.removeprefix(self.prefix).split("/")
        is_document = kind_of(path) == "files" and "." in parts[-1]
        return not any(part.startswith(".") or (part.startswith("_") and not is_document) for part in parts)


def _attach_sidecars(files: list[Listed]) -> list[Listed]:
    """Attach captions and metadata to their images, and remove img2dataset's own records."""
    paths = {file.path for file in files}
    images = {os.path.splitext(file.path)[0] for file in files if is_image(file.path)}
    sidecars: dict[str, list[Listed]] = {}
    for file in files:
        stem, extension = os.path.splitext(file.path)
        if extension in _SIDECAR_EXTENSIONS and stem in images:
            sidecars.setdefault(stem, []).append(file)
    folders = {os.path.dirname(stem) for stem in images}
    no_inputs = {file.path for attached in sidecars.values() for file in attached}
    no_inputs |= {path for path in paths if _is_record(path, paths, folders)}
    return [
        _with_sidecars(file, sidecars.get(os.path.splitext(file.path)[0], ())) if is_image(file.path) else file
        for file in files
        if file.path not in no_inputs
    ]


def is_image(path: str) -> bool:
    """Return whether a file has the extension of an image, which may have sidecar files."""
    return os.path.splitext(path)[1].lower().lstrip(".") in IMAGE_EXTENSIONS


def _is_record(path: str, paths: set[str], folders: set[str]) -> bool:
    match = _IMG2DATASET_RECORD.fullmatch(path)
    if match is None:
        return False
    shard, ending = match.groups()
    is_of_tar = f"{shard}.tar" in paths or shard in folders
    return is_of_tar or (ending != ".parquet" and f"{shard}.parquet" in paths)


def _with_sidecars(image: Listed, sidecars: Sequence[Listed]) -> Listed:
    if not sidecars:
        return image
    files = (image, *sidecars)
    sizes = [file.size for file in files if file.size is not None]
    return Listed(
        image.path,
        sum(sizes) if len(sizes) == len(files) else None,
        " ".join(file.version for file in files),
        tuple(sorted(os.path.splitext(file.path)[1] for file in sidecars)),
    )


def is_matched(location: str, path: str) -> bool:
    """Return whether an input is a glob that matches an absolute local path; the file need not exist."""
    fs, pattern = open_location(location)
    return is_local(fs) and is_glob(pattern) and not os.path.exists(pattern) and Glob(pattern).matches(path)


def _walk(fs: Any, root: str, depth: int | None = None, *, hidden: bool = False) -> Iterator[Listed]:
    """Yield the files below a folder, recursively."""
    if is_local(fs):
        yield from _walk_local(root, depth, hidden)
        return
    fs.invalidate_cache(root)
    for path, info in fs.find(root, maxdepth=depth, detail=True).items():
        yield _from_info(fs, path, info)


def _walk_local(root: str, depth: int | None, hidden: bool) -> Iterator[Listed]:
    def fail(err: OSError) -> None:  # by default os.walk skips unreadable folders, and rows would be missing
        raise err

    seen: set[tuple[int, int]] = set()
    special: list[str] = []
    again: list[str] = []
    unseen: list[str] = []
    for folder, folders, names in os.walk(root, followlinks=True, onerror=fail):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link to a parent folder, or to one that was listed already
            again.append(folder)
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        relative = os.path.relpath(folder, root)
        level = 0 if relative == "." else relative.count("/") + 1
        is_deepest = depth is not None and level + 1 >= depth
        if depth is None and not hidden:
            unseen += [f"{folder}/{name}/" for name in folders if name.startswith(".")]
        folders[:] = [] if is_deepest else sorted(f for f in folders if hidden or not f.startswith("."))
        for name in names:
            if (file := _stat(os.path.join(folder, name))) is not None:
                yield file
            else:
                special.append(os.path.join(folder, name))
    _warn_of(special, "skipped, because only regular files are read (no FIFO, socket or device)")
    _warn_of(again, "skipped, because it is a link to a folder that is listed already")
    _warn_of(unseen, f"skipped, {_HIDDEN}")


def _stat(path: str) -> Listed | None:
    try:
        status = os.stat(path)
    except OSError:  # a broken link: listed, so that it becomes a failure
        return Listed(path)
    return Listed(path, status.st_size, str(status.st_mtime_ns)) if stat.S_ISREG(status.st_mode) else None


def _list_file(fs: Any, path: str) -> Listed:
    if not is_local(fs):
        return _from_info(fs, path, fs.info(path))
    file = _stat(path)
    if file is None:
        raise DatasetError(f"input {path!r} is neither a regular file nor a folder")
    return file


def _from_info(fs: Any, path: str, info: dict[str, Any]) -> Listed:
    version = next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
    size = info.get("size")
    return Listed(url_of(fs, path), None if size is None else int(size), version)
