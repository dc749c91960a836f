"""A partition of a DataFrame through an encoder: rows out of Arrow batches, and back with columns added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ..encoders.plans.plan import PlanResult
from ..encoders.plans.row_values import Getter, MissingColumn
from ..encoders.plans.runner import Done, PlanRunner
from .meter import PartitionMeter
from .schema import InputColumn
from .values import Reader

_LEAST_ROWS = 32
"""Rows that wait for each other before they leave, so that nulls don't leave one by one."""

Values = dict[str, Any]
"""A row's values by their paths."""


class NewArrays(NamedTuple):
    """The columns that are added to the rows of a partition."""

    names: Sequence[str]
    make: Callable[[Sequence[PlanResult]], list[pa.Array]]


class _Place(NamedTuple):
    """The origin of a row."""

    batch: pa.RecordBatch
    row: int


def run_partition(
    batches: Iterable[pa.RecordBatch],
    runner: PlanRunner,
    sources: Sequence[InputColumn],
    added: NewArrays,
    meter: PartitionMeter,
    *,
    reader: Callable[[pa.DataType], Reader],
) -> Iterator[pa.RecordBatch]:
    """Take the rows of a partition through one session, so that they share micro-batches.

    `reader` returns the reader of an Arrow type.

    Yields:
        The same rows in the same order, in smaller batches, as micro-batches become ready: a `limit` does not wait
        for a whole batch of Spark. Columns that were there are slices, not copies.
    """
    least_rows = min(runner.encoder.spec.max_batch_rows or _LEAST_ROWS, _LEAST_ROWS)
    # who stops early, or fails, leaves nothing behind that is still being fetched
    with meter.counting() as stats, runner.session(stats, least_rows=least_rows) as session:
        for batch in batches:
            arrays = {source.path: _values_at(batch, source.steps) for source in sources}
            readers = {path: reader(array.type) for path, array in arrays.items()}
            nbytes = batch.nbytes // max(batch.num_rows, 1)
            for row in range(batch.num_rows):
                values = {path: readers[path](array[row]) for path, array in arrays.items()}
                kept = {path: _without_bytes(value) for path, value in values.items()}
                if done := session.push(_Place(batch, row), getter(values), kept=getter(kept), nbytes=nbytes):
                    yield from _write(done, added)
                    meter.report_some(stats)
        yield from _write(session.flush(), added)


def getter(values: Values) -> Getter:
    """Return the getter of a row, for plans."""

    def get(path: str) -> Any:
        if path not in values:  # the plan's key: rows of a DataFrame carry their failures, which need no name
            raise MissingColumn(path)
        return values[path]

    return get


def _without_bytes(value: Any) -> Any:
    """Return a value without the bytes of images and audio, which a waiting row no longer needs."""
    if isinstance(value, bytes):
        return b""
    if isinstance(value, list) and any(isinstance(element, bytes) for element in value):
        return [_without_bytes(element) for element in value]
    return value


def _values_at(batch: pa.RecordBatch, steps: Sequence[int]) -> pa.Array:
    column = batch.column(steps[0])
    return pc.struct_field(column, list(steps[1:])) if len(steps) > 1 else column


def _write(rows: Sequence[Done], added: NewArrays) -> Iterator[pa.RecordBatch]:
    """Yield rows in batches that do not cross Spark's batches."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end].token.batch is not rows[start].token.batch:
            yield _write_slice(rows[start:end], added)
            start = end


def _write_slice(rows: Sequence[Done], added: NewArrays) -> pa.RecordBatch:
    batch, first = rows[0].token
    kept = batch.slice(first, len(rows))
    made = added.make([row.result for row in rows])
    # The input's schema is unchanged; Spark uses only positions and types.
    return pa.RecordBatch.from_arrays([*kept.columns, *made], [*batch.schema.names, *added.names])
