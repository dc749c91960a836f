"""Chooses the kind of index from rows, dimension and memory, with the reasons."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Literal, NamedTuple

from rich.filesize import decimal

from ..errors import SpecError, check_choice
from ..messages import setting
from .codes import ID_BYTES
from .footprint import GRAPH_GROWTH, HNSW_LINKS, HNSW_ROW_BYTES, filled_bytes, index_bytes
from .library import code_bytes_of, ivf_of, make_index

Kind = Literal["exact", "hnsw", "ivf", "ivfpq", "custom"]

DEFAULT_MEMORY = 4 * 10**9
PROCESS_BYTES = 180 * 10**6
"""Resident memory of Python with clipmill, Faiss and pyarrow before any vector: measured 146 MB, with a margin."""

WORK_BYTES = 96 * 2**20
"""Memory of the blocks of rows and queries that are processed, beside an index."""

_EXACT_VALUES = 2**24
"""Values (rows times dimension) that one query is compared with in about 10 ms on one core: 64 MiB of float32."""

_HNSW_ROWS = 200_000
"""Rows of a graph that one process builds in minutes on two cores."""

_LISTS_PER_ROOT = 2
_COMPARED_LISTS = 16_384
"""Up to so many lists, a vector is compared with all centroids to find its list. With more lists a graph of centroids
bounds the time. Centroids are a hard case for a graph: with 632 in 512 dimensions it took five times as long, and six
times as many lists had to be probed."""
_ROWS_PER_LIST = 40
"""Training rows for each list: Faiss warns below 39."""
_TRAINING_COPIES = 3.5
"""Peak memory of training, in sizes of the sample: it, residuals and what clustering holds; measured."""
_PQ_TRAINING_ROWS = 10_240
"""Training rows of a product quantiser: 256 centroids, 40 rows for each."""
_PQ_SHARES = (2, 4, 8, 16, 32)
"""Values that one byte of a code encodes, finest first."""


@dataclasses.dataclass(frozen=True, slots=True)
class IndexPlan:
    """The plan of an index.

    Attributes:
        kind: `exact`: every vector is compared. `hnsw`: a graph over codes of a byte for each value. `ivf`: lists of
            such codes. `ivfpq`: lists of shorter codes, after a learnt rotation (OPQ). `custom`: a factory string of
            the user's.
        factory: The factory string of Faiss; `Flat` for exact.
        rows: Vectors; rows without one are counted too, since they are not known yet.
        dim: Values in each.
        dtype: Of the full vectors on disk.
        lists: Inverted lists; 0 in kinds without.
        train_rows: Rows that it is trained on; 0 in kinds without training.
        code_bytes: Bytes of one vector's code.
        index_bytes: Estimated size of codes, ids, links and centroids.
        vectors_bytes: Size of the full vectors on disk.
        build_bytes: Estimated peak memory of a process that builds.
        search_bytes: Estimated memory of a process that searches, with codes and lists, without full vectors.
        max_memory_bytes: Memory of each process, at most.
        reasons: Why this kind was chosen, in sentences.
        asked: Whether the user gave the factory string.
    """

    kind: Kind
    factory: str
    rows: int
    dim: int
    dtype: str
    lists: int
    train_rows: int
    code_bytes: int
    index_bytes: int
    vectors_bytes: int
    build_bytes: int
    search_bytes: int
    max_memory_bytes: int
    reasons: tuple[str, ...]
    asked: bool = False

    def lines(self) -> list[str]:
        """Return the lines that users see: the kind, the reasons, and the sizes."""
        sizes = (
            f"estimated: index {decimal(self.index_bytes)}, full vectors ({self.dtype}) {decimal(self.vectors_bytes)} "
            f"on disk; memory {decimal(self.build_bytes)} to build, {decimal(self.search_bytes)} to search; "
            f"beyond that files are mapped, up to the {decimal(self.max_memory_bytes)} that are allowed"
        )
        return [f"{self.kind} ({self.factory}): {self.rows:,} rows of {self.dim} values", *self.reasons, sizes]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {**dataclasses.asdict(self), "reasons": list(self.reasons)}


def plan_index(
    rows: int,
    dim: int,
    max_memory_bytes: int = DEFAULT_MEMORY,
    *,
    dtype: str = "float32",
    process_bytes: int = PROCESS_BYTES,
) -> IndexPlan:
    """Choose an index.

    Exact up to 16,777,216 values. Then a graph (HNSW) up to 200,000 rows, if it fits into memory. Then inverted lists
    (IVF), with a byte for each value where lists of that size fit into memory, else with the longest codes that fit (PQ
    after OPQ).

    Args:
        rows: Vectors.
        dim: Values in each.
        max_memory_bytes: Resident memory of each process that builds or searches, at most, mapped pages included.
        dtype: Of the full vectors on disk, `float32` or `float16`.
        process_bytes: Resident memory of such a process before it starts.

    Raises:
        SpecError: If there are no rows, or the memory is too small for any index.
    """
    sizes = _inputs(rows, dim, dtype, max_memory_bytes, process_bytes)
    allowed = max_memory_bytes - sizes.held
    if rows * dim <= _EXACT_VALUES:
        reason = f"{rows * dim:,} values are few enough to compare a query with all of them (up to {_EXACT_VALUES:,})"
        return _exact(sizes, reason)
    reasons = [f"{rows * dim:,} values are more than the {_EXACT_VALUES:,} that are compared one by one"]
    graph = rows * (dim + HNSW_ROW_BYTES)
    growing = int(graph * GRAPH_GROWTH)
    if rows > _HNSW_ROWS:
        reasons.append(f"{rows:,} rows are more than the {_HNSW_ROWS:,} of which one process makes a graph")
    elif growing > allowed:
        reasons.append(f"a graph takes {decimal(growing)} while it grows, more than there is")
    else:
        reasons.append(
            f"a graph of {rows:,} rows (up to {_HNSW_ROWS:,} are made in one process) takes {decimal(graph)}, which "
            "fits"
        )
        return _hnsw(sizes, graph, growing, reasons)
    return _plan_lists(sizes, allowed, reasons)


class _Inputs(NamedTuple):
    """The inputs of a plan.

    Attributes:
        held: Memory of a process without an index.
    """

    rows: int
    dim: int
    dtype: str
    max_memory_bytes: int
    held: int

    @property
    def vectors_bytes(self) -> int:
        return self.rows * self.dim * (2 if self.dtype == "float16" else 4)

    def plan(self, **fields: Any) -> IndexPlan:
        """Return a plan of these rows."""
        return IndexPlan(
            rows=self.rows,
            dim=self.dim,
            dtype=self.dtype,
            max_memory_bytes=self.max_memory_bytes,
            vectors_bytes=self.vectors_bytes,
            **fields,
        )


def _inputs(rows: int, dim: int, dtype: str, max_memory_bytes: int, process_bytes: int) -> _Inputs:
    check_sizes(rows, dim, dtype)
    held = process_bytes + WORK_BYTES
    if held >= max_memory_bytes:
        raise SpecError(
            f"max_memory {decimal(max_memory_bytes)} is not enough: a process takes {decimal(held)} before the first "
            "vector; allow more"
        )
    return _Inputs(rows, dim, dtype, max_memory_bytes, held)


def _exact(sizes: _Inputs, reason: str) -> IndexPlan:
    return sizes.plan(
        kind="exact",
        factory="Flat",
        lists=0,
        train_rows=0,
        code_bytes=0,
        index_bytes=0,
        build_bytes=sizes.held,
        search_bytes=sizes.held,
        reasons=(reason,),
    )


def _hnsw(sizes: _Inputs, graph: int, growing: int, reasons: list[str]) -> IndexPlan:
    return sizes.plan(
        kind="hnsw",
        factory=f"HNSW{HNSW_LINKS},SQ8",
        lists=0,
        train_rows=min(sizes.rows, _PQ_TRAINING_ROWS),
        code_bytes=sizes.dim,
        index_bytes=graph,
        build_bytes=sizes.held + growing,
        search_bytes=sizes.held + graph,
        reasons=tuple(reasons),
    )


def _plan_lists(sizes: _Inputs, allowed: int, reasons: list[str]) -> IndexPlan:
    rows, dim = sizes.rows, sizes.dim
    lists, train_rows = _choose_lists(rows, dim, allowed)
    if lists < _default_lists(rows):
        reasons.append(f"{lists:,} lists instead of {_default_lists(rows):,}: the sample has to fit into memory")
    training = int(train_rows * dim * 4 * _TRAINING_COPIES)
    overhead = lists * (dim * 4 + HNSW_ROW_BYTES)
    whole = rows * (dim + ID_BYTES) + overhead
    if whole <= allowed:
        kind, factory, code = "ivf", f"{_ivf_factory(lists)},SQ8", dim
        reasons.append(f"lists with a byte for each value take {decimal(whole)}, which fits")
    else:
        kind = "ivfpq"
        code = _code_bytes(dim, (allowed - overhead) / rows - ID_BYTES)
        size = rows * (code + ID_BYTES) + overhead
        factory = f"OPQ{code}_{dim // code * code},{_ivf_factory(lists)},PQ{code}"
        reasons.append(
            f"lists with a byte for each value take {decimal(whole)}, more than there is; with codes of {code} bytes "
            + (
                f"{decimal(size)}, which fits"
                if size <= allowed
                else f"{decimal(size)}, which does not fit either: lists are read from the disk when they are searched"
            )
        )
        whole = size
        train_rows = min(rows, max(train_rows, _PQ_TRAINING_ROWS))
    reasons.append("the full vectors stay on disk, and the best of every query are compared with them exactly")
    return sizes.plan(
        kind=kind,
        factory=factory,
        lists=lists,
        train_rows=train_rows,
        code_bytes=code,
        index_bytes=whole,
        build_bytes=sizes.held + max(training, allowed // 4),
        search_bytes=sizes.held + min(whole, allowed),
        reasons=tuple(reasons),
    )


def _default_lists(rows: int) -> int:
    return max(16, round(_LISTS_PER_ROOT * math.sqrt(rows) / 8) * 8)


def _ivf_factory(lists: int) -> str:
    """Return the factory string of lists whose nearest centroids are found by comparing all, or by a graph."""
    return f"IVF{lists}" if lists <= _COMPARED_LISTS else f"IVF{lists}_HNSW{HNSW_LINKS}"


def _choose_lists(rows: int, dim: int, allowed: int) -> tuple[int, int]:
    """Return the number of lists that can be trained in this memory, and of rows to train them on."""
    most_rows = int(allowed / (dim * 4 * _TRAINING_COPIES))
    lists = min(_default_lists(rows), max(1, most_rows // _ROWS_PER_LIST))
    return lists, min(rows, lists * _ROWS_PER_LIST)


def _code_bytes(dim: int, room: float) -> int:
    """Return the longest code size that fits into `room` bytes; the shortest if none does."""
    lengths = [dim // share for share in _PQ_SHARES if dim >= share]
    fitting = [length for length in lengths if length <= room]
    return fitting[0] if fitting else lengths[-1]


def plan_factory(
    rows: int,
    dim: int,
    factory: str,
    max_memory_bytes: int = DEFAULT_MEMORY,
    *,
    dtype: str = "float32",
    process_bytes: int = PROCESS_BYTES,
) -> IndexPlan:
    """Plan what a user's factory string describes; `Flat` is the exact index.

    Args:
        rows: Vectors.
        dim: Values in each.
        factory: A string for `faiss.index_factory`, such as `IVF1024,SQ8`.
        max_memory_bytes: As in `plan_index`.
        dtype: As in `plan_index`.
        process_bytes: As in `plan_index`.

    Raises:
        SpecError: If Faiss rejects it, it keeps its own vectors for reranking, or it cannot be built in this memory.
        MissingExtraError: If Faiss is not installed.
    """
    sizes = _inputs(rows, dim, dtype, max_memory_bytes, process_bytes)
    reason = f"factory={factory!r} was given"
    if factory == "Flat":
        return dataclasses.replace(_exact(sizes, reason), asked=True)
    if re.search(r"(^|,)(RFlat|Refine|IDMap)", factory):
        raise SpecError(
            setting("factory", factory) + ": clipmill itself keeps full vectors and reranks",
            hint="leave IDMap, RFlat and Refine out",
        )
    empty = make_index(dim, factory)
    ivf = ivf_of(empty)
    lists = 0 if ivf is None else int(ivf.nlist)
    whole = index_bytes(empty, rows)
    train_rows = min(rows, max(lists * _ROWS_PER_LIST, 0 if empty.is_trained else _PQ_TRAINING_ROWS))
    training = int(train_rows * dim * 4 * _TRAINING_COPIES)
    build = sizes.held + max(training, filled_bytes(empty, rows))
    if build > max_memory_bytes:
        raise SpecError(
            setting("factory", factory)
            + f" takes some {decimal(build)} to build for {rows:,} rows of {dim} values, and "
            f"max_memory is {decimal(max_memory_bytes)}",
            hint="allow more, or leave the factory out",
        )
    return sizes.plan(
        kind="custom",
        factory=factory,
        lists=lists,
        train_rows=train_rows,
        code_bytes=code_bytes_of(empty),
        index_bytes=whole,
        build_bytes=build,
        search_bytes=min(max_memory_bytes, sizes.held + whole),
        reasons=(reason,),
        asked=True,
    )


def check_sizes(rows: int, dim: int, dtype: str) -> None:
    """Raise `SpecError` if there are no rows, no values, or the dtype is neither float32 nor float16."""
    if rows < 1 or dim < 1:
        raise SpecError(f"an index needs at least one vector: {rows} rows of {dim} values were given")
    check_choice("dtype", dtype, ("float32", "float16"))
