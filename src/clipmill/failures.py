"""A row that could not be embedded: at which stage, why, and whether a second try may help."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from typing import Any, Self


class Stage(StrEnum):
    """Where in a row's way a failure happened."""

    READ = "read"
    FETCH = "fetch"
    DECODE = "decode"
    PREPROCESS = "preprocess"
    TOKENIZE = "tokenize"
    ENCODE = "encode"
    SCORE = "score"


class Code(StrEnum):
    """Why a row failed. The list is closed: every failure carries one of these."""

    MALFORMED = "malformed"
    """The record could not be read from its file (a broken JSON line, a row of the wrong type)."""
    MISSING_COLUMN = "missing_column"
    """The row has no such column."""
    EMPTY = "empty"
    """There is nothing to embed: empty text, zero bytes, a document without content."""
    FORBIDDEN_URI = "forbidden_uri"
    """The URI's scheme or address is not allowed for this job."""
    NOT_FOUND = "not_found"
    """The file or page does not exist (404, 410, no such file)."""
    FETCH_FAILED = "fetch_failed"
    """The content could not be fetched: refused, cut off, timed out, a server error."""
    TOO_LARGE = "too_large"
    """More bytes, pixels or characters than the limits of the spec allow."""
    UNDECODABLE = "undecodable"
    """The bytes are not a picture or sound that can be decoded, or are cut off."""
    UNSUPPORTED = "unsupported"
    """The encoder has no tower for this content, or the value's type is none that can be embedded."""
    WRONG_SHAPE = "wrong_shape"
    """An array of another rank, size or number of channels than allowed."""
    OUT_OF_RANGE = "out_of_range"
    """An array with NaN, infinities or values outside the allowed range."""
    TEXT_TOO_LONG = "text_too_long"
    """More tokens than the context holds, where `on_long_text="fail"` was asked for."""
    OUT_OF_MEMORY = "out_of_memory"
    """The row does not fit into the device's memory even alone."""
    ENCODE_FAILED = "encode_failed"
    """The model raised an error for this row alone, or its vector is not finite."""
    KILLED = "killed"
    """Processes that worked on the row, and on nothing else, died again and again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why one value of a row has no vector.

    Attributes:
        stage: Where it happened.
        code: Why, from the closed list `Code`.
        message: For people: what was given, what is allowed, the way out. Never the content itself.
        transient: Whether the same row may succeed on a second try (a server error, a timeout).
        column: The column, or the access path of a document inside another (`@m[3]`); None for a plain document.
        row: What names the row: its id, URI, path, or file and line; None where it has none.
    """

    stage: Stage
    code: Code
    message: str
    transient: bool = False
    column: str | None = None
    row: str | None = None

    def at(self, *, column: str | None = None, row: str | None = None) -> Self:
        """Return this failure with its place filled in; what is known already stays."""
        return dataclasses.replace(self, column=self.column or column, row=self.row or row)

    def as_dict(self) -> dict[str, Any]:
        """Return the failure as plain values, as it is written to JSON lines."""
        return {
            "row": self.row,
            "column": self.column,
            "stage": str(self.stage),
            "code": str(self.code),
            "message": self.message,
            "transient": self.transient,
        }

    @property
    def text(self) -> str:
        """What went wrong and why, as `messages.render` takes it."""
        return f"{self.code} at {self.stage}: " + self.message

    def __str__(self) -> str:
        return str(self.text)


class RowError(ValueError):
    """Raised inside the core to turn one row into a `Failure`; engines never see it."""

    def __init__(self, stage: Stage, code: Code, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.failure = Failure(stage, code, message, transient)
