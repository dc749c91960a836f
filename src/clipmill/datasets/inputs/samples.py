"""Samples in the layout of img2dataset and webdataset: files that share a name, such as an image and its caption.

In a tar the files of a sample follow each other (`000000012.jpg`, `000000012.json`, `000000012.txt`); in a folder they
are in the same folder. The shared part of the name, up to its first dot, is the sample's key.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa

from ...encoders.item import Uri
from ...errors import ClipmillError
from ...failures import Code, Failure, RowError, Stage
from ...files.file_systems import open_input
from .lines import RecordTooLargeError, json_object
from .sidecars import IMAGE_EXTENSIONS
from .source_row import failure_of
from .tars import BrokenTarError, Member, TarStream

AUDIO_EXTENSIONS = frozenset(["wav", "flac", "mp3", "ogg", "oga", "opus", "m4a", "aac"])
CAPTION, METADATA = "txt", "json"
KEY, IMAGE, AUDIO, TEXT, TAGS = "key", "image", "audio", "text", "tags"
SAMPLE_COLUMNS = (KEY, IMAGE, AUDIO, TEXT, TAGS)
ARCHIVE, OFFSET, SIZE = "archive", "offset", "size"
PLACE_COLUMNS = {ARCHIVE: pa.string(), OFFSET: pa.int64(), SIZE: pa.int64()}
"""Columns of a tar's samples that say where the image, else the audio, can be read again: the archive, the byte at
which the content begins, and how many bytes it has. The offset is null in a compressed archive; both are null in a
sample that has none, or several images of which columns are made."""
LEFT_OUT = "left_out"
"""Tag that lists the extensions of a sample's files that are in no column."""
_READ = IMAGE_EXTENSIONS | AUDIO_EXTENSIONS | {CAPTION, METADATA}
_OPENERS = 8
"""Files that are opened in parallel; the threads mostly wait for object stores."""
_FILES_AHEAD = 16
"""Files whose captions and metadata are in memory; together they may have `max_fetch_bytes` 32 times."""
MAX_FILE_BYTES = 64 * 2**20
"""Default maximum bytes of one file of a sample; the spec's `max_fetch_bytes` overrides it."""
MAX_FILES_OF_LIMIT = 2
"""Maximum bytes of all files of a sample that are read, in files of the maximum size: an image and an audio clip."""
MAX_SAMPLE_FILES = 4096
"""Maximum files of a sample in a tar; further files with its key belong to it, and it fails."""
_MAX_ENDING = 255
"""Characters of an extension that are compared; no file system has longer names."""


class TarSample(NamedTuple):
    """A sample of an archive.

    Attributes:
        number: Its number among the samples, from 0.
        offset: Byte at which its first header begins.
        values: `key`, `image`, `audio` (bytes or None), `text` (the caption or None) and `tags` (a dict), and of a
            tar's samples `offset` and `size` (see `PLACE_COLUMNS`); only the key if the sample could not be read.
    """

    number: int
    offset: int
    values: dict[str, Any]
    failure: Failure | None = None


def member_columns(reads: Mapping[str, str]) -> dict[str, str]:
    """Return the columns that a plan reads and that are files of a sample, by their endings: `jpg`, `left.png`."""
    return {path: kind for path, kind in reads.items() if path.split(".")[0] not in SAMPLE_COLUMNS}


