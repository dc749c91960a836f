"""Embeds rows that may kill the process, one at a time, and notes each before it starts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

from ..encoders.plans.runner import Done, PlanSession
from ..failures import Code, Failure, Stage
from .record_adapters import Record


class RowByRow:
    """Embeds rows one at a time, and notes each before it starts. Rows that kill become failures."""

    def __init__(self, blamed: Mapping[str, str], note: Callable[[str], None]) -> None:
        """Take the places where processes died, and how; `note` is called with a place before work on it."""
        self._blamed = blamed
        self._note = note

    def embed(
        self, records: Iterator[Record], session: PlanSession, unread: Callable[[Failure], Record]
    ) -> Iterator[list[Done]]:
        """Yield finished rows; `unread` returns a record in place of rows that cannot be read, given their failure."""
        for number in itertools.count():
            reading, working = f"reading row {number}", f"row {number}"
            if reading in self._blamed:
                message = f"{_died(self._blamed[reading])}; rows from {number} on (the first is 0) are not read"
                yield _alone(session, unread(Failure(Stage.READ, Code.KILLED, message)))
                return
            self._note(reading)
            record = next(records, None)
            if record is None:
                return
            if working in self._blamed:
                failure = Failure(Stage.ENCODE, Code.KILLED, f"{_died(self._blamed[working])}; the row is left out")
                yield session.give_up(record, record.source, failure)
                continue
            self._note(working)
            yield _alone(session, record)


def _alone(session: PlanSession, record: Record) -> list[Done]:
    return session.push(record, record.source, failure=record.failure) + session.flush()


def _died(how: str) -> str:
    return f"several processes that worked only on it died ({how})"
