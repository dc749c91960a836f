"""Long lists in compressed parts, in a folder or a temporary file: memory holds a few parts, a pickle their address.

A list `name` of a folder is

    name/<id>-00000.jsonl.gz    a part: an item in each line
    name.json                   the id, a digest of all items, and the number of the first item of each part

The file with the id is written last, and parts of other ids are deleted after it. So a reader gets the list that it
asked for, by its id, or an error; never a mixture of two lists.
"""

from __future__ import annotations

import bisect
import collections
import contextlib
import functools
import gzip
import hashlib
import itertools
import json
import tempfile
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, NamedTuple, Self, TypeVar, overload

import numpy as np

from ..errors import DatasetError
from ..messages import Message
from .file_systems import is_local
from .folder import Folder
from .json_shape import fits
from .json_text import json_text, parse_json

T = TypeVar("T")

_PART_ITEMS, _PART_BYTES = 1000, 2 * 2**20
"""Limits of a part, in items and in bytes before it is compressed: a worker reads a part for one of its items."""
_IN_MEMORY = 8 * 2**20
"""Bytes of compressed parts above which a list that is in no folder goes to a temporary file."""
_CACHED_PARTS = 4
_LEVEL = 1
"""Of compression. Items are so repetitive that a higher level would gain little."""
_AT_ONCE = 16
"""Parts that are written to an object store in parallel; the threads only wait."""

_cache: collections.OrderedDict[tuple[Any, int], list[bytes]] = collections.OrderedDict()
_cache_lock = threading.Lock()


class Codec(NamedTuple):
    """How the items of a list are stored; its functions pickle by their names.

    Attributes:
        encode: Makes a JSON value of an item.
        decode: Makes the item again; raises `ValueError`, `TypeError` or `KeyError` for other values.
        hint: What to do if a stored list is damaged.
    """

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    hint: Message | str = ""


class PartedList(Sequence[T]):
    """A list whose parts are read when they are needed; see `parted` and `store`.

    Iterating holds one part. Equal if the items are. A list in a folder pickles to its address, any other one cannot
    be pickled.
    """

    def __init__(self, source: _Spool | _Stored, codec: Codec) -> None:
        self._source = source
        self._codec = codec

    @property
    def id(self) -> str:
        """A digest of all items."""
        return self._source.id

    @property
    def is_stored(self) -> bool:
        """Whether the list is in a folder."""
        return isinstance(self._source, _Stored)

    def __len__(self) -> int:
        return self._source.starts[-1]

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> list[T]: ...
    def __getitem__(self, at: int | slice) -> T | list[T]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        number = range(len(self))[at]
        part = bisect.bisect_right(self._source.starts, number) - 1
        return self._item(part, self._cached_lines(part)[number - self._source.starts[part]])

    def __iter__(self) -> Iterator[T]:
        for part in range(len(self._source.starts) - 1):
            for line in self._lines(part):
                yield self._item(part, line)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PartedList):
            return self.id == other.id
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_equal, self, other))

    __hash__ = None  # type: ignore[assignment]  # compares with lists

    def __repr__(self) -> str:
        return f"<list {self.id} of {len(self)} items>"

    def _item(self, part: int, line: bytes) -> T:
        try:
            item: T = self._codec.decode(parse_json(line))
        except (ValueError, TypeError, KeyError) as err:
            raise self._damaged(part, err) from err
        return item

    def _cached_lines(self, part: int) -> list[bytes]:
        """Return the encoded items of a part; this process keeps those of the last few parts."""
        key = (self._source.key, part)
        with _cache_lock:
            if key in _cache:
                _cache.move_to_end(key)
                return _cache[key]
        lines = self._lines(part)
        with _cache_lock:
            _cache[key] = lines
            while len(_cache) > _CACHED_PARTS:
                _cache.popitem(last=False)
        return lines

    def _lines(self, part: int) -> list[bytes]:
        """Read the encoded items of a part."""
        try:
            lines = gzip.decompress(self._source.read(part, self._codec)).splitlines()
        except (OSError, EOFError, ValueError, zlib.error) as err:
            raise self._damaged(part, err) from err
        starts = self._source.starts
        if len(lines) != starts[part + 1] - starts[part]:
            raise self._damaged(part, ValueError(f"it has {len(lines)} items"))
        return lines

    def _damaged(self, part: int, error: Exception) -> DatasetError:
        return DatasetError(f"{self._source.name_of(part)} is damaged ({error})", hint=self._codec.hint)


