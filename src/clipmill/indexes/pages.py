"""Memory-mapped files, and releasing their pages.

All processes of a machine share the pages of a mapped file, and the kernel can reclaim them at any time. Yet the pages
that a process has touched count as its resident memory (`RssFile` in /proc). Releasing them is cheap: a page that is
still in the kernel's cache is mapped again at the next access, without reading the disk.
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
    """Return the resident memory of this process, mapped pages included; 0 where /proc does not have it."""
    try:
        return int(_STATM.read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


class MappedArray:
    """A matrix in a `.npy` file, mapped for reading single rows."""

    def __init__(self, path: str, shape: tuple[int, int]) -> None:
        """Map a file; raise `DatasetError` if it cannot be read, or has another shape."""
        try:
            self.array: np.memmap = np.lib.format.open_memmap(path, mode="r")
        except Exception as err:  # of a damaged header numpy raises errors of Python's parser, too
            raise DatasetError(f"{path} cannot be read as an array: {err}; build the index again") from err
        if self.array.dtype not in (np.float16, np.float32):
            raise DatasetError(f"{path} holds values of type {self.array.dtype}; build the index again")
        if self.array.shape != shape:
            raise DatasetError(
                f"{path} has the shape {self.array.shape}, and the manifest has {shape}; build the index again"
            )
        self._map: Any = getattr(self.array, "_mmap", None)
        self.advise(random=True)

    def advise(self, *, random: bool) -> None:
        """Tell the kernel whether rows are read at random or in order."""
        if self._map is not None and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_RANDOM if random else mmap.MADV_NORMAL)

    def release_pages(self) -> None:
        """Release its pages."""
        if self._map is not None and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)


def release_pages(address: int, length: int) -> None:
    """Release pages of a file that a library has mapped read-only; `address` is ignored if no page starts there."""
    if os.name == "posix" and address and address % mmap.PAGESIZE == 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), _MADV_DONTNEED)


def trim_heap() -> None:
    """Return freed memory that the allocators of Arrow and of the C library keep to the system."""
    pa.default_memory_pool().release_unused()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # only glibc has it
        trim(ctypes.c_size_t(0))
