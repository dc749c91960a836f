"""Failures by reason, with examples, read line by line, and the pictures of those that can be drawn."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..datasets.inputs.samples import PLACE_COLUMNS
from ..failures import Code
from ..media.fetch_policy import Span
from .pictures import Picture, PictureRules, named_content, picture_of
from .sample import readable, shortened

_EXAMPLES = 3
_THREADS = 8
_NOT_OPENED: dict[str, str] = {
    Code.FORBIDDEN_URI: "not opened, as the job was not allowed to either",
    Code.KILLED: "not opened again, since it ended processes",
    Code.OUT_OF_MEMORY: "not opened again, since it took too much memory",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One failure.

    Attributes:
        row: What names the row; None where it has no name.
        column: Where in the row; None for a plain document.
        message: Why, for people.
        text: The text that failed, or its beginning; None where it was none.
        uri: What names the content; None where the failure does not.
        span: Which part of it is the content; None for all of it.
        picture: What can be drawn of it, or why nothing can; see `draw_examples`.
    """

    row: str | None
    column: str | None
    message: str
    text: str | None = None
    uri: str | None = None
    span: Span | None = None
    picture: Picture = dataclasses.field(default_factory=Picture)


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
    row, column, text = failure.get("row"), failure.get("column"), failure.get("text")
    place = failure.get("tags")
    place = place if isinstance(place, Mapping) else {}
    uri, span = named_content(failure.get("uri"), *map(place.get, PLACE_COLUMNS))
    return Example(
        None if row is None else readable(str(row)),
        None if column is None else shortened(str(column)),
        shortened(str(failure.get("message") or "")),
        shortened(text) if isinstance(text, str) and text else None,
        uri if isinstance(uri, str) and uri else None,
        span,
    )


def draw_examples(reasons: Iterable[Reason], rules: PictureRules) -> None:
    """Draw the pictures of the examples, or say of each why there is none; files are opened as `rules` say."""
    rules = dataclasses.replace(rules, cut_off=True)

    def drawn(given: tuple[Reason, Example]) -> Example:
        reason, example = given
        return dataclasses.replace(example, picture=_picture(reason.code, example, rules))

    examples = [(reason, example) for reason in reasons for example in reason.examples]
    with ThreadPoolExecutor(_THREADS) as pool:
        made = list(pool.map(drawn, examples))
    for (reason, _), example in zip(examples, made, strict=True):
        reason.examples[:] = [*reason.examples[1:], example]


def _picture(code: str, example: Example, rules: PictureRules) -> Picture:
    if example.text is not None:
        return Picture()
    if example.uri is None:
        return Picture(reason="nothing to draw: the failure names no file")
    if refused := _NOT_OPENED.get(code):
        return Picture(reason=refused)
    picture = picture_of(None, example.uri, example.span, 0, rules)
    is_same = picture.reason is not None and picture.reason.startswith(f"{code}: ")
    return Picture(reason="nothing can be drawn of it") if is_same else picture