class Chosen(Sequence[T]):
    """Some items of another list, in its order; pickles to that list and a bit for each of its items, compressed."""

    def __init__(self, whole: Sequence[T], positions: Sequence[int] | np.ndarray) -> None:
        """Take the list, and rising positions in it."""
        self._whole = whole
        self._positions = np.asarray(positions, np.int64)

    def of(self, whole: Sequence[T]) -> Chosen[T]:
        """Return the items at the same positions of another list."""
        return Chosen(whole, self._positions)

    @property
    def is_stored(self) -> bool:
        """Whether the other list is in a folder."""
        return is_stored(self._whole)

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> list[T]: ...
    def __getitem__(self, at: int | slice) -> T | list[T]:
        if isinstance(at, slice):
            return [self._whole[number] for number in self._positions[at].tolist()]
        return self._whole[int(self._positions[at])]

    def __iter__(self) -> Iterator[T]:
        for position in self._positions.tolist():  # other parts of the other list are not read
            yield self._whole[position]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_equal, self, other))

    __hash__ = None  # type: ignore[assignment]  # compares with lists

    def __reduce__(self) -> tuple[Any, ...]:
        bits = np.zeros(len(self._whole), bool)
        bits[self._positions] = True
        return _chosen, (self._whole, zlib.compress(np.packbits(bits).tobytes()))


def _equal(one: object, other: object) -> bool:
    return one == other


def _chosen(whole: Sequence[T], bits: bytes) -> Chosen[T]:
    there = np.unpackbits(np.frombuffer(zlib.decompress(bits), np.uint8), count=len(whole))
    return Chosen(whole, np.flatnonzero(there))


def is_stored(items: Sequence[Any]) -> bool:
    """Return whether a list pickles to the address of its items."""
    return isinstance(items, PartedList | Chosen) and items.is_stored


def parted(items: Iterable[T], codec: Codec) -> PartedList[T]:
    """Take items one by one into a list that is in no folder yet; if it is long, it is in a temporary file."""
    spool = _Spool()
    held: list[bytes] = []
    nbytes = 0
    for item in items:
        line = json.dumps(codec.encode(item)).encode("ascii")
        held.append(line)
        nbytes += len(line)
        if len(held) >= _PART_ITEMS or nbytes >= _PART_BYTES:
            spool.add(held)
            held, nbytes = [], 0
    if held:
        spool.add(held)
    return PartedList(spool, codec)


def store(
    items: Iterable[T], folder: Folder, name: str, codec: Codec, *, moved_to: Folder | None = None
) -> PartedList[T]:
    """Write a list into a folder, in the place of one that has the same name; see `open_stored`."""
    made = items if isinstance(items, PartedList) else parted(items, codec)
    urls = [folder.url] if moved_to is None else [folder.url, moved_to.url]
    there = _Stored(urls, name, made.id, made._source.starts)
    parts = range(len(made._source.starts) - 1)
    folder.make(name)

    def write(part: int) -> None:
        folder.write(there.part_name(part), made._source.read(part, codec))

    old = [one for one in folder.list(name) if one.startswith(f"{name}/") and not one.startswith(f"{name}/{made.id}-")]
    if is_local(folder.fs):
        for part in parts:
            write(part)
    else:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(write, parts))
    folder.write(f"{name}.json", json_text({"id": made.id, "starts": made._source.starts}).encode())
    for one in old:
        folder.delete(one)
    return PartedList(there, codec)


