"""Attaches captions and metadata to the images beside them, and leaves out img2dataset's own records.

Files come sorted by path, and few of them are held: all that belong to one image, or are about one shard of
img2dataset, come close to one another.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from .walking import Listed

_EXTENSIONS = (".json", ".txt")
_RECORD = re.compile(r"((?:.*/)?\d+)(\.parquet|_stats\.json)", re.DOTALL)
"""Files that img2dataset writes next to each of its shards, which are named by numbers."""
IMAGE_EXTENSIONS = frozenset(
    ["jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"]
) | frozenset(["avif", "heic", "heif", "hif", "jxl"])
"""Extensions of images that may have sidecar files. Whether a file is an image is decided later, by its content."""


def is_image(path: str) -> bool:
    """Return whether a file has the extension of an image, which may have sidecar files."""
    extension = path[path.rfind(".") + 1 :]  # not `splitext`, which takes as long as all the rest
    return extension.lower() in IMAGE_EXTENSIONS and len(extension) + 1 < len(path) - path.rfind("/") - 1


def attach_sidecars(files: Iterable[Listed]) -> Iterator[Listed]:
    """Yield files, which are sorted by path, without captions and metadata, which their images get, and records."""
    shards: set[str] = set()
    """Paths of img2dataset's shards, without the ending of a tar or table: what is named by one may be its record."""
    waiting: list[Listed] = []
    """A table that may be the record of a folder whose images would come next, and what came after it."""
    for block in _blocks(files):
        if len(block) == 1 and not waiting and is_image(path := block[0].path):  # nearly all files
            if _is_numbered(folder := path[: path.rfind("/")]):
                shards.add(folder)
            yield block[0]
            continue
        shards.update(_shards_of(block))
        for file in _of_block(block):
            if waiting and (_stem(waiting[0].path) in shards or _is_behind(file, _folder_of(waiting[0]))):
                yield from (one for one in waiting if not _is_record(one.path, shards))
                waiting = []
            if waiting or _is_table_with_number(file.path):
                waiting.append(file)
            elif not _is_record(file.path, shards):
                yield file
    yield from (one for one in waiting if not _is_record(one.path, shards))


def _blocks(files: Iterable[Listed]) -> Iterator[list[Listed]]:
    """Yield files whose paths begin with the same text up to the first dot of the first one's name."""
    block: list[Listed] = []
    beginning = ""
    for file in files:
        path = file.path
        if not block or not path.startswith(beginning):
            if block:
                yield block
            block = []
            dot = path.find(".", path.rfind("/") + 1)
            beginning = path[: dot + 1] if dot >= 0 else f"{path}."
        block.append(file)
    if block:
        yield block


def _of_block(block: list[Listed]) -> Iterable[Listed]:
    """Return the files of a block without the sidecar files of its images."""
    if len(block) == 1:
        return block
    images = {os.path.splitext(file.path)[0] for file in block if is_image(file.path)}
    sidecars: dict[str, list[Listed]] = {}
    rest = []
    for file in block:
        stem, extension = os.path.splitext(file.path)
        if extension in _EXTENSIONS and stem in images:
            sidecars.setdefault(stem, []).append(file)
        else:
            rest.append(file)
    return [_with_sidecars(file, sidecars.get(_stem(file.path), ())) if is_image(file.path) else file for file in rest]


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


def _shards_of(block: list[Listed]) -> Iterator[str]:
    """Yield the paths of shards, without their endings, that files of a block are, or are the images of."""
    for file in block:
        path = file.path
        if is_image(path):
            if _is_numbered(folder := path[: path.rfind("/")]):
                yield folder
        elif path.endswith((".tar", ".parquet")) and _is_numbered(_stem(path)):
            yield path


@functools.lru_cache(maxsize=1024)
def _is_numbered(path: str) -> bool:
    return re.fullmatch(r"(?:.*/)?\d+", path, re.DOTALL) is not None


def _is_record(path: str, shards: set[str]) -> bool:
    if not path.endswith((".parquet", "_stats.json")) or (match := _RECORD.fullmatch(path)) is None:
        return False
    shard, ending = match.groups()
    is_of_tar = f"{shard}.tar" in shards or shard in shards
    return is_of_tar or (ending != ".parquet" and f"{shard}.parquet" in shards)


def _is_table_with_number(path: str) -> bool:
    """Return whether a file would be a record if images lay in the folder that comes next."""
    return path.endswith(".parquet") and _is_numbered(_stem(path))


def _is_behind(file: Listed, folder: str) -> bool:
    """Return whether a file comes after all files of a folder."""
    return file.path > folder and not file.path.startswith(folder)


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]


def _folder_of(table: Listed) -> str:
    return f"{_stem(table.path)}/"
