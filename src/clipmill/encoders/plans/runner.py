"""`PlanRunner`: rows through a plan and a session, from their items to their results, the same for every engine."""

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
        token: Whatever its owner knows it by.
        source: What its results were made of.
        outcomes: One for each of its items.
        result: What the plan made of them.
    """

    token: Any
    source: Any
    outcomes: Sequence[Outcome]
    result: PlanResult


class PlanRunner:
    """A plan in a process that has the model; any number of sessions share it."""

    def __init__(self, plan: Plan, encoder: Encoder) -> None:
        """Make the plan's tool, such as the vectors of labels.

        Args:
            plan: What is done.
            encoder: With what.

        Raises:
            SpecError: If the model cannot do it after all.
        """
        self.plan = plan
        self.encoder = encoder
        self._tool = plan.tool(encoder)

    def session(self, stats: Stats, *, hashed: bool = False, least_rows: int = 1) -> PlanSession:
        """Start with nothing in flight.

        Args:
            stats: Where values and failures are counted.
            hashed: Whether outcomes carry the hash of their content.
            least_rows: Rows that wait for each other before they leave: results of many cost less than one by one.
        """
        return PlanSession(self, stats, hashed=hashed, least_rows=least_rows)

    def finish(self, rows: Sequence[Finished], stats: Stats) -> list[Done]:
        """Return rows with their results, and count the failures that their session does not know of.

        Args:
            rows: Each with the token `(token, source, failure)`.
            stats: Where they are counted.
        """
        whole = [(source, outcomes) for (_, source, failure), outcomes in rows if failure is None]
        results = iter(self.plan.results(whole, self._tool))
        done = []
        for (token, source, failure), outcomes in rows:
            result = next(results) if failure is None else PlanResult(None, [failure])
            if result.failures or result.inner:
                stats.count_new([*result.failures, *result.inner], outcomes)
            done.append(Done(token, source, outcomes, result))
        return done


class PlanSession:
    """Push rows, get them back in order with their results; see `EmbedSession`."""

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

    def push(self, token: Any, source: Any, *, kept: Any = None, failure: Failure | None = None) -> list[Done]:
        """Add a row or document; return those that are done, oldest first.

        Args:
            token: Whatever the caller needs to know it again.
            source: The row's getter, or the document.
            kept: What results are made of, where `source` holds content that should not wait for them.
            failure: Why nothing of it can be embedded: it could not be read.

        Raises:
            ClipmillError: As `EmbedSession.push` does.
        """
        items = [] if failure is not None else self._runner.plan.items(source)
        place = (token, source if kept is None else kept, failure)
        self._waiting += self._session.push(place, items)
        return self._finish() if len(self._waiting) >= self._least_rows else []

    def give_up(self, token: Any, source: Any, failure: Failure) -> list[Done]:
        """Return a row whose items are not embedded, each of them with this failure."""
        outcomes: list[Outcome] = [failure] * len(self._runner.plan.items(source))
        return self._runner.finish([Finished((token, source, None), outcomes)], self._stats)

    def flush(self) -> list[Done]:
        """Finish everything that was pushed and return it."""
        self._waiting += self._session.flush()
        return self._finish()

    def _finish(self) -> list[Done]:
        rows, self._waiting = self._waiting, []
        return self._runner.finish(rows, self._stats)

    def close(self) -> None:
        """Forget what is in flight; see `EmbedSession.close`."""
        self._session.close()
