"""What a Python worker does with Arrow batches: values out of them, vectors into them, no Python float on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ..encoders.columns import FAILURES_COLUMN, Column, ColumnPlan, Embedded, MissingColumn
from ..encoders.errors import EmbeddingError, SpecError
from ..encoders.failure import Code, Failure, RowError, Stage
from ..encoders.item import Item, item_of_value
from ..encoders.outcome import Finished, Outcome, Vector
from ..encoders.spec import EncoderSpec, Modality
from ..encoders.storage.scalars import read_scalar
from ..encoders.storage.vectors import nested_vector_array, vector_array
from .schema import ARROW_FAILURE, ARROW_FAILURES, ARROW_VECTOR, Source
from .worker import encoder_of_task

_LEAST_ROWS = 32
"""Rows that wait for each other before they leave, so that nulls don't leave one by one."""

_NOT_UTF8 = RowError(
    Stage.READ, Code.MALFORMED, "the string is not valid UTF-8; Spark's make_valid_utf8 replaces what is broken in it"
)


class _Place(NamedTuple):
    """Where a row came from, and its values, which its failures' columns are told by."""

    batch: pa.RecordBatch
    row: int
    values: dict[str, Any]


def read_value(scalar: pa.Scalar) -> Any:
    """Return a value of Arrow as a value of Python.

    Args:
        scalar: Of any type. Spark lets a string hold any bytes, and Arrow passes them on.

    Returns:
        The value; a `RowError` in place of a string that is not UTF-8, or of the struct that holds it. Only that
        element of an array is replaced. A sound's samples, in a struct with their rate, come as an array.
    """
    try:
        return read_scalar(scalar)
    except UnicodeDecodeError:
        if isinstance(scalar, pa.ListScalar):
            return [read_value(element) for element in scalar.values]
        return _NOT_UTF8


# --- whole DataFrames ------------------------------------------------------------------------------------------------


def embed_batches(
    batches: Iterable[pa.RecordBatch], spec: EncoderSpec, plan: ColumnPlan, sources: Sequence[Source]
) -> Iterator[pa.RecordBatch]:
    """Embed the columns of a partition.

    Args:
        batches: As Spark cut them.
        spec: What embeds.
        plan: The columns.
        sources: Where they are, in the plan's order.

    Yields:
        The same rows in the same order, in smaller batches, as micro-batches become ready: whoever takes only the
        first rows doesn't wait for a whole batch of Spark. Columns that were there are slices, not copies.
    """
    encoder = encoder_of_task(spec)
    least_rows = min(spec.max_batch_rows or _LEAST_ROWS, _LEAST_ROWS)
    writer = _Writer(plan, sources, encoder.dim)
    waiting: list[Finished] = []
    with encoder.session() as session:  # who stops early, or fails, leaves nothing behind that is still being fetched
        for batch in batches:
            arrays = {source.path: _values_at(batch, source.steps) for source in sources}
            for row in range(batch.num_rows):
                values = {path: read_value(array[row]) for path, array in arrays.items()}
                waiting += session.push(_Place(batch, row, values), _items(plan, values))
                if len(waiting) >= least_rows:
                    yield from writer.write(waiting)
                    waiting = []
        yield from writer.write(waiting + session.flush())


def _values_at(batch: pa.RecordBatch, steps: Sequence[int]) -> pa.Array:
    column = batch.column(steps[0])
    return pc.struct_field(column, list(steps[1:])) if len(steps) > 1 else column


def _getter(values: dict[str, Any]) -> Callable[[str], Any]:
    def get(path: str) -> Any:
        if path not in values:  # the plan's key: rows of a DataFrame carry their failures, which need no name
            raise MissingColumn(path)
        return values[path]

    return get


def _items(plan: ColumnPlan, values: dict[str, Any]) -> list[Item]:
    """Return the items of a row, in the plan's order; what `read_value` could not read fails."""
    columns = [values[path] for path in plan.columns]
    elements = [element for value in columns for element in (value if isinstance(value, list) else [value])]
    items = plan.items(_getter(values))
    return [
        Item(item.modality, failure=element) if isinstance(element, RowError) else item
        for item, element in zip(items, elements, strict=True)
    ]


