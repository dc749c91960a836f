"""`open_index`: once per process, with its files memory-mapped, so that processes share their pages."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from ..errors import DatasetError, check_integer
from ..files.file_systems import is_local
from ..files.folder import Folder
from ..messages import setting
from .candidates import Candidates
from .exact import nearest_of_blocks
from .hits import Hits
from .keys import KeyFiles
from .local_copy import fetch_index
from .manifest import IndexManifest, SearchParameters, check_files, manifest_bytes, parse_manifest
from .pages import MappedArray, resident_bytes
from .units import to_unit_vectors

_BLOCK_BYTES = 32 * 2**20
"""Size of the full vectors that are processed at a time."""
_KEPT_BYTES = 64 * 2**20
"""An exact index up to this size stays resident between searches; of a larger one, only a block does."""
_TOUCHED_BYTES = 2**21
"""What may become resident when one row is read: the kernel also maps cached pages around it, up to a huge page."""
_HIT_BYTES = 12
_QUERIES = 1024
"""Queries in a block, at most: pages are released between blocks."""
_ATTEMPTS, _RETRY_S = 3, 0.2
"""How often opening an index is tried, and the seconds between."""

_opened: dict[str, OpenIndex] = {}
_opening = threading.Lock()


class OpenIndex:
    """An index, mapped into memory. Thread-safe.

    Attributes:
        directory: Its path on this machine.
        manifest: Its manifest.
        identity: Its URL and the hash of its manifest, which identify this version of the index.
    """

    def __init__(self, directory: str, manifest: IndexManifest, *, max_memory_bytes: int | None = None) -> None:
        """Map the files of an index; `open_index` does it once per process.

        Args:
            directory: A local path.
            manifest: Of the index there.
            max_memory_bytes: What may be resident in this process. Mapped pages are released when half of it is. By
                default what the index was planned for.

        Raises:
            DatasetError: If a file cannot be read.
            MissingExtraError: If Faiss is not installed and the index needs it.
        """
        self.directory = directory
        self.manifest = manifest
        self.identity = ""
        self._max_memory = max_memory_bytes or int(manifest.plan["max_memory_bytes"])
        self._keys = KeyFiles(directory, manifest.segments)
        self._parts = [
            MappedArray(f"{directory}/{segment.vectors}", (segment.rows, manifest.dim)) for segment in manifest.segments
        ]
        self._starts = np.cumsum([0, *(segment.rows for segment in manifest.segments)])
        self._candidates = None
        if manifest.index_file is not None:
            self._candidates = Candidates(f"{directory}/{manifest.index_file}", manifest.rows, manifest.dim)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        nprobe: int | None = None,
        ef_search: int | None = None,
        rerank: int | None = None,
    ) -> Hits:
        """Find the k nearest vectors of each query.

        A compressed index returns `rerank` times k candidates, which are compared with the query exactly. Parameters
        that are None are taken from the manifest: the cheapest that reached the target recall.

        Args:
            queries: (n, dim) numbers of any norm; those that are zero or not finite find nothing.
            k: How many, at most the rows of the index.
            nprobe: Inverted lists to search.
            ef_search: `efSearch` of a graph.
            rerank: Candidates for each hit.

        Returns:
            Cosines and positions, best first, equal cosines in order of position; NaN and -1 where there are fewer.

        Raises:
            DatasetError: If shapes do not fit, or k is not between 1 and the rows of the index.
        """
        self._check_k(k)
        return self.search_with(queries, k, self._parameters(nprobe, ef_search, rerank))

    def search_with(self, queries: np.ndarray, k: int, parameters: SearchParameters) -> Hits:
        """Search with these parameters, whatever the manifest has.

        Args:
            queries: (n, dim) numbers.
            k: How many.
            parameters: How much is searched; those that do not apply to this kind of index are ignored.

        Raises:
            DatasetError: If shapes do not fit.
        """
        found = np.asarray(queries)
        if found.ndim != 2 or found.shape[1] != self.manifest.dim:
            raise DatasetError(f"queries have the shape {found.shape}; this index takes (n, {self.manifest.dim})")
        scores = np.full((len(found), k), np.nan, np.float32)
        positions = np.full((len(found), k), -1, np.int64)
        step = self._queries_at_once(k, parameters)
        for start in range(0, len(found), step):
            units = to_unit_vectors(found[start : start + step])
            good = np.flatnonzero(units.good)
            if len(good):
                hits = self._search(units.vectors[good], k, parameters)
                scores[start + good], positions[start + good] = hits
            self._release_pages()
        return Hits(scores, positions)

    def rows(self, positions: np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the metadata of rows, in the order of their positions; -1 gives a row of nulls.

        Args:
            positions: (n,) integers.
            columns: Names of columns, all by default.

        Raises:
            SpecError: If there is no such column.
            DatasetError: If a position is outside of the index.
        """
        return self._keys.rows(positions, columns)

    @property
    def lists(self) -> int:
        """Inverted lists; 0 in kinds without."""
        return 0 if self._candidates is None else self._candidates.lists

    @property
    def is_graph(self) -> bool:
        """Whether it is a graph (HNSW)."""
        return self._candidates is not None and self._candidates.is_graph

    @property
    def columns(self) -> list[str]:
        """Names of the metadata's columns."""
        return list(self.key_schema.names)

    @property
    def key_schema(self) -> pa.Schema:
        """The metadata's columns and their types."""
        return self._keys.schema

    def column(self, name: str) -> Iterator[pa.Array]:
        """Yield a column of the metadata in pieces, in order of position.

        Args:
            name: Of the column.

        Raises:
            DatasetError: If a file cannot be read.
        """
        return self._keys.column(name)

    def vectors(self, positions: np.ndarray) -> np.ndarray:
        """Return full vectors of length 1.

        Args:
            positions: (n,) integers from 0.

        Returns:
            (n, dim) float32.

        Raises:
            DatasetError: If a position is outside of the index.
        """
        wanted = np.asarray(positions, np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.manifest.rows):
            raise DatasetError(f"positions {wanted.min()} to {wanted.max()} of {self.manifest.rows:,} rows")
        found = np.empty((len(wanted), self.manifest.dim), np.float32)
        step = max(16, self._memory_left() // 4 // _TOUCHED_BYTES)
        for start in range(0, len(wanted), step):
            self._gather(wanted[start : start + step], found[start : start + step])
            self._release_pages()
        return found

    def _gather(self, positions: np.ndarray, into: np.ndarray) -> None:
        parts = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(parts):
            inside = parts == number
            into[inside] = self._parts[number].array[positions[inside] - self._starts[number]]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the position of the first vector and the vectors, block by block, in bounded memory."""
        rows = max(1, _BLOCK_BYTES // (self.manifest.dim * 4))
        is_long = self.manifest.rows * self.manifest.dim * 4 > _KEPT_BYTES
        for start, part in zip(self._starts, self._parts, strict=False):
            for first in range(0, len(part.array), rows):
                yield int(start) + first, np.asarray(part.array[first : first + rows], np.float32)
                if is_long:
                    part.release_pages()
                self._release_pages()

    def candidates(self, queries: np.ndarray, count: int, parameters: SearchParameters) -> np.ndarray:
        """Return the candidates of the index of codes, nearest first by their codes.

        Args:
            queries: (n, dim) float32 of length 1.
            count: Candidates of each.
            parameters: How much is searched.

        Returns:
            (n, count) int64 positions, -1 where there are fewer.

        Raises:
            DatasetError: If the index is exact, and so has no codes.
        """
        if self._candidates is None:
            raise DatasetError("an exact index has no candidates: every vector is compared")
        found = np.empty((len(queries), count), np.int64)
        step = self._queries_at_once(count, SearchParameters(parameters.nprobe, parameters.ef_search))
        for start in range(0, len(queries), step):
            found[start : start + step] = self._candidates.search(queries[start : start + step], count, parameters)
            self._release_pages()
        return found

    def _search(self, units: np.ndarray, k: int, parameters: SearchParameters) -> Hits:
        if self._candidates is None:
            return nearest_of_blocks(units, self.blocks(), k)
        count = min(self.manifest.rows, k * (parameters.rerank or 1))
        candidates = self._candidates.search(units, count, parameters)
        self._release_pages()
        return self._reranked(units, candidates, k)

    def _reranked(self, units: np.ndarray, candidates: np.ndarray, k: int) -> Hits:
        scores = np.full(candidates.shape, -np.inf, np.float32)
        step = max(1, _BLOCK_BYTES // (candidates.shape[1] * self.manifest.dim * 4))
        for start in range(0, len(units), step):
            some = candidates[start : start + step]
            found = some >= 0
            vectors = np.zeros((*some.shape, self.manifest.dim), np.float32)
            vectors[found] = self.vectors(some[found])
            exact = np.einsum("qcd,qd->qc", vectors, units[start : start + step])
            scores[start : start + step][found] = exact[found]
        order = np.lexsort((candidates, -scores), axis=1)[:, :k]
        best = np.take_along_axis(candidates, order, axis=1)
        cosines = np.clip(np.take_along_axis(scores, order, axis=1), -1, 1)
        return Hits(np.where(best < 0, np.nan, cosines).astype(np.float32), best)

    def _parameters(self, nprobe: int | None, ef_search: int | None, rerank: int | None) -> SearchParameters:
        usual = self.manifest.search
        given = {"nprobe": nprobe, "ef_search": ef_search, "rerank": rerank}
        for name, value in given.items():
            if value is None:
                continue
            check_integer(name, value, error=DatasetError)
            if getattr(usual, name) is None:
                raise DatasetError(
                    setting(name, value) + f" has no effect with an index of the kind {self.manifest.kind}",
                    hint="leave it out",
                )
        return SearchParameters(*(getattr(usual, name) if value is None else value for name, value in given.items()))

    def _check_k(self, k: int) -> None:
        check_integer("k", k, error=DatasetError)
        if k > self.manifest.rows:
            raise DatasetError(
                setting("k", k) + f" is more than the {self.manifest.rows:,} vectors of the index {self.directory}"
            )

    def _queries_at_once(self, k: int, parameters: SearchParameters) -> int:
        """Return how many queries may be searched together, so that candidates and mapped pages fit into memory."""
        fitting = max(1, min(_QUERIES, _BLOCK_BYTES // (_HIT_BYTES * k * (parameters.rerank or 1))))
        room = max(_BLOCK_BYTES, self._memory_left() // 2)
        if self._candidates is None or self._candidates.mapped_bytes <= room:
            return fitting
        return int(min(fitting, max(1, room // max(1, self._candidates.bytes_of_query(parameters)))))

    def _memory_left(self) -> int:
        """Return what may yet become resident: half of it for lists, a quarter for full vectors, the rest for work."""
        return max(0, self._max_memory - resident_bytes())

    def _release_pages(self) -> None:
        """Release mapped pages where this process uses over half of its memory."""
        if resident_bytes() <= self._max_memory // 2:
            return
        for part in self._parts:
            part.release_pages()
        if self._candidates is not None:
            self._candidates.release_pages()


def open_index(directory: str | os.PathLike[str]) -> OpenIndex:
    """Open an index: once in this process, and again when the index has changed.

    Files are mapped, not read: opening is fast, and all processes of a machine share their pages. An index in an object
    store is copied to this machine once, into clipmill's cache (`$CLIPMILL_CACHE`). Copies of earlier versions are then
    deleted, unless a process has them open.

    Args:
        directory: Path or URL.

    Raises:
        DatasetError: If there is no complete index, or a file of it is cut off.
        MissingExtraError: If Faiss, or the driver of the object store, is not installed.
    """
    folder = Folder.of(directory)
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(DatasetError):
            return _open(folder)
        time.sleep(_RETRY_S)  # rows may have been added after the manifest was read, and before its files were
    return _open(folder)


def _open(folder: Folder) -> OpenIndex:
    with _opening:
        content = manifest_bytes(folder.url)
        identity = f"{folder.url} {hashlib.sha256(content).hexdigest()}"
        opened = _opened.get(folder.url)
        if opened is not None and opened.identity == identity:
            return opened
        manifest = parse_manifest(folder.url, content)
        check_files(folder, manifest)
        if is_local(folder.fs):
            found = OpenIndex(folder.path, manifest)
        else:
            del opened
            _opened.pop(folder.url, None)  # its local copy may be deleted, unless others use it
            copy = fetch_index(folder, manifest, content)
            found = OpenIndex(copy.path, manifest)
            weakref.finalize(found, copy.held.close)
        found.identity = identity
        _opened[folder.url] = found
        return found
