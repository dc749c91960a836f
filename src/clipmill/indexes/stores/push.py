"""`push_dataset`: reads the vectors of a dataset and writes them into a collection of a vector database."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import pyarrow as pa

from ...datasets.tables.schemas import in_columns
from ...errors import DatasetError, SpecError, check_choice, check_flags, check_integer
from ...messages import setting
from ..source import VectorSource, open_source, read_piece
from ..units import matrix_of
from .collection import PARTS_SUFFIX, Description, Metric, NewCollection, Rows, Store, open_collection
from .parts import Part, check_ids, id_kind, parts_of
from .target import MODULES, Target

METRICS: tuple[Metric, ...] = ("cosine", "dot", "l2")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_NAME = 63 - len(PARTS_SUFFIX)  # PostgreSQL's limit
_ASKED_AT_ONCE = 500


@dataclasses.dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did.

    Attributes:
        collection: Its name.
        created: Whether it was not there before.
        rows: Rows that were written, or written again.
        there: Rows of parts that an earlier push had written; their vectors were not read.
        nulls: Rows without a vector (those that failed), which were left out.
        not_finite: Rows with a NaN or an infinity in their vector, which were left out.
    """

    collection: str
    created: bool
    rows: int
    there: int
    nulls: int
    not_finite: int


def push_dataset(
    dataset: str | os.PathLike[str],
    to: str,
    *,
    collection: str | None = None,
    column: str | None = None,
    id_column: str = "id",
    drop: Sequence[str] = (),
    metric: Metric | None = None,
    batch_rows: int | None = None,
    partial: bool = False,
    again: bool = False,
    on_start: Callable[[str, int, int], None] | None = None,
) -> Pushed:
    """Write the vectors of a dataset into a vector database, each row in place of the one with its id.

    The database remembers which parts were pushed (row groups of files), so that the same call after an error, or
    after the dataset has grown, writes the others.

    Args:
        dataset: Directory or file, as path or URL.
        to: URL of the database: `postgresql://user@host/database`, `qdrant://host`, `milvus://host`,
            `lancedb:///folder`; see docs/ecosystem.md. Passwords may stand in environment variables instead.
        collection: Name of the collection or table, created if it is not there. By default, that of the dataset.
        column: The column of vectors; needed where there are several.
        id_column: Column of texts or integers, different in all rows.
        drop: Columns that rows do not take along; those with vectors or bytes never go.
        metric: `cosine` (the default), `dot` or `l2`, for Qdrant and Milvus; the others are told it with an index or
            a search.
        batch_rows: Rows that are written at a time.
        partial: Whether a dataset whose job has not ended is accepted.
        again: Whether parts that were pushed before are pushed again.
        on_start: Called before the first row is written, with the place, the rows to write and those there already.

    Raises:
        SpecError: If an option is invalid.
        DatasetError: If the dataset cannot be read or its ids are missing or repeated, the database refuses a call,
            or a collection that is there has vectors of another model or dimension.
        MissingExtraError: If the database's client is not installed.
    """
    dataset = os.fspath(dataset)
    for option, value in {"to": to, "collection": collection or "", "id_column": id_column}.items():
        if not isinstance(value, str):
            raise SpecError(setting(option, value) + " is not a text")
    if isinstance(drop, str):
        raise SpecError(setting("drop", drop) + " must be a list of names, such as " + repr([drop]))
    target = Target.of(to)
    name = _name_of(collection, dataset)
    check_flags(partial=partial, again=again)
    if batch_rows is not None:
        check_integer("batch_rows", batch_rows)
    if metric is not None:
        check_choice("metric", metric, METRICS)
    source = open_source([dataset], column=column, partial=partial, drop=drop)
    columns = _carried(source, id_column, drop)
    kind = id_kind(source, id_column)
    if not source.dim:
        raise DatasetError(f"{dataset} has no vector in the column {source.column!r}: there is nothing to push")
    check_ids(source, id_column)
    parts = parts_of(source, [id_column, *columns.names])
    with _connected(target) as store:
        description = Description(source.dim, kind, _metric_of(store, metric, target), source.provenance)
        new = NewCollection(name, description, id_column, source.column, columns)
        created = open_collection(store, new, f"{target.shown}, collection {name!r}")
        done = set() if again or created else _pushed(store, parts)
        missing = [part for part in parts if part.key is None or part.key not in done]
        rows = sum(part.piece.rows for part in missing)
        if on_start is not None:
            on_start(f"{name} in {target.shown}", rows, source.rows - rows)
        writer = _Writer(store, source, new, batch_rows or store.batch_rows)
        for part in missing:
            writer.add(part)
        writer.flush()
    return Pushed(name, created, writer.rows, source.rows - rows, writer.nulls, writer.not_finite)