class _Writer:
    """Makes record batches of finished rows."""

    def __init__(self, plan: ColumnPlan, sources: Sequence[Source], dim: int) -> None:
        self._plan = plan
        self._columns = list(zip(sources, plan.columns.values(), strict=True))
        self._dim = dim

    def write(self, rows: Sequence[Finished]) -> Iterator[pa.RecordBatch]:
        """Yield rows, cut where one of Spark's batches ended and the next began."""
        start = 0
        for end in range(1, len(rows) + 1):
            if end == len(rows) or rows[end].token.batch is not rows[start].token.batch:
                yield self._write_slice(rows[start:end])
                start = end

    def _write_slice(self, rows: Sequence[Finished]) -> pa.RecordBatch:
        batch, first, _ = rows[0].token
        kept = batch.slice(first, len(rows))
        made = [self._plan.results(_getter(row.token.values), row.outcomes) for row in rows]
        added = [array for source, column in self._columns for array in self._arrays(source, column, made)]
        added.append(_failures_array([row.failures for row in made]))
        # The schema of what was there is kept as it came; Spark looks at positions and types alone.
        names = [*batch.schema.names, *self._plan.new_names, FAILURES_COLUMN]
        return pa.RecordBatch.from_arrays([*kept.columns, *added], names)

    def _arrays(self, source: Source, column: Column, made: Sequence[Embedded]) -> Iterator[pa.Array]:
        values = [row.values[str(column.output)] for row in made]
        if source.is_array:
            yield nested_vector_array(values, self._dim).cast(pa.list_(ARROW_VECTOR))
        else:
            yield vector_array(values, self._dim).cast(ARROW_VECTOR)
        if column.truncated:
            yield pa.array([row.values[column.truncated] for row in made], pa.bool_())


def _failures_array(failures: Sequence[Sequence[Failure]]) -> pa.Array:
    rows = [[{"column": f.column, **failure_struct(f)} for f in row] or None for row in failures]
    return pa.array(rows, ARROW_FAILURES)


def failure_struct(failure: Failure) -> dict[str, str]:
    """Return a failure as a row says it."""
    return {"stage": str(failure.stage), "code": str(failure.code), "message": failure.message}


# --- single columns --------------------------------------------------------------------------------------------------


def embed_array(values: pa.Array, spec: EncoderSpec, modality: Modality, failures: str) -> pa.Array:
    """Embed one column of an Arrow batch.

    Args:
        values: Strings; for images also binary, Spark's image struct or struct<bytes, path>; for sounds binary, or a
            struct of samples and rate or of bytes and path.
        spec: What embeds.
        modality: As what.
        failures: What becomes of a bad row: `null`, `struct` or `raise`.

    Returns:
        As many vectors (or structs of embedding and failure), in order; null where the value is null.

    Raises:
        SpecError: If the column holds something else.
        EmbeddingError: If a row is bad and `failures="raise"`.
    """
    _check_arrow_type(values.type, modality)
    encoder = encoder_of_task(spec)
    items = (_item(modality, read_value(value)) for value in values)
    return outcomes_array(encoder.embed_items(items), encoder.dim, failures)


def _item(modality: Modality, value: Any) -> Item:
    return Item(modality, failure=value) if isinstance(value, RowError) else item_of_value(modality, value)


def raise_failures(outcomes: Sequence[Outcome]) -> None:
    """Raise `EmbeddingError` if there is a failure among the outcomes."""
    failures = {row: outcome for row, outcome in enumerate(outcomes) if isinstance(outcome, Failure)}
    if failures:
        raise EmbeddingError(dict(failures))


def outcomes_array(outcomes: Sequence[Outcome], dim: int, failures: str) -> pa.Array:
    """Return the column that an expression makes of its outcomes; see `embed_array`."""
    if failures == "raise":
        raise_failures(outcomes)
    vectors = [outcome.values if isinstance(outcome, Vector) else None for outcome in outcomes]
    array = vector_array(vectors, dim).cast(ARROW_VECTOR)
    if failures != "struct":
        return array
    reasons = [failure_struct(outcome) if isinstance(outcome, Failure) else None for outcome in outcomes]
    is_null = pa.array([outcome is None for outcome in outcomes], pa.bool_())
    return pa.StructArray.from_arrays(
        [array, pa.array(reasons, ARROW_FAILURE)], names=["embedding", "failure"], mask=is_null
    )


def _check_arrow_type(type_: pa.DataType, modality: str) -> None:
    kinds = pa.types
    if kinds.is_string(type_) or kinds.is_large_string(type_) or kinds.is_null(type_):
        return
    if modality != "text" and (kinds.is_binary(type_) or kinds.is_large_binary(type_)):
        return
    if modality != "text" and kinds.is_struct(type_):
        return
    takes = "strings" if modality == "text" else f"binary, strings (URIs) or structs of {modality}"
    way_out = "; for an array of them use embed_columns" if kinds.is_list(type_) or kinds.is_large_list(type_) else ""
    raise SpecError(f"embed_{modality} takes a column of {takes}, got {type_}{way_out}")
