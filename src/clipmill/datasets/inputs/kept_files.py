"""The files of an input beside those of a previous plan, by path, without holding either.

The listing goes to a temporary list; memory has a number of 64 bits and a position for each of its files.
"""

from __future__ import annotations

import array
import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ...files.parted_list import Codec, parted
from .walking import Listed


def _decode(fields: list[object]) -> Listed:
    path, size, version, beside = fields
    return Listed(path, size, version, tuple(beside))  # type: ignore[arg-type]  # this process has encoded them


_CODEC = Codec(list, _decode)


class KeptFiles:
    """Finds listed files by their paths, and those that nobody asked for."""

    def __init__(self, files: Iterable[Listed]) -> None:
        """Take the files, whose paths differ."""
        hashes = array.array("Q")

        def hashed() -> Iterator[Listed]:
            for file in files:
                hashes.append(_hash_of(file.path))
                yield file

        self._files = parted(hashed(), _CODEC)
        self._order = np.argsort(np.frombuffer(hashes, np.uint64), kind="stable") if hashes else np.empty(0, np.int64)
        self._hashes = np.frombuffer(hashes, np.uint64)[self._order] if hashes else np.empty(0, np.uint64)
        self._is_kept = np.zeros(len(self._hashes), bool)

    def take(self, paths: Sequence[str]) -> list[Listed]:
        """Return the files with these paths that were listed, in this order; each is returned once."""
        wanted = np.fromiter(map(_hash_of, paths), np.uint64, len(paths))
        firsts = np.searchsorted(self._hashes, wanted)
        found = []
        for path, hashed, place in zip(paths, wanted, firsts.tolist(), strict=True):
            while place < len(self._hashes) and self._hashes[place] == hashed:  # nearly always one
                at = int(self._order[place])
                if not self._is_kept[at] and (file := self._files[at]).path == path:
                    self._is_kept[at] = True
                    found.append(file)
                    break
                place += 1
        return found

    def others(self) -> Iterator[Listed]:
        """Yield the files that were not taken, in the order of the listing."""
        for at, file in enumerate(self._files):
            if not self._is_kept[at]:
                yield file


def _hash_of(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
