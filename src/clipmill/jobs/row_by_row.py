"""Rows that may kill, embedded one at a time: each is noted before it is begun."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..encoders.item import Item
from ..encoders.outcome import Finished
from ..encoders.session import EmbedSession
from ..failures import Code, Failure, Stage

Rows = Iterator[tuple[Any, list[Item]]]


class RowByRow:
    """Embeds rows one at a time, each noted before it is begun; those that are to blame become failures."""

    def __init__(self, blamed: Mapping[str, str], note: Callable[[str], None]) -> None:
        """Say what is known.

        Args:
            blamed: How a process ended, by the places at which it did again and again.
            note: Told each place before it is begun.
        """
        self._blamed = blamed
        self._note = note

    def embed(
        self, rows: Rows, session: EmbedSession, unread: Callable[[Failure], tuple[Any, list[Item]]]
    ) -> Iterator[list[Finished]]:
        """Yield finished rows.

        Args:
            rows: As a mode reads them.
            session: What embeds them.
            unread: Returns what stands for rows that cannot be read, and their failure.
        """
        for number in itertools.count():
            reading, working = f"reading row {number}", f"row {number}"
            if reading in self._blamed:
                message = f"{_died(self._blamed[reading])}; rows from {number} on (the first is 0) are not read"
                yield session.push(*unread(Failure(Stage.READ, Code.KILLED, message))) + session.flush()
                return
            self._note(reading)
            row = next(rows, None)
            if row is None:
                return
            token, items = row
            if working in self._blamed:
                failure = Failure(Stage.ENCODE, Code.KILLED, f"{_died(self._blamed[working])}; the row is left out")
                yield [Finished(token, [failure] * len(items))]
                continue
            self._note(working)
            yield session.push(token, items) + session.flush()


def _died(how: str) -> str:
    return f"processes that worked on it, and on nothing else, died again and again ({how})"
