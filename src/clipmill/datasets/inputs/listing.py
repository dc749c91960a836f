"""What the user named, as files: single files, folders, and globs, on any file system."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from ...errors import DatasetError
from ...files.file_systems import dataset_errors, is_local, open_location, url_of
from .globs import Glob, Matcher, is_glob

Kind = Literal["files", "jsonl", "csv", "parquet", "tar"]

_KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".parq": "parquet",
    ".pq": "parquet",
}
_BESIDE = (".json", ".txt")
_RECORD = re.compile(r"((?:.*/)?\d+)(\.parquet|_stats\.json)", re.DOTALL)
"""What img2dataset writes beside each of its shards, whose names are numbers."""
IMAGES = frozenset(["jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm"])
"""Endings of the images that captions and metadata may stand beside; which files are images their content tells."""
_TARS = (".tar", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tbz2", ".txz", ".tzst")
"""Those that are packed with anything but gzip are told to be so when they are read."""
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "created")
"""What file systems call the thing that changes with a file's content, the surest first."""
NO_MATCH = " matches no file ('**' crosses folders, '*' does not)"


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """A file of the input.

    Attributes:
        path: Absolute path or URL.
        size: Bytes; None where the file system does not say.
        version: Time or etag, as text; "" where there is none.
        beside: Endings of the files that stand beside an image under its name, such as `(".json", ".txt")`: its caption
            and metadata, which size and version cover.
    """

    path: str
    size: int | None = None
    version: str = ""
    beside: tuple[str, ...] = ()


Lister = Callable[[str], tuple[list[Listed], str]]
"""Returns the files of one input, and what to say where there are none."""


def kind_of(path: str) -> Kind:
    """Return how a file is read, told by its name; an unknown ending is a document by itself."""
    name = path.lower().removesuffix(".gz")
    if name.endswith(_TARS):
        return "tar"
    return _KINDS.get(os.path.splitext(name)[1], "files")


def list_inputs(inputs: Sequence[str], *, list_input: Lister | None = None, allow_empty: bool = False) -> list[Listed]:
    """Find the files of all inputs.

    Folders are searched with all that is below them; names that begin with a dot are skipped, and so are tables and
    marks whose name, or folder, begins with `_` (Spark's and clipmill's own; a photograph may be called `_1.jpg`).
    Patterns are those of `globs.Glob`; a path that exists is never taken for one.
    A `.txt` or `.json` that stands beside an image under its name is that image's caption or metadata, and no input of
    its own; what img2dataset writes down of a shard, `00000.parquet` and `00000_stats.json` beside `00000.tar` or
    `00000/`, is none either. What is named by its own path always is one.

    Args:
        inputs: Paths and URLs of files and folders, and globs.
        list_input: Lists one of them; by default `list_location`.
        allow_empty: Whether an input may name nothing.

    Returns:
        The files in the order of the inputs, sorted by path within each; a file that two inputs name comes once.

    Raises:
        DatasetError: If an input names nothing, or cannot be listed.
    """
    found: dict[str, Listed] = {}
    for given in map(os.fspath, inputs):
        files, reason = (list_input or list_location)(given)
        if not files and not allow_empty:
            raise DatasetError(f"input {given!r}{reason}")
        for file in files:
            found.setdefault(file.path, file)
    return list(found.values())


def list_location(given: str) -> tuple[list[Listed], str]:
    """List one input by fsspec.

    Returns:
        Its files, and what to say where there are none.

    Raises:
        DatasetError: If it cannot be listed.
    """
    fs, path = open_location(given)
    with dataset_errors("list", given):
        if fs.isdir(path):
            return files_of(AllBelow(url_of(fs, path)), _walk(fs, path)), ": the folder holds no files"
        if fs.exists(path) or (is_local(fs) and os.path.lexists(path)):
            return [_look_at(fs, path)], ""
        if not is_glob(path):
            return [], ": no such file or folder"
        glob, root = Glob(url_of(fs, path)), Glob(path).root or "/"
        there = _walk(fs, root, glob.depth, hidden=glob.finds_hidden) if fs.isdir(root) else ()
        return files_of(glob, there), NO_MATCH


def files_of(matcher: Matcher, there: Iterable[Listed]) -> list[Listed]:
    """Return the inputs among files, sorted, each image with what stands beside it."""
    return sorted(_joined([file for file in there if matcher.matches(file.path)]), key=lambda file: file.path)


