"""`SourceRow`, a row as it is read, and the failure of a file or record that cannot be read."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import pyarrow as pa

from ...failures import Code, Failure, RowError, Stage
from ...files.arrow_stream import BatchTooLargeError
from ...files.file_systems import reason_of
from ...files.parquet_pages import PageTooLargeError
from ..tables.carried import CarriedRow


class SourceRow(NamedTuple):
    """A row of an input.

    Attributes:
        place: `<path>:<line>` of text files (lines from 1), `<path>:<row>` of Parquet and Arrow files (rows from 0),
            `<path>:<sample>` of tars (samples from 0), `<path>` of files.
        values: Its columns, or those that were selected; empty if it could not be read.
        failure: Why it could not be read.
        carried: Its columns for the output as Arrow values, if they were selected.
    """

    place: str
    values: dict[str, Any]
    failure: Failure | None = None
    carried: CarriedRow | None = None


def malformed(message: str) -> Failure:
    """Return the failure of a malformed record."""
    return Failure(Stage.READ, Code.MALFORMED, message)


def failure_of(err: Exception, path: str) -> Failure:
    """Return why a file cannot be read: it does not exist, is damaged, or its disk or object store fails."""
    if isinstance(err, RowError):
        return err.failure
    reason = f"{path}: {reason_of(err)[:300]}"
    if isinstance(err, PageTooLargeError | BatchTooLargeError):
        return Failure(Stage.READ, Code.TOO_LARGE, reason)
    if isinstance(err, FileNotFoundError | NotADirectoryError):
        return Failure(Stage.READ, Code.NOT_FOUND, f"{path}: no such file")
    if isinstance(err, MemoryError):
        return Failure(Stage.READ, Code.OUT_OF_MEMORY, f"{path}: reading on needs more memory than there is", True)
    is_damage = isinstance(err, pa.ArrowException | ValueError | EOFError | zlib.error)
    if is_damage or (isinstance(err, OSError) and err.errno is None):
        return malformed(reason)
    return Failure(Stage.READ, Code.FETCH_FAILED, reason, transient=not isinstance(err, PermissionError))
