"""Files mapped into memory, and letting go of them again.

Pages of a mapped file are shared by all processes of a machine and cost nothing that the system could not take back,
but while a process has touched them they count as its resident memory (`RssFile` in /proc). Letting go costs little:
what the system still has in its cache is mapped again at the next touch, without the disk.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import DatasetError

_MADV_DONTNEED = 4
_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Return what this process holds as the system counts it (RSS), mapped pages included; 0 where it does not say."""
    try:
        return int(_STATM.read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


class MappedArray:
    """A matrix in a `.npy` file, mapped for reading single rows."""

    def __init__(self, path: str, shape: tuple[int, int]) -> None:
        """Map a file.

        Args:
            path: Of the file.
            shape: What its header has to say.

        Raises:
            DatasetError: If it cannot be read, or holds something else.
        """
        try:
            self.array: np.memmap = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as err:
            raise DatasetError(f"{path} cannot be read as an array: {err}; build the index again") from err
        if self.array.shape != shape:
            raise DatasetError(f"{path} holds {self.array.shape}, and the index says {shape}; build the index again")
        self._map: Any = getattr(self.array, "_mmap", None)
        self.advise(random=True)

    def advise(self, *, random: bool) -> None:
        """Say how it is read: here and there, or from its beginning to its end."""
        if self._map is not None and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_RANDOM if random else mmap.MADV_NORMAL)

    def let_go(self) -> None:
        """Give its pages back."""
        if self._map is not None and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)


def let_go_of(address: int, length: int) -> None:
    """Give back the pages of a file that a library has mapped for reading.

    Args:
        address: Where it begins, at the beginning of a page.
        length: Its bytes.
    """
    if os.name == "posix" and address and address % mmap.PAGESIZE == 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), _MADV_DONTNEED)


def let_go_of_freed() -> None:
    """Give back what this process has freed and its allocators have kept: Arrow's, and that of the C library."""
    pa.default_memory_pool().release_unused()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # of glibc alone
        trim(ctypes.c_size_t(0))
