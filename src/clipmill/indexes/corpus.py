"""`Corpus`: the vectors of a dataset, held in memory and searched exactly, for datasets that need no index."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from rich.filesize import decimal

from ..datasets.tables.schemas import in_columns
from ..errors import DatasetError
from .exact import check_k, float32_units, nearest
from .hits import Hits
from .source import VectorSource, read_piece
from .units import matrix_of

MAX_CORPUS_BYTES = 2 * 2**30
"""The most that vectors may take as float32: a million of 512 values."""


class Corpus:
    """The vectors of a dataset, scaled to length 1, in the memory of this process. Thread-safe.

    Positions are row numbers, in the order of `read_dataset`.

    Attributes:
        location: Of the dataset, for messages.
        dim: Values in a vector.
    """

    def __init__(self, location: str, source: VectorSource) -> None:
        """Read the vectors; raise `DatasetError` if there are too many, there is none, or a file cannot be read."""
        check_size(location, source)
        self.location, self.dim = location, source.dim
        self._source = source
        self._units, self._numbers = _read(source)
        if not len(self._units):
            raise DatasetError(f"{location} has no vector in the column {source.column!r}: there is nothing to search")
        self._columns: dict[str, pa.ChunkedArray] = {}
        self._reading = threading.Lock()

    def search(self, queries: np.ndarray, k: int, **parameters: int | None) -> Hits:
        """Find the k nearest vectors of each query; rows whose vector is null, zero or not finite are never found.

        Args:
            queries: (n, dim) float32 of any norm.
            k: At most as many as there are vectors.
            **parameters: Those of an index; ignored, since every vector is compared.

        Raises:
            SpecError: If k is not between 1 and their number.
        """
        check_k(k, len(self._units))
        hits = nearest(queries, self._units, k)
        return Hits(hits.scores, np.where(hits.positions >= 0, self._numbers[hits.positions], -1))

    def rows(self, positions: np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """Return columns of rows, (n,) int64 positions in order; by default all of the source's `keys`.

        A column is read as a whole at its first use.
        """
        columns = self._source.keys.names if columns is None else columns
        with self._reading:
            if missing := [name for name in columns if name not in self._columns]:
                table = _read_keys(self._source, missing)
                self._columns |= {name: table[name] for name in missing}
            held = pa.table({name: self._columns[name] for name in columns})
        return held.take(pa.array(positions))

    def vectors(self, positions: np.ndarray) -> np.ndarray:
        """Return the vectors at positions, (n,) int64, that a search returned: (n, dim) float32 of length 1."""
        return self._units[np.searchsorted(self._numbers, positions)]


def check_size(location: str, source: VectorSource) -> None:
    """Raise `DatasetError` if the vectors of a dataset take more than `MAX_CORPUS_BYTES`, too much for memory."""
    if (held := 4 * source.dim * source.rows) > MAX_CORPUS_BYTES:
        raise DatasetError(
            f"{location}: {source.rows:,} vectors of {source.dim} values are {decimal(held)}, and every process"
            f" that searches a dataset holds them, up to {decimal(MAX_CORPUS_BYTES)}: build an index of it"
            " ('clipmill index'), which processes share, and search that"
        )


def _read(source: VectorSource) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors, scaled to length 1, and the row number of each, rising."""
    units = np.empty((source.rows, source.dim), np.float32)
    numbers = np.empty(source.rows, np.int64)
    found = 0
    for piece in source.groups:
        row = piece.start
        for batch in read_piece(piece, [source.column]):
            vectors, there = matrix_of(batch.column(0), source.dim, piece.path)
            some = float32_units(vectors)
            good = some.any(axis=1)
            count = int(good.sum())
            units[found : found + count] = some[good]
            numbers[found : found + count] = row + np.flatnonzero(there)[good]
            found += count
            row += len(batch)
    return units[:found], numbers[:found]


def _read_keys(source: VectorSource, columns: Sequence[str]) -> pa.Table:
    schema = pa.schema([source.keys.field(name) for name in columns])
    tables = [schema.empty_table()]
    for piece in source.groups:
        for batch in read_piece(piece, columns):
            tables.append(in_columns(batch, schema, batch.num_rows))
    return pa.concat_tables(tables)


_corpora: dict[tuple[str, str], tuple[VectorSource, Corpus]] = {}
_lock = threading.Lock()
_reads = 0


def open_corpus(location: str, source: VectorSource) -> Corpus:
    """Return the vectors of a dataset; read them at the first call in this process, and again when files changed."""
    global _reads
    key = (location, source.column)
    with _lock:  # held while reading, so that two threads do not read the same dataset
        known, corpus = _corpora.get(key, (None, None))
        if corpus is None or known != source:
            _corpora.pop(key, None)  # before the new one is read: memory may not suffice for both
            corpus = Corpus(location, source)
            _reads += 1
            _corpora[key] = (source, corpus)
        return corpus


def count_corpora_read() -> int:
    """Return how often this process has read a corpus."""
    return _reads


def forget_corpora() -> None:
    """Drop every corpus: for notebooks that need the memory, and for tests."""
    with _lock:
        _corpora.clear()