def open_stored(folder: Folder, name: str, codec: Codec, *, moved_to: Folder | None = None) -> PartedList[Any] | None:
    """Return the list of a name in a folder, None if there is none.

    Args:
        folder: Where the list is.
        name: Its name.
        codec: How its items are stored.
        moved_to: Where its files may be moved while the list is used.

    Raises:
        DatasetError: If its index is damaged.
    """
    try:
        index = _Index.read(folder, name, codec)
    except FileNotFoundError:
        return None
    urls = [folder.url] if moved_to is None else [folder.url, moved_to.url]
    return PartedList(_Stored(urls, name, index.id, index.starts), codec)


class _Index(NamedTuple):
    """What `name.json` holds."""

    id: str
    starts: list[int]

    @classmethod
    def read(cls, folder: Folder, name: str, codec: Codec) -> Self:
        """Read the index of a list; raise `FileNotFoundError` if there is none, `DatasetError` if it is damaged."""
        content = folder.read(f"{name}.json")
        try:
            found = parse_json(content)
            if not fits(found, {"id": _is_id, "starts": [int]}):
                raise ValueError("clipmill does not write such values")
            starts = found["starts"]
            if starts[:1] != [0] or any(one >= two for one, two in itertools.pairwise(starts)):
                raise ValueError("its parts are not in order")
        except ValueError as err:
            raise DatasetError(f"{folder.url}/{name}.json is damaged ({err})", hint=codec.hint) from err
        return cls(found["id"], starts)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 64 and value.isalnum() and value.isascii()


class _Spool:
    """The parts of a list that is in no folder."""

    def __init__(self) -> None:
        self.starts = [0]
        self._places = [0]
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - lives as long as the list
        weakref.finalize(self, self._file.close)
        self._hash = hashlib.sha256()
        self._lock = threading.Lock()

    @property
    def id(self) -> str:
        return self._hash.hexdigest()[:16]

    @property
    def key(self) -> Any:
        return self.id

    def name_of(self, part: int) -> str:
        return f"part {part} of a temporary list"

    def add(self, lines: list[bytes]) -> None:
        content = b"\n".join(lines) + b"\n"
        self._hash.update(content)
        self._places.append(self._places[-1] + self._file.write(gzip.compress(content, _LEVEL, mtime=0)))
        self.starts.append(self.starts[-1] + len(lines))

    def read(self, part: int, codec: Codec) -> bytes:
        with self._lock:
            self._file.seek(self._places[part])
            content = self._file.read(self._places[part + 1] - self._places[part])
            self._file.seek(self._places[-1])
        return content

    def __reduce__(self) -> Any:
        raise TypeError("a list in a temporary file cannot be pickled; store it in a folder")


class _Stored:
    """The parts of a list in a folder; pickles to its address."""

    def __init__(self, urls: Sequence[str], name: str, id: str, starts: list[int] | None = None) -> None:
        self._urls = urls
        self._name = name
        self.id = id
        self._starts = starts

    def __reduce__(self) -> tuple[Any, ...]:
        return _Stored, (self._urls, self._name, self.id)

    @property
    def starts(self) -> list[int]:
        if self._starts is None:
            self._starts = _starts_of(tuple(self._urls), self._name, self.id)
        return self._starts

    @property
    def key(self) -> Any:
        return tuple(self._urls), self._name, self.id

    def name_of(self, part: int) -> str:
        return f"{self._urls[0]}/{self.part_name(part)}"

    def part_name(self, part: int) -> str:
        return f"{self._name}/{self.id}-{part:05d}.jsonl.gz"

    def read(self, part: int, codec: Codec) -> bytes:
        for url in self._urls:
            try:
                return Folder.of(url).read(self.part_name(part))
            except FileNotFoundError:
                continue
        raise _gone(self.name_of(part))


@functools.lru_cache(maxsize=16)
def _starts_of(urls: tuple[str, ...], name: str, id: str) -> list[int]:
    """Return where the parts of a list begin; a process reads its index once."""
    for url in urls:
        with contextlib.suppress(FileNotFoundError):
            index = _Index.read(Folder.of(url), name, Codec(str, str))
            if index.id == id:
                return index.starts
    raise _gone(f"{urls[0]}/{name}.json of the list {id}")


def _gone(what: str) -> DatasetError:
    return DatasetError(
        f"{what} is gone: the job that this worker was started for has ended, or was started again and planned anew"
    )
