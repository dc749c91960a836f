"""The counts of a session, with the same names in the metrics of every engine."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable

from ..failures import Failure


@dataclasses.dataclass(slots=True)
class Stats:
    """Counts of one session, or sums over several.

    Attributes:
        rows: Rows pushed.
        embedded: Values that got a vector; a row with two columns has two.
        given: Values with precomputed vectors.
        cache_hits: Values whose vectors were reused from equal values: see `vector_cache`.
        cache_misses: Values whose vectors could be reused, and that were the first of their kind.
        nulls: Values that were null and gave a null vector.
        rejected: Rows whose score is below the least one to keep, or that have none.
        failed: Values that failed, by reason code.
        batches: Calls of the model.
        batch_rows: Number of calls by their number of rows.
        fetch_msec: Milliseconds spent fetching, summed over threads.
        decode_msec: Milliseconds spent decoding and tokenising, summed over threads.
        encode_msec: Milliseconds spent in the model, summed over calls that run at once.
        truncated_texts: Texts cut to the context length.
        out_of_memory_retries: Micro-batches halved because memory ran out.
    """

    rows: int = 0
    embedded: int = 0
    given: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    nulls: int = 0
    rejected: int = 0
    failed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    batches: int = 0
    batch_rows: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    fetch_msec: float = 0.0
    decode_msec: float = 0.0
    encode_msec: float = 0.0
    truncated_texts: int = 0
    out_of_memory_retries: int = 0

    def count_batch(self, rows: int) -> None:
        """Count one call of the model."""
        self.batches += 1
        self.batch_rows[rows] += 1

    def count_failure(self, failure: Failure) -> None:
        """Count one failed value."""
        self.failed[str(failure.code)] += 1

    def count_new(self, failures: Iterable[Failure], outcomes: Iterable[object]) -> None:
        """Count the failures of a row that its session has not counted.

        Args:
            failures: The failures of the row and of its parts.
            outcomes: The outcomes of its session, which has counted the failures among them.
        """
        counted = {(one.stage, one.code, one.message) for one in outcomes if isinstance(one, Failure)}
        for failure in failures:
            if (failure.stage, failure.code, failure.message) not in counted:
                self.count_failure(failure)

    def add(self, more: Stats) -> None:
        """Add the counts of a part."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(more, field.name))

    def take(self) -> Stats:
        """Return the counts since the last call, and reset them to zero."""
        taken = dataclasses.replace(self)
        for field in dataclasses.fields(self):
            fresh = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            setattr(self, field.name, fresh)
        return taken