def read_samples(
    stream: TarStream,
    *,
    start: int = 0,
    stop: int | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
    members: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[TarSample]:
    """Yield the samples of an archive: consecutive files with the same key.

    A file whose extension the sample already has starts another sample with that key. Names that begin with a dot are
    skipped.

    Args:
        stream: An archive, positioned at a sample's first header.
        start: Number of that sample.
        stop: Number of the sample before which reading ends; None reads to the end of the archive.
        max_file_bytes: Maximum bytes of one file; a larger one is not read, and its sample fails. All files of a sample
            may have twice as many.
        members: Endings of files that are columns of their own, each with its kind: `text` is decoded. Such a column is
            None in samples without the file.

    Raises:
        BrokenTarError, OSError, EOFError, zlib.error: If reading fails. The last sample is yielded before that, if its
            image or audio is complete.
    """
    number = start
    gathered: _SampleFiles | None = None
    try:
        for member in stream.members():
            key, ending = split_name(member.name)
            if key is None:
                continue
            if gathered is not None and not gathered.accepts(key, ending):
                yield gathered.sample(number)
                gathered, number = None, number + 1
                if number == stop:
                    return
            gathered = gathered or _SampleFiles(key, member.offset, members)
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
    """Yield the files that a job listed as samples; `image` and `audio` are both the file's URI, `key` is its path.

    Args:
        paths: Paths of the images and audio clips.
        beside: Extensions of the sidecar files of each path; empty if no file has any.
        max_file_bytes: Maximum bytes of a caption or metadata file; the sample of a larger one fails.
    """

    def fetched(number: int) -> list[bytes] | Failure:
        contents = []
        for ending in beside[number]:
            name = _sidecar(paths[number], ending)
            try:
                contents.append(_small_file(name, max_file_bytes))
            except ClipmillError:
                raise
            except Exception as err:  # drivers of object stores raise errors of their own
                return failure_of(err, name)
        return contents

    if not any(beside):
        yield from (_sample_of_file(number, path, (), []) for number, path in enumerate(paths))
        return
    with ThreadPoolExecutor(_OPENERS) as pool:  # parsed when they are needed: JSON may take 50 times its bytes
        ahead: collections.deque[Future[list[bytes] | Failure]] = collections.deque()
        for number, path in enumerate(paths):
            while len(ahead) < min(_FILES_AHEAD, len(paths) - number):
                ahead.append(pool.submit(fetched, number + len(ahead)))
            yield _sample_of_file(number, path, beside[number], ahead.popleft().result())


def _sidecar(path: str, ending: str) -> str:
    return os.path.splitext(path)[0] + ending


def _sample_of_file(number: int, path: str, endings: Sequence[str], contents: list[bytes] | Failure) -> TarSample:
    uri = Uri(path, trusted=True)
    values: dict[str, Any] = {KEY: path, IMAGE: uri, AUDIO: uri, TEXT: None, TAGS: {}}
    if isinstance(contents, Failure):
        return TarSample(number, 0, values, contents)
    try:
        for ending, data in zip(endings, contents, strict=True):
            name = _sidecar(path, ending)
            if ending == f".{CAPTION}":
                values[TEXT] = _text(data, name)
            else:
                values[TAGS] = metadata_of(data, name)
    except RowError as err:
        return TarSample(number, 0, values, err.failure)
    return TarSample(number, 0, values)


def _small_file(path: str, max_bytes: int) -> bytes:
    with open_input(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise RowError(Stage.READ, Code.TOO_LARGE, f"{path} has more bytes than max_fetch_bytes, {max_bytes}")
    return data


def sample_starts(stream: TarStream, every: int) -> Iterator[int]:
    """Yield the byte offset of every `every`-th sample of an archive; reads only headers.

    If the archive is broken, no more offsets follow, so that the last shard reaches to the archive's end.
    """
    seen: set[str] = set()
    last, number = None, 0
    try:
        for member in stream.members():
            key, ending = split_name(member.name)
            if key is None:
                continue
            if key != last or (ending in seen and len(seen) < MAX_SAMPLE_FILES):
                if number % every == 0:
                    yield member.offset
                last, number = key, number + 1
                seen.clear()
            if len(seen) < MAX_SAMPLE_FILES:
                seen.add(ending)
    except BrokenTarError:
        return


def split_name(name: str) -> tuple[str | None, str]:
    """Return the key of a file and its extension, in lower case without the first dot; a hidden file has no key."""
    folder, base = os.path.split(name)
    stem, _, ending = base.partition(".")
    if not stem:
        return None, ""
    return (f"{folder}/{stem}" if folder else stem), ending.lower()[:_MAX_ENDING]


class _SampleFiles:
    """Collects the files of one sample."""

    def __init__(self, key: str, offset: int, members: Mapping[str, str]) -> None:
        self._key = key
        self._offset = offset
        self._members = members
        self._wanted = _READ | {name.lower() for name in members}
        self._files: dict[str, bytes] = {}
        self._places: dict[str, tuple[int | None, int]] = {}
        self._nbytes = 0
        self._endings: set[str] = set()
        self._left_out: list[str] = []
        self._problem: RowError | None = None

    @property
    def has_content(self) -> bool:
        return self._problem is not None or not self._files.keys().isdisjoint(self._wanted - {CAPTION, METADATA})

    def accepts(self, key: str, ending: str) -> bool:
        return key == self._key and (ending not in self._endings or len(self._endings) >= MAX_SAMPLE_FILES)

    def add(self, stream: TarStream, member: Member, ending: str, max_bytes: int) -> None:
        if len(self._endings) >= MAX_SAMPLE_FILES:
            self._fail(Code.TOO_LARGE, f"the sample has more than {MAX_SAMPLE_FILES} files")
            return
        self._endings.add(ending)
        name = f"{member.name!r:.300}"
        if ending not in self._wanted:
            self._left_out.append(ending)
        elif member.is_sparse:
            self._fail(Code.UNSUPPORTED, f"{name} is a sparse file (--sparse), which is not supported")
        elif member.size > max_bytes:
            self._fail(Code.TOO_LARGE, f"{name} has {member.size} bytes, and max_fetch_bytes is {max_bytes}")
        elif self._nbytes + member.size > MAX_FILES_OF_LIMIT * max_bytes:
            message = (
                f"with {name}, the sample's files have over {MAX_FILES_OF_LIMIT} times max_fetch_bytes, {max_bytes}"
            )
            self._fail(Code.TOO_LARGE, message)
        elif self._problem is None:
            self._files[ending] = stream.read()
            self._places[ending] = (None if stream.is_compressed else member.content, member.size)
            self._nbytes += member.size

    def _fail(self, code: Code, message: str) -> None:
        """Keep the first problem of the sample, and release its files."""
        self._problem = self._problem or RowError(Stage.READ, code, message)
        self._files.clear()

    def sample(self, number: int) -> TarSample:
        try:
            if self._problem is not None:
                raise self._problem
            values = values_of(self._key, self._files, self._members)
        except RowError as err:
            return TarSample(number, self._offset, {KEY: self._key}, err.failure)
        if self._left_out:
            values[TAGS] = {**values[TAGS], LEFT_OUT: self._left_out}
        return TarSample(number, self._offset, {**dict(zip((OFFSET, SIZE), self._place(), strict=True)), **values})

    def _place(self) -> tuple[int | None, int | None]:
        """Return where the sample's only image is, or if it has none, its only audio file."""
        for kind in (IMAGE_EXTENSIONS, AUDIO_EXTENSIONS):
            found = [place for ending, place in self._places.items() if ending.rpartition(".")[2] in kind]
            if found:
                return found[0] if len(found) == 1 else (None, None)
        return None, None


def values_of(
    key: str, files: Mapping[str, bytes], members: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the columns of a sample from its key and the bytes of its files by extension; see `read_samples`.

    Raises:
        RowError: `malformed`, if it has two images or two audio files, or its caption or metadata cannot be read.
    """
    caption, metadata = files.get(CAPTION), files.get(METADATA)
    own: dict[str, Any] = {name: files.get(name.lower()) for name in members}
    for name, kind in members.items():
        if kind == "text" and own[name] is not None:
            own[name] = _text(own[name], f"{key}.{name}")
    rest = {ending: data for ending, data in files.items() if ending not in {name.lower() for name in members}}
    return {
        **own,
        KEY: key,
        IMAGE: _single(key, rest, IMAGE_EXTENSIONS, "images"),
        AUDIO: _single(key, rest, AUDIO_EXTENSIONS, "audio files"),
        TEXT: None if caption is None else _text(caption, f"{key}.{CAPTION}"),
        TAGS: {} if metadata is None else metadata_of(metadata, f"{key}.{METADATA}"),
    }


def _single(key: str, files: Mapping[str, bytes], endings: frozenset[str], what: str) -> bytes | None:
    found = [ending for ending in files if ending in endings]
    if len(found) > 1:
        message = f"the sample {key!r} has {len(found)} {what} ({', '.join(found)}), but must have one"
        raise RowError(Stage.READ, Code.MALFORMED, message)
    return files[found[0]] if found else None


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise RowError(Stage.READ, Code.MALFORMED, f"{name} is not UTF-8 at byte {err.start}") from None


def metadata_of(data: bytes, name: str) -> dict[str, Any]:
    """Parse a sample's metadata file; raise a `RowError` if it is not a JSON object, or too large."""
    try:
        return json_object(_text(data, name), "the file")
    except RowError:
        raise
    except ValueError as err:
        code = Code.TOO_LARGE if isinstance(err, RecordTooLargeError) else Code.MALFORMED
        raise RowError(Stage.READ, code, f"{name}: {err}") from None
