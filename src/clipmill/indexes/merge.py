"""The codes of shards, merged into one file that Faiss opens; memory does not grow with the rows or the shards.

    workers    sort the codes of their rows by list, and stage them         part 0     part 1     …
    merge      copies list 0 of all parts, list 1 of all parts, …             └──────────┴─► index.faiss

The file is byte for byte what `faiss.write_index` makes of an index to which all vectors were added in order:

    head       the trained index, serialised by Faiss without its lists     Faiss's bytes, with ntotal set
    lists      b"ilar", nlist, code_size, b"full", nlist, rows of each list, uint64
    then       of each list its codes, then its ids

Only the second and third line are written here. `can_merge` compares that layout with what the installed Faiss makes of
empty lists, and `_check_reads_back` opens the result with Faiss before anybody uses it. `faiss.OnDiskInvertedLists`
could write them instead; docs/indexes.md says why it does not.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DatasetError
from ..files.file_systems import dataset_errors
from .codes import ID_BYTES, Codes, IndexCodes
from .library import faiss_library, ivf_of, reason_of

_CHUNK_BYTES = 16 * 2**20
"""Codes and ids that are held at a time."""
_CHECKED_LISTS = 32
"""Lists of which rows are compared after merging."""
_FULL, _LISTS = b"full", b"ilar"


def can_merge(index: Any) -> bool:
    """Return whether the inverted lists of an empty index are at the end of its file, one after the other.

    They are in all kinds but those that pack several codes into a block, which one process fills, and in kinds without
    lists.
    """
    return ivf_of(index) is not None and _serialised(index).endswith(_empty_lists(index))


def _serialised(index: Any) -> bytes:
    return bytes(faiss_library().serialize_index(index).data)


def _empty_lists(index: Any) -> bytes:
    """Return how Faiss writes inverted lists that are all empty."""
    ivf = ivf_of(index)
    return _LISTS + struct.pack("<QQ", ivf.nlist, ivf.code_size) + b"sprs" + struct.pack("<Q", 0)


def merge_codes(trained: Any, parts: Sequence[Codes], target: Path) -> None:
    """Write an index with the codes of all parts, by position; raise `DatasetError` if Faiss cannot read it."""
    ivf = ivf_of(trained)
    code_size = int(ivf.code_size)
    sizes = np.zeros(ivf.nlist, np.int64)
    for part in parts:
        sizes += np.diff(part.offsets(range(ivf.nlist)))
    tail = _empty_lists(trained)
    trained.ntotal = ivf.ntotal = int(sizes.sum())
    head = _serialised(trained).removesuffix(tail)
    trained.ntotal = ivf.ntotal = 0
    with dataset_errors("write", str(target)), target.open("wb") as file:
        file.write(head + _LISTS + struct.pack("<QQ", ivf.nlist, code_size))
        file.write(_FULL + struct.pack("<Q", ivf.nlist) + sizes.astype("<u8").tobytes())
        for lists in _chunks(sizes, code_size + ID_BYTES):
            if len(lists) == 1:
                file.writelines(_one_list(parts, lists[0]))
            else:
                file.writelines(_several_lists(parts, lists, sizes[lists.start : lists.stop]))
    _check_reads_back(target, parts, sizes)


def _chunks(sizes: np.ndarray, row_bytes: int) -> Iterator[range]:
    """Yield the lists that are held at a time: at least one, however long."""
    first = held = 0
    for number, size in enumerate(sizes.tolist()):
        if number > first and held + size * row_bytes > _CHUNK_BYTES:
            yield range(first, number)
            first, held = number, 0
        held += size * row_bytes
    yield range(first, len(sizes))


def _several_lists(parts: Sequence[Codes], lists: range, sizes: np.ndarray) -> Iterator[memoryview]:
    """Yield codes and ids of each list; a list has the rows of the first part first, and so on."""
    starts = np.cumsum(sizes) - sizes
    codes, ids = np.empty((int(sizes.sum()), parts[0].code_size), np.uint8), np.empty(int(sizes.sum()), "<i8")
    free = starts.copy()  # where the next row of each list goes
    for part in parts:
        rows, part_codes, part_ids = part.read(lists)
        # Row r of the part is row r - (rows of lists before) of its list, which continues at `free`.
        places = np.repeat(free - (np.cumsum(rows) - rows), rows) + np.arange(len(part_ids))
        codes[places], ids[places] = part_codes, part_ids
        free += rows
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        yield codes[start : start + size].data
        yield ids[start : start + size].data


def _one_list(parts: Sequence[Codes], number: int) -> Iterator[bytes]:
    """Yield the codes of a list that may be longer than what is held, then its ids."""
    for part in parts:
        size, codes_start, _ = part.locate(number)
        count = size * part.code_size
        for at in range(0, count, _CHUNK_BYTES):
            yield part.read_bytes(codes_start + at, min(_CHUNK_BYTES, count - at))
    rows = _CHUNK_BYTES // ID_BYTES
    for part in parts:
        size, _, ids_start = part.locate(number)
        for at in range(0, size, rows):
            yield part.read_ids(ids_start + at * ID_BYTES, min(rows, size - at)).tobytes()


def _check_reads_back(target: Path, parts: Sequence[Codes], sizes: np.ndarray) -> None:
    """Compare what Faiss reads in a merged file with what was written.

    Compared are the number of vectors, the length of every list, and of some lists all ids, which rise, and the first
    and the last row with those in the parts.

    Raises:
        DatasetError: If something differs, as it would with a Faiss that lays its files out in another way.
    """
    faiss = faiss_library()
    try:
        index = faiss.read_index(str(target), faiss.IO_FLAG_MMAP)
        lists = ivf_of(index).invlists
        found = np.array([lists.list_size(number) for number in range(lists.nlist)])
        same = index.ntotal == sizes.sum() and np.array_equal(found, sizes)
        filled = np.flatnonzero(sizes)
        for number in filled[:: max(1, len(filled) // _CHECKED_LISTS)].tolist() if same else []:
            ids = faiss.rev_swig_ptr(lists.get_ids(number), int(sizes[number]))
            codes = faiss.rev_swig_ptr(lists.get_codes(number), int(sizes[number]) * int(lists.code_size))
            first, last = _row(parts, number, 0), _row(parts[::-1], number, -1)
            same = same and first == (ids[0], codes[: lists.code_size].tobytes())
            same = same and last == (ids[-1], codes[-lists.code_size :].tobytes())
            same = same and _is_rising(ids)
        problem = "" if same else "it finds other rows than were written"
    except RuntimeError as err:
        problem = reason_of(err)
    if problem:
        raise DatasetError(
            f"Faiss {faiss.__version__} does not read the merged index {target}: {problem}; clipmill writes the layout "
            "of faiss-cpu 1.15: install that release and build the index again"
        )


def _is_rising(ids: np.ndarray) -> bool:
    """Return whether ids rise; a list may hold more of them than memory, so that they are compared in pieces."""
    step = _CHUNK_BYTES // ID_BYTES
    return all((np.diff(ids[at : at + step + 1]) > 0).all() for at in range(0, len(ids), step))


def _row(parts: Sequence[Codes], number: int, row: int) -> tuple[int, bytes]:
    """Return the id and the code of the first (0) or last (-1) row of a list in the first part that has one."""
    for part in parts:
        size, codes_start, ids_start = part.locate(number)
        if size:
            at = row % size
            code = part.read_bytes(codes_start + at * part.code_size, part.code_size)
            return int(part.read_ids(ids_start + at * ID_BYTES, 1)[0]), code
    raise AssertionError(f"no part has a row of list {number}")


def codes_of_index(path: str) -> tuple[Any, Codes] | None:
    """Return what `merge_codes` made a file of: the index without vectors, and its codes; None for other kinds."""
    faiss = faiss_library()
    index = faiss.read_index(path, faiss.IO_FLAG_MMAP)
    ivf = ivf_of(index)
    if ivf is None or not isinstance(faiss.downcast_InvertedLists(ivf.invlists), faiss.OnDiskInvertedLists):
        return None
    sizes = [ivf.invlists.list_size(number) for number in range(ivf.nlist)]
    code_size = int(ivf.code_size)
    offsets = np.cumsum([0, *sizes], dtype=np.int64)
    begin = os.path.getsize(path) - int(offsets[-1]) * (code_size + ID_BYTES)
    empty = faiss.ArrayInvertedLists(ivf.nlist, code_size)
    ivf.replace_invlists(empty, True)
    empty.this.disown()
    index.ntotal = ivf.ntotal = 0
    if not can_merge(index):
        return None
    return index, IndexCodes(path, code_size, 0, offsets, begin)
