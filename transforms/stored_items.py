"""`StoredItems`: the items of a stored list, of which the graph of a pipeline has only the address."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PBegin, PCollection


class StoredItems(beam.PTransform):
    """Gives the items of a list that pickles to its address, spread over the workers; see `files.parted_list`.

    Their numbers go through the shuffle, and each worker reads the items of its own. `beam.Create` would put all of
    them into the graph, which runners limit (Dataflow to 10 MB).
    """

    def __init__(self, items: Sequence[Any]) -> None:
        """Take the list."""
        super().__init__()
        self._items = items

    def expand(self, begin: PBegin) -> PCollection:
        """Count, spread, read."""
        return (
            begin
            | "Once" >> beam.Create([None])
            | "Numbers" >> beam.ParDo(_NumbersFn(self._items)).with_output_types(int)
            | "Spread" >> beam.Reshuffle()
            | "Item" >> beam.ParDo(_ItemFn(self._items)).with_output_types(Any)
        )


class _NumbersFn(beam.DoFn):
    """Yields the numbers of all items."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items

    def process(self, _: None) -> Iterable[int]:
        return range(len(self._items))


class _ItemFn(beam.DoFn):
    """Yields the item of a number."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items

    def process(self, number: int) -> Iterable[Any]:
        yield self._items[number]