@contextlib.contextmanager
def _connected(target: Target) -> Iterator[Store]:
    module = importlib.import_module(f".{MODULES[target.scheme]}", __package__)
    store: Store = module.connect(target)
    try:
        yield store
    finally:
        with contextlib.suppress(Exception):  # everything is written, or the error says what is not
            store.close()


def _name_of(collection: str | None, dataset: str) -> str:
    if collection is None:
        last = re.split(r"[/\\]", dataset.rstrip("/\\"))[-1].removesuffix(".parquet")
        collection = re.sub(r"\W", "_", last, flags=re.ASCII)[:_MAX_NAME]
        if not _NAME.fullmatch(collection):
            raise SpecError(
                f"{dataset} gives no name of a collection", hint="name it with " + setting("collection", ...)
            )
    if not _NAME.fullmatch(collection) or len(collection) > _MAX_NAME:
        raise SpecError(
            setting("collection", collection)
            + f" must have 1 to {_MAX_NAME} letters (a to z), digits and underscores, and not begin with a digit"
        )
    return collection


def _carried(source: VectorSource, id_column: str, drop: Sequence[str]) -> pa.Schema:
    """Return the columns that rows take along."""
    known = {*source.keys.names, *source.left_out}
    if unknown := [one for one in drop if one not in known]:
        raise SpecError(setting("drop", unknown[0]) + f" is no column; the columns are {', '.join(sorted(known))}")
    if id_column in drop:
        raise SpecError(setting("drop", id_column) + " is the column that names rows, which have to have it")
    return pa.schema([field for field in source.keys if field.name not in {id_column, *drop}])


def _metric_of(store: Store, metric: Metric | None, target: Target) -> Metric | None:
    if store.metrics:
        return metric or "cosine"
    if metric is not None:
        raise SpecError(
            setting("metric", metric) + f" has no effect on {target.scheme}, which is told it by an index or a search"
        )
    return None


def _pushed(store: Store, parts: Sequence[Part]) -> Collection[str]:
    keys = [part.key for part in parts if part.key is not None]
    found: set[str] = set()
    for first in range(0, len(keys), _ASKED_AT_ONCE):
        found.update(store.pushed(keys[first : first + _ASKED_AT_ONCE]))
    return found


class _Writer:
    """Gathers the rows of parts into batches, and has a part remembered with the batch that has its last row."""

    def __init__(self, store: Store, source: VectorSource, new: NewCollection, batch_rows: int) -> None:
        self.rows = self.nulls = self.not_finite = 0
        self._store, self._source, self._new, self._batch_rows = store, source, new, batch_rows
        self._schema = pa.schema([source.keys.field(new.id_column), *new.columns])
        self._held: list[tuple[np.ndarray, pa.Table]] = []
        self._held_rows = 0
        self._ended: list[str] = []

    def add(self, part: Part) -> None:
        """Read a part, writing batches as they become full."""
        column, names = self._source.column, [self._source.column, *self._schema.names]
        for batch in read_piece(part.piece, names, block_rows=self._batch_rows):
            vectors, valid = matrix_of(batch.column(column), self._source.dim, part.piece.path)
            finite = np.isfinite(vectors).all(axis=1)
            taken = valid.copy()
            taken[valid] = finite
            self.nulls += int((~valid).sum())
            self.not_finite += int((~finite).sum())
            others = in_columns(batch, self._schema, batch.num_rows)
            self._hold(vectors[finite], others.filter(pa.array(taken)))
        if part.key is not None:
            self._ended.append(part.key)

    def _hold(self, vectors: np.ndarray, others: pa.Table) -> None:
        if self._held_rows + len(vectors) > self._batch_rows:
            self.flush()
        if len(vectors):
            self._held.append((vectors, others))
            self._held_rows += len(vectors)

    def flush(self) -> None:
        """Write what is held, and have the parts that ended remembered."""
        if not (self._held or self._ended):
            return
        table = pa.concat_tables([self._schema.empty_table(), *(one for _, one in self._held)])
        dim = self._source.dim
        vectors = np.concatenate([np.empty((0, dim), np.float32), *(one for one, _ in self._held)])
        ids = table.column(self._new.id_column).combine_chunks()
        self._store.upsert(Rows(ids, vectors, table.select(self._new.columns.names)), self._ended)
        self.rows += len(vectors)
        self._held, self._held_rows, self._ended = [], 0, []
