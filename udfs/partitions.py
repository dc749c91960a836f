"""A partition of a DataFrame through an encoder: rows out of Arrow batches, and back with columns added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ..encoders.encoder import Encoder
from ..encoders.item import Item
from ..encoders.outcome import Finished
from ..encoders.plans.columns import Embedded, MissingColumn
from ..metrics.stats import Stats
from .meter import Meter
from .schema import Source
from .values import Reader

_LEAST_ROWS = 32
"""Rows that wait for each other before they leave, so that nulls don't leave one by one."""

Values = dict[str, Any]
"""A row's values by their paths."""


class Work(NamedTuple):
    """What is done with the rows of a partition.

    Attributes:
        reader: Returns what makes values of Python of a type of Arrow.
        items: Returns what is embedded of a row.
        results: Gives rows their outcomes back, in the order of `items`; their tokens are their values.
        names: Of the columns that are added.
        arrays: Makes those columns, of several rows.
    """

    reader: Callable[[pa.DataType], Reader]
    items: Callable[[Values], list[Item]]
    results: Callable[[Sequence[Finished]], Sequence[Embedded]]
    names: Sequence[str]
    arrays: Callable[[Sequence[Embedded]], list[pa.Array]]


class _Place(NamedTuple):
    """Where a row came from, and its values without the bytes in them: its results are told by how many there are."""

    batch: pa.RecordBatch
    row: int
    values: Values


def work_through(
    batches: Iterable[pa.RecordBatch], encoder: Encoder, sources: Sequence[Source], work: Work, meter: Meter
) -> Iterator[pa.RecordBatch]:
    """Take the rows of a partition through one session, so that they share micro-batches.

    Args:
        batches: As Spark cut them.
        encoder: What embeds.
        sources: Where the values are.
        work: What is done with them.
        meter: What counts.

    Yields:
        The same rows in the same order, in smaller batches, as micro-batches become ready: whoever takes only the
        first rows doesn't wait for a whole batch of Spark. Columns that were there are slices, not copies.
    """
    least_rows = min(encoder.spec.max_batch_rows or _LEAST_ROWS, _LEAST_ROWS)
    waiting: list[Finished] = []
    # who stops early, or fails, leaves nothing behind that is still being fetched
    with meter.counting() as stats, encoder.session(stats) as session:
        for batch in batches:
            arrays = {source.path: _values_at(batch, source.steps) for source in sources}
            readers = {path: work.reader(array.type) for path, array in arrays.items()}
            for row in range(batch.num_rows):
                values = {path: readers[path](array[row]) for path, array in arrays.items()}
                items = work.items(values)
                place = _Place(batch, row, {path: _without_bytes(value) for path, value in values.items()})
                waiting += session.push(place, items)
                if len(waiting) >= least_rows:
                    yield from _write(waiting, work, stats)
                    waiting = []
                    meter.report_some(stats)
        yield from _write(waiting + session.flush(), work, stats)


def getter(values: Values) -> Callable[[str], Any]:
    """Return what plans ask for a row's values."""

    def get(path: str) -> Any:
        if path not in values:  # the plan's key: rows of a DataFrame carry their failures, which need no name
            raise MissingColumn(path)
        return values[path]

    return get


def _without_bytes(value: Any) -> Any:
    """Return a value, encoded images and sounds emptied: rows wait longer than what they hold is needed."""
    if isinstance(value, bytes):
        return b""
    if isinstance(value, list) and any(isinstance(element, bytes) for element in value):
        return [_without_bytes(element) for element in value]
    return value


def _values_at(batch: pa.RecordBatch, steps: Sequence[int]) -> pa.Array:
    column = batch.column(steps[0])
    return pc.struct_field(column, list(steps[1:])) if len(steps) > 1 else column


def _write(rows: Sequence[Finished], work: Work, stats: Stats) -> Iterator[pa.RecordBatch]:
    """Yield rows, cut where one of Spark's batches ended and the next began."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end].token.batch is not rows[start].token.batch:
            yield _write_slice(rows[start:end], work, stats)
            start = end


def _write_slice(rows: Sequence[Finished], work: Work, stats: Stats) -> pa.RecordBatch:
    batch, first, _ = rows[0].token
    kept = batch.slice(first, len(rows))
    made = work.results([Finished(row.token.values, row.outcomes) for row in rows])
    for row, result in zip(rows, made, strict=True):
        if result.failures:
            stats.count_new(result.failures, row.outcomes)
    added = work.arrays(made)
    # The schema of what was there is kept as it came; Spark looks at positions and types alone.
    return pa.RecordBatch.from_arrays([*kept.columns, *added], [*batch.schema.names, *work.names])
