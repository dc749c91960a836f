"""A region of memory that a worker and the encoder process share, for the arrays of one call at a time.

It has no name, so that nothing is left of it when both are gone, and needs no `/dev/shm`. Its size is sealed: neither
side can shrink it under the other, and both check every place in it before they read or write there.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...files.json_shape import fits
from .wire import ConnectionLost

MAX_BYTES = 4 * 2**30
"""Bytes of a region."""

_MIN_BYTES = 2**20
_ALIGNMENT = 64
_DTYPES = {"float32": np.float32, "int64": np.int64, "uint8": np.uint8}
_PLACE = {"dtype": str, "shape": [int], "offset": int}
_MAX_DIMENSIONS = 8


class Region:
    """One mapped region."""

    def __init__(self, descriptor: int) -> None:
        """Map a region of `create`, and close the descriptor.

        Raises:
            ConnectionLost: If its size is not sealed.
        """
        try:
            self.nbytes = os.fstat(descriptor).st_size
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
            if not seals & fcntl.F_SEAL_SHRINK or not 0 < self.nbytes <= MAX_BYTES:
                raise ConnectionLost("its shared memory is not sealed")
            self._mapped = mmap.mmap(descriptor, self.nbytes)
        except OSError as err:
            raise ConnectionLost(f"its shared memory cannot be mapped: {err}") from err
        finally:
            os.close(descriptor)

    def view(self, place: Any) -> np.ndarray:
        """Return the array at a place (`dtype`, `shape`, `offset`), without copying it.

        Raises:
            ValueError: If the place is malformed, or not inside of the region.
        """
        if not fits(place, _PLACE) or place["dtype"] not in _DTYPES or len(place["shape"]) > _MAX_DIMENSIONS:
            raise ValueError(f"{place!r} is no place of an array")
        dtype, shape, offset = np.dtype(_DTYPES[place["dtype"]]), place["shape"], place["offset"]
        if min(shape, default=0) < 0 or offset < 0 or offset % _ALIGNMENT:
            raise ValueError(f"{place!r} is no place of an array")
        count = math.prod(shape)
        if offset + count * dtype.itemsize > self.nbytes:
            raise ValueError(f"{place!r} is not inside of {self.nbytes} bytes")
        return np.frombuffer(self._mapped, dtype, count, offset).reshape(shape)

    def write(self, arrays: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Copy arrays, for which there is room (`needed_bytes`), and return their places."""
        places: list[dict[str, Any]] = []
        offset = 0
        for one in arrays:
            places.append({"dtype": one.dtype.name, "shape": list(one.shape), "offset": offset})
            self.view(places[-1])[...] = one
            offset += _aligned(one.nbytes)
        return places


def create(nbytes: int) -> int:
    """Reserve a region of at least `nbytes`, and return its descriptor.

    Raises:
        OSError: If there is not enough memory.
        ValueError: If `nbytes` is out of range.
    """
    if not 0 <= nbytes <= MAX_BYTES:
        raise ValueError(f"{nbytes} bytes of shared memory; at most {MAX_BYTES} are reserved")
    size = max(_MIN_BYTES, 1 << max(0, nbytes - 1).bit_length())
    descriptor = os.memfd_create("clipmill", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, size)  # fails here, not at the first write to a page
        seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def needed_bytes(arrays: Sequence[np.ndarray]) -> int:
    """Return the bytes that `Region.write` needs for arrays."""
    return sum(_aligned(one.nbytes) for one in arrays)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
