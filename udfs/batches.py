"""Embeds Arrow batches in a Python worker, without converting vectors to Python floats.

The worker functions here, in `score_batches`, `search` and `pandas_functions` have the same arguments: `spec` is the
encoder, and `meter` counts. `failures` is the result of a bad row: `null`; `struct`, a struct of the value and its
failure; or `raise`, which raises `EmbeddingError`. There are as many results as rows, in the same order; they are null
where a value is null. A column of a type that its kind does not take raises `SpecError`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import pyarrow as pa

from ..datasets.tables.column_types import is_list_type
from ..datasets.tables.vectors import nested_vector_array, vector_array
from ..encoders.item import item_of_value
from ..encoders.outcome import Outcome, Vector
from ..encoders.plans.embed_plan import FAILURES_COLUMN, ColumnPlan
from ..encoders.plans.plan import NewColumn, PlanResult
from ..encoders.plans.runner import PlanRunner
from ..errors import EmbeddingError, SpecError
from ..failures import Failure
from ..models.spec import EncoderSpec, Modality
from .meter import NO_DRIVER, PartitionMeter
from .partitions import NewArrays, run_partition
from .schema import ARROW_FAILURE, ARROW_FAILURES, ARROW_VECTOR, InputColumn
from .values import plain_reader_of
from .worker import encoder_of_task

# --- whole DataFrames ------------------------------------------------------------------------------------------------


def embed_batches(
    batches: Iterable[pa.RecordBatch],
    spec: EncoderSpec,
    plan: ColumnPlan,
    sources: Sequence[InputColumn],
    meter: PartitionMeter = NO_DRIVER,
) -> Iterator[pa.RecordBatch]:
    """Embed the columns of a partition, at `sources` in the plan's order, and yield the same rows with their vectors.

    See `partitions.run_partition`.
    """
    encoder = encoder_of_task(spec)
    columns, arrays = plan.added, {source.path for source in sources if source.is_array}

    def make(made: Sequence[PlanResult]) -> list[pa.Array]:
        return [*(_array(column, arrays, made, encoder.dim) for column in columns), failures_array(made)]

    added = NewArrays([*plan.new_names, FAILURES_COLUMN], make)
    yield from run_partition(batches, PlanRunner(plan, encoder), sources, added, meter, reader=plain_reader_of)


def _array(column: NewColumn, arrays: Collection[str], made: Sequence[PlanResult], dim: int) -> pa.Array:
    """Return the values of a new column; `arrays` are the paths of columns with arrays."""
    values = [row.value[column.name] for row in made]
    if column.holds == "flag":
        return pa.array(values, pa.bool_())
    if column.holds == "score":
        return pa.array(values, pa.float64())
    if column.source in arrays:
        return nested_vector_array(values, dim).cast(pa.list_(ARROW_VECTOR))
    return vector_array(values, dim).cast(ARROW_VECTOR)


def failures_array(rows: Sequence[PlanResult]) -> pa.Array:
    """Return the column of the rows' failures, null for rows without any."""
    failures = [[{"column": f.column, **failure_struct(f)} for f in row.failures] or None for row in rows]
    return pa.array(failures, ARROW_FAILURES)


def failure_struct(failure: Failure) -> dict[str, str]:
    """Return a failure as a row says it."""
    return {"stage": str(failure.stage), "code": str(failure.code), "message": failure.message}


# --- single columns --------------------------------------------------------------------------------------------------


def embed_array(
    values: pa.Array, spec: EncoderSpec, modality: Modality, failures: str, meter: PartitionMeter = NO_DRIVER
) -> pa.Array:
    """Embed one column of an Arrow batch, and return vectors, or structs of embedding and failure.

    Values are strings; for images also binary, Spark's image struct or struct<bytes, path>; for audio binary, or a
    struct of samples and rate or of bytes and path.
    """
    _check_arrow_type(values.type, modality)
    encoder = encoder_of_task(spec)
    read = plain_reader_of(values.type)
    items = (item_of_value(modality, read(value)) for value in values)
    with meter.counting() as stats:
        return outcomes_array(encoder.embed_items(items, stats), encoder.dim, failures)


def raise_failures(outcomes: Sequence[object]) -> None:
    """Raise `EmbeddingError` if there is a failure among the outcomes."""
    failures: dict[int, object] = {row: one for row, one in enumerate(outcomes) if isinstance(one, Failure)}
    if failures:
        raise EmbeddingError(failures, "rows count from 0 in their Arrow batch; failures='struct' returns the reasons")


def outcomes_array(outcomes: Sequence[Outcome], dim: int, failures: str) -> pa.Array:
    """Return the column of an expression, made from its outcomes; see `embed_array`."""
    vectors = [outcome.values if isinstance(outcome, Vector) else None for outcome in outcomes]
    return with_failures("embedding", vector_array(vectors, dim).cast(ARROW_VECTOR), outcomes, failures)


def with_failures(name: str, values: pa.Array, outcomes: Sequence[object], failures: str) -> pa.Array:
    """Apply the `failures` option of an expression: return the values, or structs of `name` and failure.

    `outcomes` has a `Failure`, None for null, or anything else for each row.
    """
    if failures == "raise":
        raise_failures(outcomes)
    if failures != "struct":
        return values
    reasons = [failure_struct(outcome) if isinstance(outcome, Failure) else None for outcome in outcomes]
    is_null = pa.array([outcome is None for outcome in outcomes], pa.bool_())
    return pa.StructArray.from_arrays([values, pa.array(reasons, ARROW_FAILURE)], names=[name, "failure"], mask=is_null)


def _check_arrow_type(type_: pa.DataType, modality: str) -> None:
    kinds = pa.types
    if kinds.is_string(type_) or kinds.is_large_string(type_) or kinds.is_null(type_):
        return
    if modality != "text" and (kinds.is_binary(type_) or kinds.is_large_binary(type_)):
        return
    if modality != "text" and kinds.is_struct(type_):
        return
    takes = "strings" if modality == "text" else f"binary, strings (URIs) or structs of {modality}"
    hint = "; for an array of them use embed_columns" if is_list_type(type_) else ""
    raise SpecError(f"embed_{modality} takes a column of {takes}, got {type_}{hint}")
