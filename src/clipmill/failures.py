"""Failures of single rows: the stage, the reason, and whether a retry may help."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from typing import Any, Self


class Stage(StrEnum):
    """The processing stage at which a row failed."""

    READ = "read"
    FETCH = "fetch"
    DECODE = "decode"
    PREPROCESS = "preprocess"
    TOKENIZE = "tokenize"
    ENCODE = "encode"
    SCORE = "score"


class Code(StrEnum):
    """Why a row failed. The list is closed: every failure has one of these codes."""

    MALFORMED = "malformed"
    """The record could not be read from its file (a broken JSON line, a row of the wrong type)."""
    MISSING_COLUMN = "missing_column"
    """The row does not have the column."""
    EMPTY = "empty"
    """There is nothing to embed: an empty text, zero bytes, or a document without content."""
    FORBIDDEN_URI = "forbidden_uri"
    """The job does not allow the URI's scheme or address."""
    NOT_FOUND = "not_found"
    """The file or page does not exist (404, 410, no such file)."""
    CHANGED = "changed"
    """The file changed after the job listed it, so that rows would be missing, or there twice."""
    FETCH_FAILED = "fetch_failed"
    """The content could not be fetched: connection refused or interrupted, timeout, or server error."""
    TOO_LARGE = "too_large"
    """The content exceeds a limit of the spec, the record one of its format, or the image file what real ones have."""
    UNDECODABLE = "undecodable"
    """The bytes are not a decodable image or audio file, or are truncated."""
    UNSUPPORTED = "unsupported"
    """The encoder has no tower for this content, or values of this type cannot be embedded."""
    WRONG_SHAPE = "wrong_shape"
    """An array has a rank, size or number of channels that is not allowed."""
    OUT_OF_RANGE = "out_of_range"
    """An array contains NaN, infinities or values outside the allowed range."""
    TEXT_TOO_LONG = "text_too_long"
    """The text has more tokens than the context length, with `on_long_text="fail"`."""
    OUT_OF_MEMORY = "out_of_memory"
    """The row does not fit into the device's memory, even in a call of its own."""
    ENCODE_FAILED = "encode_failed"
    """The model raised an error for this row alone, or its vector is not finite."""
    KILLED = "killed"
    """Processes that worked on this row and nothing else died repeatedly."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why one value of a row has no vector.

    Attributes:
        stage: The stage at which the value failed.
        code: The reason, from the closed list `Code`.
        message: For people: what was given, what is allowed, and how to fix it. It never includes the content.
        transient: Whether the same row may succeed on a retry, as after a server error or a timeout.
        column: The column, or the access path of a nested document (`@m[3]`). None for a root document.
        row: The row's id, URI, path, or file and line. None if it has none of these.
    """

    stage: Stage
    code: Code
    message: str
    transient: bool = False
    column: str | None = None
    row: str | None = None

    def at(self, *, column: str | None = None, row: str | None = None) -> Self:
        """Return this failure with its column and row filled in. Values that are already set stay."""
        return dataclasses.replace(self, column=self.column or column, row=self.row or row)

    def as_dict(self) -> dict[str, Any]:
        """Return the failure as plain values, in the form written to JSON lines."""
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
        """The code, the stage and the message, for `messages.render`."""
        return f"{self.code} at {self.stage}: " + self.message

    def __str__(self) -> str:
        return str(self.text)


class RowError(ValueError):
    """Raised while a row is processed, and turned into its `Failure`. It never reaches the engine."""

    def __init__(self, stage: Stage, code: Code, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.failure = Failure(stage, code, message, transient)
