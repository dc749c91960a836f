"""The index of codes, memory-mapped: Faiss finds the candidates of a query in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DatasetError
from .library import faiss_library, hnsw_of, ivf_of, refuse_lists_elsewhere
from .manifest import SearchParameters
from .pages import release_pages

_QUANTISER_EF = 2
"""`efSearch` of a graph of centroids, for each list that is probed."""


class Candidates:
    """An index of codes, opened for reading.

    Attributes:
        lists: Inverted lists; 0 in kinds without.
        is_graph: Whether it is a graph over all rows.
    """

    def __init__(self, path: str, rows: int, dim: int) -> None:
        """Open an index file; raise `DatasetError` if it cannot be read, or has other vectors than (rows, dim)."""
        faiss = faiss_library()
        try:
            index = faiss.read_index(path, faiss.IO_FLAG_MMAP)
            refuse_lists_elsewhere(index, path)
            if ivf_of(index) is None:
                index = faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as err:
            reason = str(err).strip().splitlines()[-1][-300:]
            raise DatasetError(f"{path} cannot be read: {reason}; build the index again") from err
        if (index.ntotal, index.d) != (rows, dim):
            raise DatasetError(
                f"{path} holds {index.ntotal:,} vectors of {index.d} values, and the manifest has {rows:,} of {dim}; "
                "build the index again"
            )
        self._index = index
        self._ivf = ivf_of(index)
        self.is_graph = hnsw_of(index) is not None
        self.lists = 0 if self._ivf is None else int(self._ivf.nlist)
        self._rows = rows
        self._mapped: Any = None
        if self._ivf is not None:
            lists = faiss.downcast_InvertedLists(self._ivf.invlists)
            if isinstance(lists, faiss.OnDiskInvertedLists):
                lists.prefetch_nthread = 0  # by default 32 threads read the lists of all queries first
                self._mapped = lists

    @property
    def mapped_bytes(self) -> int:
        """Size of the inverted lists, which are memory-mapped."""
        return 0 if self._mapped is None else int(self._mapped.totsize)

    def bytes_of_query(self, parameters: SearchParameters) -> int:
        """Return how much of the inverted lists one query reads, on average."""
        if self._ivf is None:
            return 0
        return int(self.mapped_bytes * min(1.0, (parameters.nprobe or 1) / self._ivf.nlist))

    def search(self, queries: np.ndarray, count: int, parameters: SearchParameters) -> np.ndarray:
        """Return the positions of the nearest vectors by their codes.

        Args:
            queries: (n, dim) float32 of length 1.
            count: How many of each.
            parameters: How much is searched.

        Returns:
            (n, count) int64, nearest first, -1 where there are fewer.
        """
        count = min(count, self._rows)
        _, positions = self._index.search(queries, count, params=self._faiss_parameters(count, parameters))
        return positions

    def release_pages(self) -> None:
        """Release the pages of the inverted lists."""
        if self._mapped is not None and self.mapped_bytes:
            release_pages(int(self._mapped.ptr), self.mapped_bytes)

    def _faiss_parameters(self, count: int, parameters: SearchParameters) -> Any:
        faiss = faiss_library()
        found = None
        if self._ivf is not None:
            nprobe = min(parameters.nprobe or 1, self._ivf.nlist)
            options = {"nprobe": nprobe}
            if isinstance(faiss.downcast_index(self._ivf.quantizer), faiss.IndexHNSW):
                options["quantizer_params"] = faiss.SearchParametersHNSW(efSearch=max(16, _QUANTISER_EF * nprobe))
            found = faiss.SearchParametersIVF(**options)
        elif self.is_graph:
            found = faiss.SearchParametersHNSW(efSearch=max(parameters.ef_search or 1, count))
        if found is not None and isinstance(self._index, faiss.IndexPreTransform):
            return faiss.SearchParametersPreTransform(index_params=found)
        return found
