"""Values that are carried from the input to the output as Arrow values, unchanged: never as Python values.

Python has no date after the year 9999, no nanoseconds in times, and one type for several of Arrow's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa


class CarriedRow(NamedTuple):
    """A row of a record batch.

    Attributes:
        batch: The columns to carry, and no others: a row holds its whole batch in memory.
        number: The number of the row in the batch.
    """

    batch: pa.RecordBatch
    number: int

    @property
    def nbytes(self) -> int:
        """The row's share of the batch, in bytes."""
        return int(self.batch.nbytes // max(self.batch.num_rows, 1))


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


def carried_column(rows: Sequence[Mapping[str, Any]], field: pa.Field) -> pa.Array | None:
    """Return a column of rows, of the field's type; None if it is not carried, but among their Python values.

    A column that the rows' file lacks is null.

    Raises:
        pyarrow.ArrowException: If a value does not fit the field's type, or a text is not UTF-8.
    """
    if not all(isinstance(row, FinishedValues) for row in rows):
        return None
    carried = [row.carried for row in rows]  # type: ignore[attr-defined]
    if not any(field.name in one.batch.schema.names for one in carried) and any(field.name in row for row in rows):
        return None
    pieces = [
        piece.column(field.name) if field.name in piece.schema.names else pa.nulls(piece.num_rows, field.type)
        for piece in _slices(carried)
    ]
    arrays = [piece if piece.type.equals(field.type) else piece.cast(field.type) for piece in pieces]
    column = arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
    column.validate(full=True)
    return column


def _slices(rows: Sequence[CarriedRow]) -> Iterator[pa.RecordBatch]:
    """Yield slices of the rows' batches, one for neighbours. Not every type of Arrow can be taken by number."""
    numbered = enumerate(rows)
    for _, run in itertools.groupby(numbered, lambda one: (id(one[1].batch), one[1].number - one[0])):
        neighbours = [row for _, row in run]
        yield neighbours[0].batch.slice(neighbours[0].number, len(neighbours))
