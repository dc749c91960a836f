"""`ListEncoder`: encodes vectors for inverted lists, and stages the codes, sorted by list, for merging."""

from __future__ import annotations

import numpy as np

from ..files.file_systems import dataset_errors
from ..files.folder import Folder
from .library import faiss_library, ivf_of
from .shard_files import temporary_of
from .staged import StagedFiles, read_staged

_ROW_BYTES = 24
"""Memory of a row beside its code: its list, and its number while rows are sorted by list."""


def rows_held(code_bytes: int, held_bytes: int) -> int:
    """Return of how many rows the codes are held at a time, in at most `held_bytes`."""
    return max(1024, held_bytes // (code_bytes + _ROW_BYTES))


class ListEncoder:
    """Encodes vectors for inverted lists, and stages the codes whenever its buffer is full.

    Attributes:
        parts: The staged files: name and rows of each, in order.
    """

    def __init__(self, folder: Folder, staged: StagedFiles, shard: int, held_bytes: int) -> None:
        """Read the index that was trained for this run; the buffer is of `held_bytes`."""
        faiss = faiss_library()
        self.parts: list[tuple[str, int]] = []
        self._folder, self._staged, self._shard = folder, staged, shard
        self._index = faiss.deserialize_index(np.frombuffer(read_staged(folder, staged.trained), np.uint8))
        self._ivf = ivf_of(self._index)
        rows = rows_held(int(self._ivf.code_size), held_bytes)
        self._codes: np.ndarray = np.empty((rows, int(self._ivf.code_size)), np.uint8)
        self._lists: np.ndarray = np.empty(rows, np.int32)
        self._rows = 0

    def add(self, vectors: np.ndarray) -> None:
        """Encode (n, dim) float32 of length 1."""
        while len(vectors):
            now = vectors[: len(self._lists) - self._rows]
            self._encode(np.ascontiguousarray(now))
            vectors = vectors[len(now) :]
            if self._rows == len(self._lists):
                self.stage()

    def _encode(self, vectors: np.ndarray) -> None:
        faiss, ivf, rows = faiss_library(), self._ivf, len(vectors)
        if isinstance(self._index, faiss.IndexPreTransform):
            turned = np.empty((rows, ivf.d), np.float32)
            held = self._index.apply_chain(rows, faiss.swig_ptr(vectors))
            turned[:] = faiss.rev_swig_ptr(held, turned.size).reshape(turned.shape)
            vectors = turned
        _, nearest = ivf.quantizer.search(vectors, 1)
        lists = np.ascontiguousarray(nearest[:, 0])
        stop = self._rows + rows
        codes = self._codes[self._rows : stop]
        ivf.encode_vectors(rows, faiss.swig_ptr(vectors), faiss.swig_ptr(lists), faiss.swig_ptr(codes))
        self._lists[self._rows : stop] = lists
        self._rows = stop

    def stage(self) -> None:
        """Write the buffer to a file; see `codes` for its layout. Ids are numbers of rows in the buffer."""
        if not self._rows:
            return
        name = self._staged.codes(self._shard, len(self.parts))
        lists, codes = self._lists[: self._rows], self._codes[: self._rows]
        order = np.argsort(lists, kind="stable")
        starts = np.zeros(self._ivf.nlist + 1, np.int64)
        np.cumsum(np.bincount(lists, minlength=self._ivf.nlist), out=starts[1:])
        temporary = temporary_of(self._folder, name)
        try:
            with dataset_errors("write", f"{self._folder.url}/{name}"), temporary.open("wb") as file:
                file.write(starts.data)
                for start in range(0, len(order), 4096):
                    file.write(codes[order[start : start + 4096]].data)
                file.write(order.astype(np.int64, copy=False).data)
            self._folder.publish(temporary, name)
        finally:
            temporary.unlink(missing_ok=True)
        self.parts.append((name, self._rows))
        self._rows = 0