class AllBelow:
    """All inputs in a folder and below it.

    Attributes:
        prefix: What the paths of its files begin with.
    """

    def __init__(self, folder: str) -> None:
        """Name the folder by its absolute path or URL."""
        self.prefix = folder.rstrip("/") + "/"

    def matches(self, path: str) -> bool:
        """Return whether a file of the folder is an input."""
        parts = path.removeprefix(self.prefix).split("/")
        is_photograph = kind_of(path) == "files" and "." in parts[-1]
        return not any(part.startswith(".") or (part.startswith("_") and not is_photograph) for part in parts)


def _joined(files: list[Listed]) -> list[Listed]:
    """Give captions and metadata to the images that they stand beside, and leave out img2dataset's own records."""
    paths = {file.path for file in files}
    images = {os.path.splitext(file.path)[0] for file in files if is_image(file.path)}
    besides: dict[str, list[Listed]] = {}
    for file in files:
        stem, ending = os.path.splitext(file.path)
        if ending in _BESIDE and stem in images:
            besides.setdefault(stem, []).append(file)
    folders = {os.path.dirname(stem) for stem in images}
    taken = {file.path for found in besides.values() for file in found}
    taken |= {path for path in paths if _is_record(path, paths, folders)}
    return [
        _with_beside(file, besides.get(os.path.splitext(file.path)[0], ())) if is_image(file.path) else file
        for file in files
        if file.path not in taken
    ]


def is_image(path: str) -> bool:
    """Tell by its ending whether a file is an image that a caption may stand beside."""
    return os.path.splitext(path)[1].lower().lstrip(".") in IMAGES


def _is_record(path: str, paths: set[str], folders: set[str]) -> bool:
    match = _RECORD.fullmatch(path)
    if match is None:
        return False
    shard, ending = match.groups()
    is_of_tar = f"{shard}.tar" in paths or shard in folders
    return is_of_tar or (ending != ".parquet" and f"{shard}.parquet" in paths)


def _with_beside(image: Listed, files: Sequence[Listed]) -> Listed:
    if not files:
        return image
    every = (image, *files)
    sizes = [file.size for file in every if file.size is not None]
    return Listed(
        image.path,
        sum(sizes) if len(sizes) == len(every) else None,
        " ".join(file.version for file in every),
        tuple(sorted(os.path.splitext(file.path)[1] for file in files)),
    )


def is_matched(given: str, path: str) -> bool:
    """Return whether an input is a glob that matches an absolute path of this machine; the file need not exist."""
    fs, pattern = open_location(given)
    return is_local(fs) and is_glob(pattern) and not os.path.exists(pattern) and Glob(pattern).matches(path)


def _walk(fs: Any, root: str, depth: int | None = None, *, hidden: bool = False) -> Iterator[Listed]:
    """Yield the files below a folder."""
    if is_local(fs):
        yield from _walk_local(root, depth, hidden)
        return
    fs.invalidate_cache(root)
    for path, info in fs.find(root, maxdepth=depth, detail=True).items():
        yield _of_info(fs, path, info)


def _walk_local(root: str, depth: int | None, hidden: bool) -> Iterator[Listed]:
    def stop(err: OSError) -> None:  # os.walk would skip what it may not read, and rows would be missing
        raise err

    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=stop):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above, or to one that was listed
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        relative = os.path.relpath(folder, root)
        level = 0 if relative == "." else relative.count("/") + 1
        deep = depth is not None and level + 1 >= depth
        folders[:] = [] if deep else sorted(f for f in folders if hidden or not f.startswith("."))
        for name in names:
            if (file := _stat(os.path.join(folder, name))) is not None:
                yield file


def _stat(path: str) -> Listed | None:
    try:
        status = os.stat(path)
    except OSError:  # a link to nowhere: listed, so that it comes out as a failure
        return Listed(path)
    return Listed(path, status.st_size, str(status.st_mtime_ns)) if stat.S_ISREG(status.st_mode) else None


def _look_at(fs: Any, path: str) -> Listed:
    if not is_local(fs):
        return _of_info(fs, path, fs.info(path))
    file = _stat(path)
    if file is None:
        raise DatasetError(f"input {path!r} is neither a regular file nor a folder")
    return file


def _of_info(fs: Any, path: str, info: dict[str, Any]) -> Listed:
    version = next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
    size = info.get("size")
    return Listed(url_of(fs, path), None if size is None else int(size), version)
