"""Values that are carried from the input to the output as Arrow values, unchanged: never as Python values.

Python has no date after the year 9999, no nanoseconds in times, and one type for several of Arrow's.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from .column_types import as_type


class CarriedRow(NamedTuple):
    """A row of a record batch.

    Attributes:
        batch: The columns to carry, and no others: a row holds its whole batch in memory.
        number: The number of the row in the batch.
        nbytes: The row's share of the batch, in bytes.
    """

    batch: pa.RecordBatch
    number: int
    nbytes: int


def carried_rows(batch: pa.RecordBatch) -> list[CarriedRow]:
    """Return the rows of a batch."""
    nbytes = batch.nbytes // max(batch.num_rows, 1)
    return [CarriedRow(batch, number, nbytes) for number in range(batch.num_rows)]


class FinishedValues(dict[str, Any]):
    """The values of a finished row: Python values of new columns, and Arrow values of carried ones.

    Attributes:
        carried: The carried columns. They take precedence over values of the same name.
    """

    __slots__ = ("carried",)

    def __init__(self, values: Mapping[str, Any], carried: CarriedRow) -> None:
        """Store the values, and the row."""
        super().__init__(values)
        self.carried = carried


def carried_batches(rows: Sequence[Mapping[str, Any]]) -> list[pa.RecordBatch] | None:
    """Return the carried columns of finished rows, in slices of their batches; None for rows that are not carried.

    Neighbours share a slice. Rows are not taken by number, which Arrow cannot do for every type.
    """
    if not rows or not all(isinstance(row, FinishedValues) for row in rows):
        return None
    numbered = enumerate(row.carried for row in rows)  # type: ignore[attr-defined]
    slices = []
    for _, run in itertools.groupby(numbered, lambda one: (id(one[1].batch), one[1].number - one[0])):
        neighbours = [row for _, row in run]
        slices.append(neighbours[0].batch.slice(neighbours[0].number, len(neighbours)))
    return slices


def carried_column(batches: Sequence[pa.RecordBatch], field: pa.Field) -> pa.Array | None:
    """Return a carried column, of the field's type; None if no batch has it.

    Raises:
        pyarrow.ArrowException: If a value does not fit the field's type, or a text is not UTF-8.
    """
    found = [batch.schema.get_field_index(field.name) for batch in batches]
    if max(found) < 0:
        return None
    arrays = []
    for batch, place in zip(batches, found, strict=True):
        column = batch.column(place) if place >= 0 else pa.nulls(batch.num_rows, field.type)
        arrays.append(as_type(column, field.type))
    column = arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
    column.validate(full=True)
    return column
