"""Codes of shards into one file that Faiss opens, list by list: memory does not grow with the rows."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DatasetError
from ..storage.files import Folder, dataset_errors, is_local
from .library import faiss_library, ivf_of
from .manifest import STAGING
from .shard import staged_names

_ID_BYTES = 8
_CHUNK_BYTES, _PIECE_BYTES = 64 * 2**20, 16 * 2**20
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


class Codes(NamedTuple):
    """Codes in a file: of each list the codes, and the ids, which are counted from `first`.

    Attributes:
        path: A local file.
        sizes: (lists,) int64, vectors in each list.
        code_starts: (lists,) int64, the byte at which the codes of each list begin.
        id_starts: (lists,) int64, the byte at which the ids of each begin.
        first: Position that the ids count from.
    """

    path: str
    sizes: np.ndarray
    code_starts: np.ndarray
    id_starts: np.ndarray
    first: int


def merge_codes(trained: Any, parts: Sequence[Codes], target: Path) -> None:
    """Write an index with the codes of all parts.

    Args:
        trained: The index without vectors.
        parts: In order of position.
        target: A local file.

    Raises:
        DatasetError: If a file cannot be read or written.
    """
    ivf = ivf_of(trained)
    code_size = int(ivf.code_size)
    sizes = np.array([part.sizes for part in parts], np.int64).sum(axis=0)
    tail = _empty_lists(trained)
    trained.ntotal = ivf.ntotal = int(sizes.sum())
    head = _serialised(trained).removesuffix(tail)
    trained.ntotal = ivf.ntotal = 0
    with dataset_errors("write", str(target)), target.open("wb") as file:
        file.write(head + _LISTS + struct.pack("<QQ", ivf.nlist, code_size))
        file.write(_FULL + struct.pack("<Q", ivf.nlist) + sizes.astype("<u8").tobytes())
        for lists in _chunks(sizes, code_size + _ID_BYTES):
            if len(lists) == 1:
                for piece in _list_in_pieces(parts, lists[0], code_size):
                    file.write(piece)
                continue
            held = [_read_lists(part, lists, code_size) for part in parts]
            for number in range(len(lists)):
                for codes, _ in held:
                    file.write(codes[number])
                for _, ids in held:
                    file.write(ids[number])


def _chunks(sizes: np.ndarray, row_bytes: int) -> Iterator[range]:
    """Yield spans of lists that are held at a time: at least one, however long."""
    first = held = 0
    for number, size in enumerate(sizes.tolist()):
        if held and held + size * row_bytes > _CHUNK_BYTES:
            yield range(first, number)
            first, held = number, 0
        held += size * row_bytes
    yield range(first, len(sizes))


def _read_lists(part: Codes, lists: range, code_size: int) -> tuple[list[bytes], list[bytes]]:
    """Return codes and ids of some lists of a part."""
    codes, ids = [], []
    with open(part.path, "rb", buffering=0) as source:  # parts may be more than files may be open
        for number in lists:
            size = int(part.sizes[number])
            codes.append(_read(source, int(part.code_starts[number]), size * code_size))
            ids.append(_ids(source, part, int(part.id_starts[number]), size))
    return codes, ids


def _list_in_pieces(parts: Sequence[Codes], number: int, code_size: int) -> Iterator[bytes]:
    """Yield the codes of a list that may be longer than what is held, then its ids."""
    for part in parts:
        start, count = int(part.code_starts[number]), int(part.sizes[number]) * code_size
        with open(part.path, "rb", buffering=0) as source:
            for at in range(0, count, _PIECE_BYTES):
                yield _read(source, start + at, min(_PIECE_BYTES, count - at))
    for part in parts:
        start, size = int(part.id_starts[number]), int(part.sizes[number])
        rows = _PIECE_BYTES // _ID_BYTES
        with open(part.path, "rb", buffering=0) as source:
            for at in range(0, size, rows):
                yield _ids(source, part, start + at * _ID_BYTES, min(rows, size - at))


def _ids(source: Any, part: Codes, start: int, count: int) -> bytes:
    local = np.frombuffer(_read(source, start, count * _ID_BYTES), "<i8")
    return (local + part.first).tobytes()


def _read(source: Any, start: int, count: int) -> bytes:
    if not count:
        return b""
    found = os.pread(source.fileno(), count, start)
    if len(found) != count:
        raise DatasetError(f"{source.name} is cut off: {len(found)} of {count} bytes at {start}; build the index again")
    return found


def staged_codes(folder: Folder, number: int, first: int, lists: int, code_size: int, scratch: Path) -> Codes:
    """Return the codes that a shard has staged.

    Args:
        folder: Of the index.
        number: Of the shard.
        first: Position of its first row.
        lists: How many there are.
        code_size: Bytes of a code.
        scratch: Where copies of files from an object store go.
    """
    path = local_copy(folder, staged_names(number)["codes"], scratch)
    with dataset_errors("read", path):
        sizes = np.fromfile(path, np.int64, lists)
    before = np.concatenate([[0], np.cumsum(sizes)])
    codes = lists * 8 + before[:-1] * code_size
    ids = lists * 8 + before[-1] * code_size + before[:-1] * _ID_BYTES
    return Codes(path, sizes, codes, ids, first)


def codes_of_index(path: str) -> tuple[Any, Codes] | None:
    """Return what `merge_codes` wrote a file from: the index without vectors, and its codes; None of another kind."""
    faiss = faiss_library()
    index = faiss.read_index(path, faiss.IO_FLAG_MMAP)
    ivf = ivf_of(index)
    if ivf is None or not isinstance(faiss.downcast_InvertedLists(ivf.invlists), faiss.OnDiskInvertedLists):
        return None
    sizes = np.array([ivf.invlists.list_size(number) for number in range(ivf.nlist)], np.int64)
    code_size = int(ivf.code_size)
    row = code_size + _ID_BYTES
    end = os.path.getsize(path)
    before = np.concatenate([[0], np.cumsum(sizes)])
    starts = end - (before[-1] - before[:-1]) * row
    empty = faiss.ArrayInvertedLists(ivf.nlist, code_size)
    ivf.replace_invlists(empty, True)
    empty.this.disown()
    index.ntotal = ivf.ntotal = 0
    if not can_merge(index):
        return None
    return index, Codes(path, sizes, starts, starts + sizes * code_size, 0)


def local_copy(folder: Folder, name: str, scratch: Path) -> str:
    """Return the path of a file of the index on this machine, copied if it is in an object store."""
    if is_local(folder.fs):
        return folder.at(name)
    target = scratch / name.replace("/", "-").removeprefix(STAGING)
    with dataset_errors("copy", f"{folder.url}/{name}"):
        folder.fs.get_file(folder.at(name), str(target))
    return str(target)
