"""One shard of an index, from datasets to its files: the one function that every engine distributes."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..files.file_systems import Folder
from ..files.plain import json_text
from .coder import Coder
from .hits import Hits
from .library import use_threads
from .manifest import STAGING, Segment
from .pages import let_go_of_freed
from .shard_files import KeyFile, VectorFile
from .source import Piece, joined, read_piece, rows_of_block
from .staged import Staged, read_staged
from .truth import merged, nearest_of_blocks
from .units import matrix_of, units_of


@dataclasses.dataclass(frozen=True, slots=True)
class IndexShard:
    """Some of the rows of an index; pickles to its fields.

    Attributes:
        number: Names its files.
        pieces: Where its rows come from, in order.
        skipped: Numbers of rows, from the shard's first, rising, that are left out since their ids are there already;
            int64, as bytes, which every engine carries as they are.
    """

    number: int
    pieces: tuple[Piece, ...]
    skipped: bytes = b""

    @property
    def rows(self) -> int:
        """Rows that are read."""
        return sum(piece.rows for piece in self.pieces)

    @property
    def skipped_rows(self) -> np.ndarray:
        """What is left out, (n,) int64."""
        return np.frombuffer(self.skipped, np.int64)


@dataclasses.dataclass(frozen=True)
class IndexJob:
    """What is done with every shard; pickles to its fields.

    Attributes:
        directory: Of the index.
        column: The column of vectors.
        dim: Values in each.
        dtype: Of the full vectors, `float32` or `float16`.
        keys: The columns that go beside the index.
        has_lists: Whether codes for inverted lists are made.
        nearest: How many true neighbours of each query are found.
        run: The mark of this building or adding, which the names of all files carry.
        block_bytes: Vectors that are held in work at a time.
        held_bytes: Codes that are held before they are staged.
    """

    directory: str
    column: str
    dim: int
    dtype: str
    keys: pa.Schema
    has_lists: bool
    nearest: int
    run: str
    block_bytes: int
    held_bytes: int

    @property
    def staged(self) -> Staged:
        """Names of what is handed to the workers and back."""
        return Staged(self.run)


def cut(groups: Sequence[Piece], rows_per_shard: int, *, first: int = 0) -> list[IndexShard]:
    """Cut row groups into shards of about so many rows.

    Args:
        groups: Of a source.
        rows_per_shard: A row group that is longer makes a shard of its own.
        first: Number of the first shard.
    """
    shards: list[list[Piece]] = []
    rows = rows_per_shard
    for group in groups:
        if rows + group.rows > rows_per_shard:
            shards.append([])
            rows = 0
        shards[-1].append(group)
        rows += group.rows
    return [IndexShard(first + number, tuple(joined(pieces))) for number, pieces in enumerate(shards)]


def build_shard(shard: IndexShard, job: IndexJob, *, cpus: int | None = None) -> dict[str, Any]:
    """Read a shard, write its vectors and keys, and stage its codes and what it knows of the queries' neighbours.

    Doing it again writes the same files again, whole; what it reports is staged as the last.

    Args:
        shard: What to read.
        job: What to make of it.
        cpus: Cores that this worker may use, where its engine knows better than the operating system.

    Returns:
        `number`, `rows`, `nulls`, `failed` (by reason), `skipped`, `files` (bytes by name), and `codes` (names and
        rows of what was staged to be merged), as plain values.

    Raises:
        DatasetError: If something cannot be read or written, or a vector has another dimension.
        MissingExtraError: If Faiss is not installed.
    """
    use_threads(cpus)
    try:
        return _build(shard, job)
    finally:
        let_go_of_freed()  # else it adds to what the next shard takes


def _build(shard: IndexShard, job: IndexJob) -> dict[str, Any]:
    folder = Folder.of(job.directory)
    segment, staged = Segment(shard.number, shard.rows, job.run), job.staged
    for below in ("vectors", "keys", STAGING):
        folder.make(below)
    sought = _Sought(folder, staged.queries, job.nearest)
    coder = Coder(folder, staged, shard.number, job.held_bytes) if job.has_lists else None
    nulls, counts = 0, {"zero": 0, "not_finite": 0}
    with (
        VectorFile(folder, segment.vectors, job.dim, job.dtype) as vectors,
        KeyFile(folder, segment.keys, job.keys) as keys,
    ):
        for batch, numbers, where in _blocks(shard, job):
            matrix, valid = matrix_of(batch.column(job.column), job.dim, where)
            units = units_of(matrix)
            nulls += int(len(valid) - valid.sum())
            counts["zero"] += int(units.zero.sum())
            counts["not_finite"] += int(units.not_finite.sum())
            good = units.vectors if units.good.all() else units.vectors[units.good]
            if not len(good):
                continue
            kept = np.flatnonzero(valid)[units.good]
            sought.among(good, numbers[kept], vectors.rows)
            if coder is not None:
                coder.add(good)
            vectors.write(good)
            keys.write(batch.take(pa.array(kept)))
        rows = vectors.rows
        files = {segment.vectors: vectors.commit(), segment.keys: keys.commit()}
    if coder is not None:
        coder.stage()
    sought.stage(folder, staged.truth(shard.number))
    report = {
        "number": shard.number,
        "rows": rows,
        "nulls": nulls,
        "failed": counts,
        "skipped": len(shard.skipped_rows),
        "files": files,
        "codes": [] if coder is None else coder.parts,
    }
    folder.write(staged.report(shard.number), json_text(report).encode())
    return report


class _Sought:
    """The queries, their nearest among the rows that were seen, and where those of them stand that were seen."""

    def __init__(self, folder: Folder, name: str, k: int) -> None:
        with np.load(io.BytesIO(read_staged(folder, name))) as held:
            self._queries, self._rows = held["vectors"], held["rows"]
        shape = (len(self._queries), k)
        self._best = Hits(np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64))
        self._places = np.full(len(self._queries), -1, np.int64)

    def among(self, vectors: np.ndarray, numbers: np.ndarray, start: int) -> None:
        """Look among more rows.

        Args:
            vectors: (m, dim) float32 of length 1.
            numbers: Their numbers in the source, rising.
            start: Position of the first of them.
        """
        k = self._best.scores.shape[1]
        found = nearest_of_blocks(self._queries, [(start, vectors)], k)
        scores = np.where(found.positions < 0, -np.inf, found.scores).astype(np.float32)
        self._best = merged([self._best, Hits(scores, found.positions)], k)
        at = np.searchsorted(numbers, self._rows)
        at[at == len(numbers)] = 0
        inside = numbers[at] == self._rows
        self._places[inside] = start + at[inside]

    def stage(self, folder: Folder, name: str) -> None:
        """Write what was found."""
        held = io.BytesIO()
        np.savez(held, scores=self._best.scores, positions=self._best.positions, places=self._places)
        folder.write(name, held.getvalue())


def _blocks(shard: IndexShard, job: IndexJob) -> Iterator[tuple[pa.RecordBatch, np.ndarray, str]]:
    """Yield what is read, without what is skipped: rows, their numbers in the source, and what messages call them."""
    block_rows = rows_of_block(job.dim, job.block_bytes)
    skipped = shard.skipped_rows
    before = 0
    for piece in shard.pieces:
        start = 0
        for batch in read_piece(piece, [job.column, *job.keys.names], block_rows=block_rows):
            local = np.arange(start, start + batch.num_rows)
            where = f"{piece.path}, from its row group {piece.first} on, rows {start} to {start + batch.num_rows - 1}"
            start += batch.num_rows
            numbers = piece.start + local
            if len(skipped):
                stays = np.flatnonzero(~np.isin(before + local, skipped))
                batch, numbers = batch.take(pa.array(stays)), numbers[stays]
            yield batch, numbers, where
        before += piece.rows
