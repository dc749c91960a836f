"""`build_shard`: from some rows of the datasets to the files of one shard. Every engine distributes this function."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..files.folder import Folder
from ..files.json_text import json_text
from ..files.parted_list import Codec
from .exact import ExactSearch
from .library import use_threads
from .list_encoder import ListEncoder
from .manifest import STAGING, Segment
from .pages import trim_heap
from .shard_files import KeyFile, VectorFile
from .source import Piece, join_adjacent, read_piece, rows_of_block
from .staged import StagedFiles, read_staged
from .units import matrix_of, to_unit_vectors


@dataclasses.dataclass(frozen=True, slots=True)
class IndexShard:
    """Some of the rows of an index; pickles to its fields.

    Attributes:
        number: Names its files.
        pieces: Where its rows come from, in order.
        skipped: Rows that are skipped because the index has their ids already: their numbers in the shard, rising,
            int64 as bytes, which every engine transports unchanged.
    """

    number: int
    pieces: tuple[Piece, ...]
    skipped: bytes = b""

    @property
    def rows(self) -> int:
        """Rows that are read, skipped ones included."""
        return sum(piece.rows for piece in self.pieces)

    def as_json(self) -> list[Any]:
        """Return the fields as JSON values, from which `from_json` makes the shard again."""
        pieces = [[piece.path, piece.first, piece.stop, piece.rows, piece.start] for piece in self.pieces]
        return [self.number, pieces, base64.b64encode(self.skipped).decode("ascii")]

    @classmethod
    def from_json(cls, fields: list[Any]) -> IndexShard:
        """Make a shard from what `as_json` returned."""
        number, pieces, skipped = fields
        return cls(number, tuple(Piece(*piece) for piece in pieces), base64.b64decode(skipped))

    @property
    def skipped_rows(self) -> np.ndarray:
        """The numbers of the skipped rows, (n,) int64."""
        return np.frombuffer(self.skipped, np.int64)


STORED_SHARDS = Codec(IndexShard.as_json, IndexShard.from_json, "build the index again")
"""How the shards of a run are stored for its workers."""


@dataclasses.dataclass(frozen=True)
class IndexJob:
    """A job that builds an index, sent to every worker; pickles to its fields.

    Attributes:
        directory: Of the index.
        column: The column of vectors.
        dim: Values in each.
        dtype: Of the full vectors, `float32` or `float16`.
        keys: The columns that are kept as metadata.
        has_lists: Whether codes for inverted lists are made.
        nearest: How many true neighbours of each query are found.
        run: Id of this run, a build or an addition; part of all file names.
        block_bytes: Size of the vectors that are processed at a time.
        held_bytes: Size of the codes that are held before they are staged.
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
    def staged(self) -> StagedFiles:
        """Names of the staged files."""
        return StagedFiles(self.run)


def cut_shards(groups: Sequence[Piece], rows_per_shard: int, *, first: int = 0) -> list[IndexShard]:
    """Cut row groups into shards of at most `rows_per_shard` rows; a longer row group becomes a shard of its own."""
    shards: list[list[Piece]] = []
    rows = rows_per_shard
    for group in groups:
        if rows + group.rows > rows_per_shard:
            shards.append([])
            rows = 0
        shards[-1].append(group)
        rows += group.rows
    return [IndexShard(first + number, tuple(join_adjacent(pieces))) for number, pieces in enumerate(shards)]


def build_shard(shard: IndexShard, job: IndexJob, *, cpus: int | None = None) -> dict[str, Any]:
    """Read a shard, write its vectors and keys, and stage its codes and its part of the ground truth.

    A retry writes the same files again. The report is staged last, so a shard with a report is complete.

    Args:
        shard: What to read.
        job: What to write.
        cpus: Cores that this worker may use, where its engine knows better than the operating system.

    Returns:
        The report: `number`, `rows`, `nulls`, `failed` (by reason), `skipped`, `files` (bytes by name), and `codes`
        (name and rows of each file of staged codes), as plain values.

    Raises:
        DatasetError: If something cannot be read or written, or a vector has another dimension.
        MissingExtraError: If Faiss is not installed.
    """
    use_threads(cpus)
    try:
        return _build(shard, job)
    finally:
        trim_heap()  # freed memory that stays resident would add to the next shard's


def _build(shard: IndexShard, job: IndexJob) -> dict[str, Any]:
    folder = Folder.of(job.directory)
    segment, staged = Segment(shard.number, shard.rows, job.run), job.staged
    for below in ("vectors", "keys", STAGING):
        folder.make(below)
    ground_truth = _ShardGroundTruth(folder, staged.queries, job.nearest)
    encoder = ListEncoder(folder, staged, shard.number, job.held_bytes) if job.has_lists else None
    nulls, counts = 0, {"zero": 0, "not_finite": 0}
    with (
        VectorFile(folder, segment.vectors, job.dim, job.dtype) as vectors,
        KeyFile(folder, segment.keys, job.keys) as keys,
    ):
        for batch, numbers, where in _blocks(shard, job):
            matrix, valid = matrix_of(batch.column(job.column), job.dim, where)
            units = to_unit_vectors(matrix)
            nulls += int(len(valid) - valid.sum())
            counts["zero"] += int(units.zero.sum())
            counts["not_finite"] += int(units.not_finite.sum())
            good = units.vectors if units.good.all() else units.vectors[units.good]
            if not len(good):
                continue
            kept = np.flatnonzero(valid)[units.good]
            ground_truth.add(good, numbers[kept], vectors.rows)
            if encoder is not None:
                encoder.add(good)
            vectors.write(good)
            keys.write(batch.take(pa.array(kept)))
        rows = vectors.rows
        files = {segment.vectors: vectors.commit(), segment.keys: keys.commit()}
    if encoder is not None:
        encoder.stage()
    ground_truth.stage(folder, staged.ground_truth(shard.number))
    report = {
        "number": shard.number,
        "rows": rows,
        "nulls": nulls,
        "failed": counts,
        "skipped": len(shard.skipped_rows),
        "files": files,
        "codes": [] if encoder is None else encoder.parts,
    }
    folder.write(staged.report(shard.number), json_text(report).encode())
    return report


class _ShardGroundTruth:
    """The true neighbours of the queries among the rows of a shard, and the positions of the queries themselves."""

    def __init__(self, folder: Folder, name: str, k: int) -> None:
        with np.load(io.BytesIO(read_staged(folder, name))) as staged:
            queries, self._query_rows = staged["vectors"], staged["rows"]
        self._search = ExactSearch(queries, k)
        self._own_positions = np.full(len(queries), -1, np.int64)

    def add(self, vectors: np.ndarray, numbers: np.ndarray, start: int) -> None:
        """Compare rows, (m, dim) float32 of length 1 from position `start`; `numbers` in the source rise."""
        self._search.add(start, vectors)
        at = np.searchsorted(numbers, self._query_rows)
        at[at == len(numbers)] = 0
        is_here = numbers[at] == self._query_rows
        self._own_positions[is_here] = start + at[is_here]

    def stage(self, folder: Folder, name: str) -> None:
        """Write what was found; positions count from the shard's first row."""
        held = io.BytesIO()
        np.savez(held, **self._search.hits._asdict(), own=self._own_positions)
        folder.write(name, held.getvalue())


def _blocks(shard: IndexShard, job: IndexJob) -> Iterator[tuple[pa.RecordBatch, np.ndarray, str]]:
    """Yield the rows that are not skipped, their numbers in the source, and what messages call them."""
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
