"""Codes and ids in files, list by list: as a worker stages them, and as they are in an index file.

A staged file, sorted by list:           An index file, from `IndexCodes.begin` to its end:

    row offsets of the lists, int64          list 0: codes, then ids, int64
    codes of list 0, list 1, …               list 1: codes, then ids
    ids of list 0, list 1, …, int64          …
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from ..errors import DatasetError
from ..files.file_systems import dataset_errors

ID_BYTES = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Codes:
    """Codes in a file, list after list, with their ids.

    Attributes:
        code_size: Bytes of a code.
        first_id: What is added to the ids in the file.
    """

    path: str
    code_size: int
    first_id: int

    def offsets(self, lists: range) -> np.ndarray:
        """Return the rows before each of some lists, and before the list after them, (n + 1,) int64."""
        raise NotImplementedError

    def locate(self, number: int) -> tuple[int, int, int]:
        """Return the rows of a list, and the bytes at which its codes and its ids begin."""
        raise NotImplementedError

    def read(self, lists: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows of each of some lists, their codes, (rows, code_size) uint8, and their ids, (rows,) int64."""
        raise NotImplementedError

    def read_ids(self, start: int, count: int) -> np.ndarray:
        """Return ids that begin at a byte, counted from `first_id`, (count,) int64."""
        return np.frombuffer(self.read_bytes(start, count * ID_BYTES), "<i8") + self.first_id

    def read_bytes(self, start: int, count: int) -> bytes:
        """Return bytes of the file; raise `DatasetError` if it cannot be read, or ends before."""
        if not count:
            return b""
        # Opened for each read: there may be more files than a process may have open.
        with dataset_errors("read", self.path), open(self.path, "rb", buffering=0) as file:
            found = os.pread(file.fileno(), count, start)
        if len(found) != count:
            raise DatasetError(
                f"{self.path} is cut off: {len(found)} of {count} bytes at {start}; build the index again"
            )
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class StagedCodes(Codes):
    """A file that a `ListEncoder` has staged."""

    rows: int
    lists: int

    def offsets(self, lists: range) -> np.ndarray:
        """See `Codes`: they are at the beginning of the file."""
        return np.frombuffer(self.read_bytes(lists.start * 8, (len(lists) + 1) * 8), "<i8")

    def locate(self, number: int) -> tuple[int, int, int]:
        """See `Codes`."""
        before, after = self.offsets(range(number, number + 1)).tolist()
        return after - before, self._codes + before * self.code_size, self._ids + before * ID_BYTES

    def read(self, lists: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `Codes`: the codes of lists that follow one another are read at once, and so are their ids."""
        offsets = self.offsets(lists)
        before, rows = int(offsets[0]), int(offsets[-1] - offsets[0])
        codes = self.read_bytes(self._codes + before * self.code_size, rows * self.code_size)
        ids = self.read_ids(self._ids + before * ID_BYTES, rows)
        return np.diff(offsets), np.frombuffer(codes, np.uint8).reshape(rows, self.code_size), ids

    @property
    def _codes(self) -> int:
        return (self.lists + 1) * 8

    @property
    def _ids(self) -> int:
        return self._codes + self.rows * self.code_size


@dataclasses.dataclass(frozen=True, slots=True)
class IndexCodes(Codes):
    """The inverted lists at the end of an index file.

    Attributes:
        row_offsets: (lists + 1,) int64, the rows before each list, and the rows of all lists.
        begin: Byte at which the first list begins.
    """

    row_offsets: np.ndarray
    begin: int

    def offsets(self, lists: range) -> np.ndarray:
        """See `Codes`."""
        return self.row_offsets[lists.start : lists.stop + 1]

    def locate(self, number: int) -> tuple[int, int, int]:
        """See `Codes`."""
        before, after = self.offsets(range(number, number + 1)).tolist()
        start = self.begin + before * (self.code_size + ID_BYTES)
        return after - before, start, start + (after - before) * self.code_size

    def read(self, lists: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `Codes`: lists that follow one another are read at once, then codes and ids are separated."""
        sizes, row = np.diff(self.offsets(lists)), self.code_size + ID_BYTES
        rows = int(sizes.sum())
        held = np.frombuffer(self.read_bytes(self.locate(lists.start)[1], rows * row), np.uint8)
        codes, ids = np.empty((rows, self.code_size), np.uint8), np.empty(rows, "<i8")
        done = 0
        for size in sizes.tolist():
            inside = held[done * row : (done + size) * row]
            codes[done : done + size] = inside[: size * self.code_size].reshape(size, self.code_size)
            ids[done : done + size] = inside[size * self.code_size :].view("<i8")
            done += size
        return sizes, codes, ids + self.first_id
