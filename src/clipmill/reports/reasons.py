"""Failures by reason, with examples, read line by line."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from .sample import readable, shortened

_EXAMPLES = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One failure.

    Attributes:
        row: What names the row; None where it has no name.
        column: Where in the row; None for a plain document.
        message: Why, for people.
    """

    row: str | None
    column: str | None
    message: str


@dataclasses.dataclass
class Reason:
    """Failures of one code at one stage.

    Attributes:
        code: From the closed list `failures.Code`.
        stage: From `failures.Stage`.
        count: How many there are.
        transient: How many of them may succeed when tried again.
        examples: The first ones.
    """

    code: str
    stage: str
    count: int = 0
    transient: int = 0
    examples: list[Example] = dataclasses.field(default_factory=list)


def reasons_of(failures: Iterable[Mapping[str, Any]], examples: int = _EXAMPLES) -> list[Reason]:
    """Count failures, as `read_failures` yields them, by reason, most frequent first; different examples come first."""
    found: dict[tuple[str, str], Reason] = {}
    messages: dict[tuple[str, str], collections.Counter[str]] = {}
    for failure in failures:
        key = (str(failure.get("code")), str(failure.get("stage")))
        reason = found.setdefault(key, Reason(*key))
        reason.count += 1
        reason.transient += 1 if failure.get("transient") else 0
        example = _example(failure)
        known = messages.setdefault(key, collections.Counter())
        if len(reason.examples) < examples:
            reason.examples.append(example)
            known[example.message] += 1
        elif example.message not in known and (again := _repeated(reason.examples, known)) is not None:
            known[reason.examples[again].message] -= 1
            known[example.message] += 1
            reason.examples[again] = example
    return sorted(found.values(), key=lambda reason: (-reason.count, reason.code, reason.stage))


def _repeated(examples: list[Example], known: collections.Counter[str]) -> int | None:
    """Return the last example whose message is repeated in another one."""
    return next((n for n in range(len(examples) - 1, -1, -1) if known[examples[n].message] > 1), None)


def _example(failure: Mapping[str, Any]) -> Example:
    row, column = failure.get("row"), failure.get("column")
    return Example(
        None if row is None else readable(str(row)),
        None if column is None else shortened(str(column)),
        shortened(str(failure.get("message") or "")),
    )
