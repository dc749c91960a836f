"""Converts rows to batches of a fixed schema; a row that does not fit fails alone, and the others are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from ...errors import DatasetError
from ...failures import Code, Failure, Stage


class Batches(NamedTuple):
    """Rows that are ready to be written.

    Attributes:
        batches: The rows that fit, in order.
        mismatches: Why the other rows do not fit, by their position in the input.
    """

    batches: list[pa.RecordBatch]
    mismatches: dict[int, Failure]


def fitting_batches(rows: Sequence[Any], make: Callable[[Sequence[Any]], pa.RecordBatch]) -> Batches:
    """Convert rows to batches: one batch if all rows fit, else several without the rows that do not fit.

    `make` converts rows to a batch, or raises `DatasetError`.
    """
    if not rows:
        return Batches([], {})
    try:
        return Batches([make(rows)], {})
    except DatasetError as err:
        if len(rows) == 1:
            message = f"the row does not fit the dataset's schema: {err}"
            return Batches([], {0: Failure(Stage.READ, Code.MALFORMED, message)})
    middle = len(rows) // 2
    first, second = fitting_batches(rows[:middle], make), fitting_batches(rows[middle:], make)
    later = {middle + position: failure for position, failure in second.mismatches.items()}
    return Batches(first.batches + second.batches, first.mismatches | later)
