"""Rows as batches of a fixed schema: one that does not fit it fails alone, and the others are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from ...errors import DatasetError
from ...failures import Code, Failure, Stage


class Batches(NamedTuple):
    """Rows, ready to be written.

    Attributes:
        batches: Those that fit, in order.
        mismatches: Why the others do not, by their position in what was given.
    """

    batches: list[pa.RecordBatch]
    mismatches: dict[int, Failure]


def fitting_batches(rows: Sequence[Any], make: Callable[[Sequence[Any]], pa.RecordBatch]) -> Batches:
    """Return rows as batches: as one if all of them fit, else cut at those that do not.

    Args:
        rows: Of any number, also none.
        make: Returns rows as a batch, or raises `DatasetError`.
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
