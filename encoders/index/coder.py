"""Vectors as the codes of inverted lists, staged list by list until they are merged."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..storage.files import Folder, dataset_errors
from .library import faiss_library, ivf_of
from .manifest import STAGING
from .shard_files import temporary_of

TRAINED = f"{STAGING}/trained.faiss"


class Coder:
    """Encodes vectors for inverted lists, and holds the codes of a shard: some hundred bytes for each."""

    def __init__(self, index: Any) -> None:
        """Take a trained index without vectors."""
        self._faiss = faiss_library()
        self._index = index
        self._ivf = ivf_of(index)
        self._codes: list[np.ndarray] = []
        self._lists: list[np.ndarray] = []

    @classmethod
    def of(cls, folder: Folder) -> Coder:
        """Read the index that was trained for this building."""
        data = np.frombuffer(folder.read(TRAINED), np.uint8)
        return cls(faiss_library().deserialize_index(data))

    def add(self, vectors: np.ndarray) -> None:
        """Encode (n, dim) float32 of length 1."""
        faiss, ivf, rows = self._faiss, self._ivf, len(vectors)
        vectors = np.ascontiguousarray(vectors)
        if isinstance(self._index, faiss.IndexPreTransform):
            turned = np.empty((rows, ivf.d), np.float32)
            held = self._index.apply_chain(rows, faiss.swig_ptr(vectors))
            turned[:] = faiss.rev_swig_ptr(held, turned.size).reshape(turned.shape)
            vectors = turned
        _, nearest = ivf.quantizer.search(vectors, 1)
        lists = np.ascontiguousarray(nearest[:, 0])
        codes = np.empty((rows, ivf.code_size), np.uint8)
        ivf.encode_vectors(rows, faiss.swig_ptr(vectors), faiss.swig_ptr(lists), faiss.swig_ptr(codes))
        self._codes.append(codes)
        self._lists.append(lists.astype(np.int32))

    def stage(self, folder: Folder, name: str) -> None:
        """Write what was encoded, list by list: sizes of the lists, codes, numbers of rows."""
        size = int(self._ivf.code_size)
        lists = np.concatenate([np.empty(0, np.int32), *self._lists])
        codes = np.concatenate([np.empty((0, size), np.uint8), *self._codes])
        order = np.argsort(lists, kind="stable")
        temporary = temporary_of(folder, name)
        try:
            with dataset_errors("write", f"{folder.url}/{name}"), temporary.open("wb") as file:
                file.write(np.bincount(lists, minlength=self._ivf.nlist).astype(np.int64).data)
                for start in range(0, len(order), 4096):
                    file.write(codes[order[start : start + 4096]].data)
                file.write(order.astype(np.int64).data)
            folder.publish(temporary, name)
        finally:
            temporary.unlink(missing_ok=True)
