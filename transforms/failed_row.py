"""`FailedRow`: an element of the failures, and the error that ends a job that allows none."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..errors import ClipmillError
from ..failures import Failure

KEEP_FAILED = "on_failure='split' puts such rows into .failures"


@dataclasses.dataclass(frozen=True)
class FailedRow:
    """A row or document with at least one failure.

    Attributes:
        row: The output as far as it was made: a row of which one column failed has the vectors of the others. An
            element that is neither a row nor a document is kept unchanged.
        failures: The reasons, at least one.
    """

    row: Any
    failures: tuple[Failure, ...]


class FailedRowError(ClipmillError, ValueError):
    """A row failed where failures are raised, as with `on_failure="raise"`; `hint` says how to keep such rows."""

    def __init__(
        self,
        failures: Sequence[Failure],
        model: str,
        hint: str = KEEP_FAILED,
    ) -> None:
        first = failures[0]
        named = f" {first.row!r}" if first.row is not None else ""
        place = named + (f", column {first.column!r}" if first.column else "")
        more = f" (and {len(failures) - 1} more failures of it)" if len(failures) > 1 else ""
        super().__init__(
            f"row{place} failed at {first.stage} with {first.code}, model {model}: {first.message}{more}",
            hint=hint,
        )
        self._args = (tuple(failures), model, hint)

    def __repr__(self) -> str:
        # Beam's dead letters hold this text; how to get dead letters is no news there.
        return f"{type(self).__name__}({self.args[0]!r})"

    def __reduce__(self) -> tuple[type, tuple[tuple[Failure, ...], str, str]]:
        return type(self), self._args
