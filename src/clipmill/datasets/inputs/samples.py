"""Samples as img2dataset and webdataset lay them out: files of one name, an image with its caption and its metadata.

In a tar they follow each other (`000000012.jpg`, `000000012.json`, `000000012.txt`), in a folder they stand beside each
other. What the files of a sample have in common, up to the first dot of the name, is its key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from ...encoders.item import Uri
from ...failures import Code, Failure, RowError, Stage
from ...files.file_systems import open_input
from .lines import json_object
from .listing import IMAGES
from .tars import BrokenTarError, Member, TarStream

SOUNDS = frozenset(["wav", "flac", "mp3", "ogg", "oga", "opus", "m4a", "aac"])
CAPTION, METADATA = "txt", "json"
KEY, IMAGE, AUDIO, TEXT, TAGS = "key", "image", "audio", "text", "tags"
SAMPLE_COLUMNS = (KEY, IMAGE, AUDIO, TEXT, TAGS)
LEFT_OUT = "left_out"
"""Tag that names the files of a sample that no column holds."""
_OPENERS = 8
"""Files that are opened together: mostly waiting for object stores."""
_FILES_AHEAD = 64
MAX_FILE_BYTES = 64 * 2**20
"""Bytes of one file of a sample, unless the spec says otherwise (`max_fetch_bytes`)."""


class TarSample(NamedTuple):
    """A sample of an archive.

    Attributes:
        number: Its place among the samples, from 0.
        offset: Byte at which its first header begins.
        values: `key`, `image`, `audio` (bytes or None), `text` (the caption or None) and `tags` (a dict); the key alone
            where it could not be read.
        failure: Why it could not be read.
    """

    number: int
    offset: int
    values: dict[str, Any]
    failure: Failure | None = None


def read_samples(
    stream: TarStream, *, start: int = 0, stop: int | None = None, max_file_bytes: int = MAX_FILE_BYTES
) -> Iterator[TarSample]:
    """Yield the samples of an archive: files that follow each other and have one key.

    A file whose kind the sample has already begins another sample of that key. Names that begin with a dot are passed
    over.

    Args:
        stream: Stands at a sample's first header.
        start: Number of that sample.
        stop: Number of the sample before which reading ends; None is the end of the archive.
        max_file_bytes: Bytes of one file; a larger one is not read, and its sample fails.

    Raises:
        BrokenTarError, OSError, EOFError, zlib.error: If the archive cannot be read further; the sample at the cut came
            out before, if its image or sound was whole.
    """
    number = start
    gathered: _Gathered | None = None
    try:
        for member in stream.members():
            key, ending = split_name(member.name)
            if key is None:
                continue
            if gathered is not None and not gathered.takes(key, ending):
                yield gathered.sample(number)
                gathered, number = None, number + 1
                if number == stop:
                    return
            gathered = gathered or _Gathered(key, member.offset)
            gathered.add(stream, member, ending, max_file_bytes)
    except Exception:
        if gathered is not None and gathered.has_content:
            yield gathered.sample(number)
        raise
    if gathered is not None:
        yield gathered.sample(number)


def read_files(
    paths: Sequence[str], beside: Sequence[Sequence[str]], *, max_file_bytes: int = MAX_FILE_BYTES
) -> Iterator[TarSample]:
    """Yield files that a job listed as samples; `image` and `audio` are where each is, and `key` is its path.

    Args:
        paths: Of the images and sounds.
        beside: Endings of the files that stand beside each; none at all where no file has any.
        max_file_bytes: Bytes of a caption or of metadata; the sample of a larger one fails.
    """

    def read(number: int) -> TarSample:
        path = paths[number]
        place = Uri(path, trusted=True)
        values: dict[str, Any] = {KEY: path, IMAGE: place, AUDIO: place, TEXT: None, TAGS: {}}
        try:
            for ending in beside[number] if beside else ():
                name = os.path.splitext(path)[0] + ending
                data = _small_file(name, max_file_bytes)
                if ending == f".{CAPTION}":
                    values[TEXT] = _text(data, name)
                else:
                    values[TAGS] = metadata_of(data, name)
        except RowError as err:
            return TarSample(number, 0, values, err.failure)
        return TarSample(number, 0, values)

    if not any(beside):
        yield from map(read, range(len(paths)))
        return
    with ThreadPoolExecutor(_OPENERS) as pool:
        for first in range(0, len(paths), _FILES_AHEAD):
            yield from pool.map(read, range(first, min(first + _FILES_AHEAD, len(paths))))


def _small_file(path: str, max_bytes: int) -> bytes:
    try:
        with open_input(path) as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise RowError(Stage.READ, Code.NOT_FOUND, f"{path}: no such file, and it was there") from None
    except OSError as err:
        raise RowError(Stage.READ, Code.FETCH_FAILED, f"{path}: {err}", transient=True) from err
    if len(data) > max_bytes:
        raise RowError(Stage.READ, Code.TOO_LARGE, f"{path} has more bytes than max_fetch_bytes, {max_bytes}")
    return data


def sample_starts(stream: TarStream, every: int) -> Iterator[int]:
    """Yield the byte at which every so many-th sample of an archive begins, reading nothing but headers.

    Where the archive is broken the last one reaches to its end.
    """
    seen: set[str] = set()
    last, number = None, 0
    try:
        for member in stream.members():
            key, ending = split_name(member.name)
            if key is None:
                continue
            if key != last or ending in seen:
                if number % every == 0:
                    yield member.offset
                last, number = key, number + 1
                seen.clear()
            seen.add(ending)
    except BrokenTarError:
        return


def split_name(name: str) -> tuple[str | None, str]:
    """Return the key of a file and its ending, in small letters and without the first dot; no key for a hidden file."""
    folder, base = os.path.split(name)
    stem, _, ending = base.partition(".")
    if not stem:
        return None, ""
    return (f"{folder}/{stem}" if folder else stem), ending.lower()


class _Gathered:
    """The files of one sample, as they come."""

    def __init__(self, key: str, offset: int) -> None:
        self._key = key
        self._offset = offset
        self._files: dict[str, bytes] = {}
        self._endings: set[str] = set()
        self._left_out: list[str] = []
        self._problem: RowError | None = None

    @property
    def has_content(self) -> bool:
        return self._problem is not None or not self._files.keys().isdisjoint(IMAGES | SOUNDS)

    def takes(self, key: str, ending: str) -> bool:
        return key == self._key and ending not in self._endings

    def add(self, stream: TarStream, member: Member, ending: str, max_bytes: int) -> None:
        if ending not in IMAGES | SOUNDS | {CAPTION, METADATA}:
            self._left_out.append(ending)
        elif member.is_sparse:
            self._fail(Code.UNSUPPORTED, f"{member.name!r} is stored with holes (--sparse), which is not read")
        elif member.size > max_bytes:
            message = f"{member.name!r} has {member.size} bytes, and max_fetch_bytes is {max_bytes}"
            self._fail(Code.TOO_LARGE, message)
        else:
            self._files[ending] = stream.read()
        self._endings.add(ending)

    def _fail(self, code: Code, message: str) -> None:
        self._problem = self._problem or RowError(Stage.READ, code, message)

    def sample(self, number: int) -> TarSample:
        try:
            if self._problem is not None:
                raise self._problem
            values = values_of(self._key, self._files)
        except RowError as err:
            return TarSample(number, self._offset, {KEY: self._key}, err.failure)
        if self._left_out:
            values[TAGS] = {**values[TAGS], LEFT_OUT: self._left_out}
        return TarSample(number, self._offset, values)


def values_of(key: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the columns of a sample.

    Args:
        key: Its name.
        files: Their bytes, by ending.

    Raises:
        RowError: `malformed`, if it has two images or two sounds, or its caption or metadata cannot be read.
    """
    caption, metadata = files.get(CAPTION), files.get(METADATA)
    return {
        KEY: key,
        IMAGE: _only(key, files, IMAGES, "images"),
        AUDIO: _only(key, files, SOUNDS, "sounds"),
        TEXT: None if caption is None else _text(caption, f"{key}.{CAPTION}"),
        TAGS: {} if metadata is None else metadata_of(metadata, f"{key}.{METADATA}"),
    }


def _only(key: str, files: Mapping[str, bytes], endings: frozenset[str], what: str) -> bytes | None:
    found = [ending for ending in files if ending in endings]
    if len(found) > 1:
        message = f"the sample {key!r} has {len(found)} {what} ({', '.join(found)}), and one is embedded"
        raise RowError(Stage.READ, Code.MALFORMED, message)
    return files[found[0]] if found else None


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise RowError(Stage.READ, Code.MALFORMED, f"{name} is not UTF-8 at byte {err.start}") from None


def metadata_of(data: bytes, name: str) -> dict[str, Any]:
    """Return the object in a sample's file of metadata.

    Raises:
        RowError: `malformed`, if it is none.
    """
    try:
        return json_object(_text(data, name), "the file")
    except RowError:
        raise
    except ValueError as err:
        raise RowError(Stage.READ, Code.MALFORMED, f"{name}: {err}") from None
