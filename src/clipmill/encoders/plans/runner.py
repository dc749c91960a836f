"""`PlanRunner`: runs rows through a plan and a session, from items to results, the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from ...failures import Failure
from ...metrics.stats import Stats
from ..encoder import Encoder
from ..outcome import Finished, Outcome
from .plan import Plan, PlanResult


class Done(NamedTuple):
    """A row or document with its results.

    Attributes:
        source: The row's getter, or the document.
        outcomes: One for each of its items.
    """

    token: Any
    source: Any
    outcomes: Sequence[Outcome]
    result: PlanResult


class PlanRunner:
    """A plan with a loaded encoder. Any number of sessions may share it."""

    def __init__(self, plan: Plan, encoder: Encoder) -> None:
        """Create the plan's tool, such as labels' vectors; raise `SpecError` if the model does not support it."""
        self.plan = plan
        self.encoder = encoder
        self._tool = plan.tool(encoder)

    def session(self, stats: Stats, *, hashed: bool = False, least_rows: int = 1) -> PlanSession:
        """Return a new session; it returns at least `least_rows` rows at a time, since batches are cheaper."""
        return PlanSession(self, stats, hashed=hashed, least_rows=least_rows)

    def finish(self, rows: Sequence[Finished], stats: Stats) -> list[Done]:
        """Return rows with their results, and count failures that the session has not counted.

        The token of each row is `(token, source, failure)`.
        """
        readable = [(source, outcomes) for (_, source, failure), outcomes in rows if failure is None]
        results = iter(self.plan.results(readable, self._tool))
        done = []
        for (token, source, failure), outcomes in rows:
            result = next(results) if failure is None else PlanResult(None, [failure])
            stats.rejected += failure is None and self.plan.rejection(result.value) is not None
            if result.failures or result.inner:
                stats.count_new([*result.failures, *result.inner], outcomes)
            done.append(Done(token, source, outcomes, result))
        return done


class PlanSession:
    """Push rows in, get them back in order with their results; see `EmbedSession`."""

    def __init__(self, runner: PlanRunner, stats: Stats, *, hashed: bool, least_rows: int) -> None:
        self._runner = runner
        self._stats = stats
        self._least_rows = least_rows
        self._waiting: list[Finished] = []
        self._session = runner.encoder.session(stats, hashed=hashed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def push(
        self, token: Any, source: Any, *, kept: Any = None, failure: Failure | None = None, nbytes: int = 0
    ) -> list[Done]:
        """Add a row or document and return those that are finished, oldest first.

        Args:
            token: Anything by which the caller recognizes it.
            source: The row's getter, or the document.
            kept: Replaces `source` when the result is computed, so that its content need not stay in memory.
            failure: Set if it could not be read. Then nothing of it is embedded.
            nbytes: Bytes that the caller holds for it, its contents included; see `EmbedSession.push`.

        Raises:
            ClipmillError: See `EmbedSession.push`.
        """
        items = [] if failure is not None else self._runner.plan.items(source)
        row_token = (token, source if kept is None else kept, failure)
        self._waiting += self._session.push(row_token, items, nbytes=nbytes)
        return self._finish() if len(self._waiting) >= self._least_rows else []

    def give_up(self, token: Any, source: Any, failure: Failure) -> list[Done]:
        """Return a row without embedding it: each of its items gets this failure."""
        outcomes: list[Outcome] = [failure] * len(self._runner.plan.items(source))
        return self._runner.finish([Finished((token, source, None), outcomes)], self._stats)

    def flush(self) -> list[Done]:
        """Finish all rows that were pushed and return them."""
        self._waiting += self._session.flush()
        return self._finish()

    def _finish(self) -> list[Done]:
        rows, self._waiting = self._waiting, []
        return self._runner.finish(rows, self._stats)

    def close(self) -> None:
        """Cancel everything in flight; see `EmbedSession.close`."""
        self._session.close()
