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
import gzip
import json
import operator
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np

from ..errors import DatasetError
from ..messages import Message
from .file_systems import is_local
from .folder import Folder
from .json_text import parse_json
from .list_parts import Index, Spool, Stored

T = TypeVar("T")

_PART_ITEMS, _PART_BYTES = 1000, 2 * 2**20
"""Limits of a part, in items and in bytes before it is compressed: a worker reads a part for one of its items."""
_CACHED_PARTS = 4
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


class _Items(Sequence[T]):
    """A sequence whose items are made when they are asked for; equal to any sequence of equal items."""

    def _at(self, number: int) -> T:
        raise NotImplementedError

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> list[T]: ...
    def __getitem__(self, at: int | slice) -> T | list[T]:
        numbers = range(len(self))[at]
        return [self._at(number) for number in numbers] if isinstance(numbers, range) else self._at(numbers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # compares with lists


class PartedList(_Items[T]):
    """A list whose parts are read when they are needed; see `parted` and `store`.

    Iterating holds one part. Equal if the items are. A list in a folder pickles to its address, any other one cannot
    be pickled.
    """

    def __init__(self, source: Spool | Stored, codec: Codec) -> None:
        self._source = source
        self._codec = codec

    @property
    def id(self) -> str:
        """A digest of all items."""
        return self._source.id

    @property
    def is_stored(self) -> bool:
        """Whether the list is in a folder."""
        return isinstance(self._source, Stored)

    @property
    def part_names(self) -> list[str]:
        """The names of its parts' files in the folder; none if it is not stored."""
        source = self._source
        return [source.part_name(part) for part in range(len(source.starts) - 1)] if isinstance(source, Stored) else []

    def __len__(self) -> int:
        return self._source.starts[-1]

    def _at(self, number: int) -> T:
        part = bisect.bisect_right(self._source.starts, number) - 1
        return self._item(part, self._cached_lines(part)[number - self._source.starts[part]])

    def __iter__(self) -> Iterator[T]:
        for part in range(len(self._source.starts) - 1):
            for line in self._lines(part):
                yield self._item(part, line)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PartedList):
            return self.id == other.id
        return super().__eq__(other)

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
            lines = gzip.decompress(self._source.read(part)).splitlines()
        except (OSError, EOFError, ValueError, zlib.error) as err:
            raise self._damaged(part, err) from err
        starts = self._source.starts
        if len(lines) != starts[part + 1] - starts[part]:
            raise self._damaged(part, ValueError(f"it has {len(lines)} items"))
        return lines

    def _damaged(self, part: int, error: Exception) -> DatasetError:
        return DatasetError(f"{self._source.name_of(part)} is damaged ({error})", hint=self._codec.hint)


class Chosen(_Items[T]):
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

    def _at(self, number: int) -> T:
        return self._whole[int(self._positions[number])]

    def __iter__(self) -> Iterator[T]:
        for position in self._positions.tolist():  # other parts of the other list are not read
            yield self._whole[position]

    def __reduce__(self) -> tuple[Any, ...]:
        bits = np.zeros(len(self._whole), bool)
        bits[self._positions] = True
        return _chosen, (self._whole, zlib.compress(np.packbits(bits).tobytes()))


def _chosen(whole: Sequence[T], bits: bytes) -> Chosen[T]:
    there = np.unpackbits(np.frombuffer(zlib.decompress(bits), np.uint8), count=len(whole))
    return Chosen(whole, np.flatnonzero(there))


def is_stored(items: Sequence[Any]) -> bool:
    """Return whether a list pickles to the address of its items."""
    return isinstance(items, PartedList | Chosen) and items.is_stored


def parted(items: Iterable[T], codec: Codec) -> PartedList[T]:
    """Take items one by one into a list that is in no folder yet; if it is long, it is in a temporary file."""
    spool = Spool()
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
    there = Stored(urls, name, made.id, made._source.starts)
    parts = range(len(made._source.starts) - 1)
    folder.make(name)

    def write(part: int) -> None:
        folder.write(there.part_name(part), made._source.read(part))

    old = [one for one in folder.list(name) if one.startswith(f"{name}/") and not one.startswith(f"{name}/{made.id}-")]
    if is_local(folder.fs):
        for part in parts:
            write(part)
    else:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(write, parts))
    Index(made.id, made._source.starts).write(folder, name)
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
        index = Index.read(folder, name, codec.hint)
    except FileNotFoundError:
        return None
    urls = [folder.url] if moved_to is None else [folder.url, moved_to.url]
    return PartedList(Stored(urls, name, index.id, index.starts), codec)
