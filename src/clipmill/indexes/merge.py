"""Codes of shards into one file that Faiss opens, list by list: memory does not grow with the rows."""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DatasetError
from ..files.file_systems import Folder, dataset_errors, is_local
from .library import faiss_library, ivf_of
from .manifest import STAGING

_ID_BYTES = 8
_CHUNK_BYTES, _PIECE_BYTES = 16 * 2**20, 16 * 2**20
_FULL, _LISTS = b"full", b"ilar"


def can_merge(index: Any) -> bool:
    """Tell whether an index without vectors has inverted lists that stand at the end of its file, one after the other.

    That is so for all kinds but those that pack several codes into a block; they are filled by one process.
    """
    return ivf_of(index) is not None and _serialised(index).endswith(_empty_lists(index))


def _serialised(index: Any) -> bytes:
    return bytes(faiss_library().serialize_index(index).data)


def _empty_lists(index: Any) -> bytes:
    """Return how Faiss writes inverted lists in which nothing is."""
    ivf = ivf_of(index)
    return _LISTS + struct.pack("<QQ", ivf.nlist, ivf.code_size) + b"sprs" + struct.pack("<Q", 0)


@dataclasses.dataclass(frozen=True, slots=True)
class Codes:
    """Codes in a file, list after list, with their ids.

    Attributes:
        path: A local file.
        code_size: Bytes of a code.
        first: Position that the ids count from.
    """

    path: str
    code_size: int
    first: int

    def starts(self, lists: range) -> np.ndarray:
        """Return the rows before each of some lists, and before the list after them, (n + 1,) int64."""
        raise NotImplementedError

    def place(self, number: int) -> tuple[int, int, int]:
        """Return the rows of a list, and the bytes at which its codes and its ids begin."""
        raise NotImplementedError

    def read(self, lists: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows of each of some lists, their codes, (rows, code_size) uint8, and their ids, (rows,) int64."""
        raise NotImplementedError

    def read_bytes(self, start: int, count: int) -> bytes:
        """Return bytes of the file.

        Raises:
            DatasetError: If it cannot be read, or ends before.
        """
        if not count:
            return b""
        with dataset_errors("read", self.path), open(self.path, "rb", buffering=0) as file:  # too many to stay open
            found = os.pread(file.fileno(), count, start)
        if len(found) != count:
            raise DatasetError(
                f"{self.path} is cut off: {len(found)} of {count} bytes at {start}; build the index again"
            )
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class StagedCodes(Codes):
    """What a `Coder` has staged: rows before each list and in all, then all codes, then all ids.

    Attributes:
        rows: In the file.
        lists: How many there are.
    """

    rows: int
    lists: int

    def starts(self, lists: range) -> np.ndarray:
        """Read them from the head of the file."""
        return np.frombuffer(self.read_bytes(lists.start * 8, (len(lists) + 1) * 8), "<i8")

    def place(self, number: int) -> tuple[int, int, int]:
        """See `Codes`."""
        before, after = self.starts(range(number, number + 1)).tolist()
        return after - before, self._head + before * self.code_size, self._ids + before * _ID_BYTES

    def read(self, lists: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `Codes`: lists that follow one another do so here."""
        starts = self.starts(lists)
        before, rows = int(starts[0]), int(starts[-1] - starts[0])
        codes = self.read_bytes(self._head + before * self.code_size, rows * self.code_size)
        ids = self.read_bytes(self._ids + before * _ID_BYTES, rows * _ID_BYTES)
        return np.diff(starts), np.frombuffer(codes, np.uint8).reshape(rows, self.code_size), np.frombuffer(ids, "<i8")

    @property
    def _head(self) -> int:
        return (self.lists + 1) * 8

    @property
    def _ids(self) -> int:
        return self._head + self.rows * self.code_size


@dataclasses.dataclass(frozen=True, slots=True)
class IndexCodes(Codes):
    """The end of an index file: of each list its codes, then its ids.

    Attributes:
        rows_before: (lists + 1,) int64, rows before each list, and in all.
        begin: Byte at which the first list begins.
    """

    rows_before: np.ndarray
    begin: int

    def starts(self, lists: range) -> np.ndarray:
        """See `Codes`."""
        return self.rows_before[lists.start : lists.stop + 1]

    def place(self, number: int) -> tuple[int, int, int]:
        """See `Codes`."""
        before, after = self.starts(range(number, number + 1)).tolist()
        start = self.begin + before * (self.code_size + _ID_BYTES)
        return after - before, start, start + (after - before) * self.code_size

    def read(self, lists: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `Codes`."""
        sizes, row = np.diff(self.starts(lists)), self.code_size + _ID_BYTES
        rows = int(sizes.sum())
        held = np.frombuffer(self.read_bytes(self.place(lists.start)[1], rows * row), np.uint8)
        codes, ids = np.empty((rows, self.code_size), np.uint8), np.empty(rows, "<i8")
        done = 0
        for size in sizes.tolist():
            inside = held[done * row : (done + size) * row]
            codes[done : done + size] = inside[: size * self.code_size].reshape(size, self.code_size)
            ids[done : done + size] = inside[size * self.code_size :].view("<i8")
            done += size
        return sizes, codes, ids


def merge_codes(trained: Any, parts: Sequence[Codes], target: Path) -> None:
    """Write an index with the codes of all parts.

    Of a part nothing is held but where it is, and what is read of some lists at a time.

    Args:
        trained: The index without vectors.
        parts: In order of position.
        target: A local file.

    Raises:
        DatasetError: If a file cannot be read or written.
    """
    ivf = ivf_of(trained)
    code_size = int(ivf.code_size)
    sizes = np.zeros(ivf.nlist, np.int64)
    for part in parts:
        sizes += np.diff(part.starts(range(ivf.nlist)))
    tail = _empty_lists(trained)
    trained.ntotal = ivf.ntotal = int(sizes.sum())
    head = _serialised(trained).removesuffix(tail)
    trained.ntotal = ivf.ntotal = 0
    with dataset_errors("write", str(target)), target.open("wb") as file:
        file.write(head + _LISTS + struct.pack("<QQ", ivf.nlist, code_size))
        file.write(_FULL + struct.pack("<Q", ivf.nlist) + sizes.astype("<u8").tobytes())
        for lists in _chunks(sizes, code_size + _ID_BYTES):
            if len(lists) == 1:
                file.writelines(_list_in_pieces(parts, lists[0]))
            else:
                file.writelines(_lists_together(parts, lists, sizes[lists.start : lists.stop]))


def _chunks(sizes: np.ndarray, row_bytes: int) -> Iterator[range]:
    """Yield spans of lists that are held at a time: at least one, however long."""
    first = held = 0
    for number, size in enumerate(sizes.tolist()):
        if number > first and held + size * row_bytes > _CHUNK_BYTES:
            yield range(first, number)
            first, held = number, 0
        held += size * row_bytes
    yield range(first, len(sizes))


def _lists_together(parts: Sequence[Codes], lists: range, sizes: np.ndarray) -> Iterator[memoryview]:
    """Yield codes and ids of lists, one after the other; a list has the rows of the first part first, and so on.

    Args:
        parts: In order of position.
        lists: Which.
        sizes: Rows of each in all parts.
    """
    starts = np.cumsum(sizes) - sizes
    codes, ids = np.empty((int(sizes.sum()), parts[0].code_size), np.uint8), np.empty(int(sizes.sum()), "<i8")
    free = starts.copy()
    for part in parts:
        here, found, numbers = part.read(lists)
        places = np.repeat(free - (np.cumsum(here) - here), here) + np.arange(len(numbers))
        codes[places], ids[places] = found, numbers + part.first
        free += here
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        yield codes[start : start + size].data
        yield ids[start : start + size].data


def _list_in_pieces(parts: Sequence[Codes], number: int) -> Iterator[bytes]:
    """Yield the codes of a list that may be longer than what is held, then its ids."""
    for part in parts:
        size, codes_start, _ = part.place(number)
        count = size * part.code_size
        for at in range(0, count, _PIECE_BYTES):
            yield part.read_bytes(codes_start + at, min(_PIECE_BYTES, count - at))
    rows = _PIECE_BYTES // _ID_BYTES
    for part in parts:
        size, _, ids_start = part.place(number)
        for at in range(0, size, rows):
            held = part.read_bytes(ids_start + at * _ID_BYTES, min(rows, size - at) * _ID_BYTES)
            yield (np.frombuffer(held, "<i8") + part.first).tobytes()


def codes_of_index(path: str) -> tuple[Any, Codes] | None:
    """Return what `merge_codes` wrote a file from: the index without vectors, and its codes; None of another kind."""
    faiss = faiss_library()
    index = faiss.read_index(path, faiss.IO_FLAG_MMAP)
    ivf = ivf_of(index)
    if ivf is None or not isinstance(faiss.downcast_InvertedLists(ivf.invlists), faiss.OnDiskInvertedLists):
        return None
    sizes = [ivf.invlists.list_size(number) for number in range(ivf.nlist)]
    code_size = int(ivf.code_size)
    before = np.cumsum([0, *sizes], dtype=np.int64)
    begin = os.path.getsize(path) - int(before[-1]) * (code_size + _ID_BYTES)
    empty = faiss.ArrayInvertedLists(ivf.nlist, code_size)
    ivf.replace_invlists(empty, True)
    empty.this.disown()
    index.ntotal = ivf.ntotal = 0
    if not can_merge(index):
        return None
    return index, IndexCodes(path, code_size, 0, before, begin)


def local_copy(folder: Folder, name: str, scratch: Path) -> str:
    """Return the path of a file of the index on this machine, copied if it is in an object store."""
    if is_local(folder.fs):
        return folder.at(name)
    target = scratch / name.replace("/", "-").removeprefix(STAGING)
    with dataset_errors("copy", f"{folder.url}/{name}"):
        folder.fs.get_file(folder.at(name), str(target))
    return str(target)
