"""What can go wrong with a job as a whole; what goes wrong with a row is in `failure`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from .messages import Message, first_option, packed, unpacked

_NOTE = "with its options, for clipmill: "


class ClipmillError(Exception):
    """Base of every error that clipmill raises on purpose.

    Attributes:
        option: Keyword of the option at fault: unless it is given, the first that the message names. None without any.
        hint: The way out, None where the message says it all.
    """

    def __init__(self, message: str = "", option: str | None = None, hint: str | None = None) -> None:
        # all of it in `args`: Beam makes the error anew from them, with the name of the step behind the message
        super().__init__(message, *((option, hint) if option or hint else ()))
        self.option = option or first_option(message)
        self.hint = hint

    @property
    def text(self) -> str:
        """The message and the hint, as `messages.render` takes them."""
        message: str = self.args[0]
        return message if self.hint is None else message + "; " + self.hint

    def __str__(self) -> str:
        return str(self.text)


class SpecError(ClipmillError, ValueError):
    """An encoder was described in a way that cannot work."""


class UnknownModelError(SpecError):
    """A model name is in no catalog; the message lists the nearest names."""


class WeightsError(ClipmillError, RuntimeError):
    """The weights of a model could not be found, fetched, read or fitted to its architecture."""


class DeviceError(ClipmillError, RuntimeError):
    """A device was asked for that this machine does not have."""


class OutOfMemoryError(ClipmillError, MemoryError):
    """One call of the model needed more memory than its device has; a smaller micro-batch may fit."""


class MissingExtraError(ClipmillError, ImportError):
    """An optional dependency is not installed; the message is the command that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(purpose + f" needs {package!r}, which is not installed: pip install 'clipmill[{extra}]'")
        self.name = package
        self._args = (package, extra, purpose)

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), self._args


class DatasetError(ClipmillError, RuntimeError):
    """A dataset cannot be read or written as asked: it exists, is incomplete, or its parts do not agree."""


class EmbeddingError(ClipmillError, ValueError):
    """Rows failed in a call that promised a vector for each of them.

    Attributes:
        failures: The failures, keyed by the position of the row in the call.
    """

    def __init__(self, failures: dict[int, object]) -> None:
        first, failure = next(iter(failures.items()))
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        super().__init__(
            f"row {first} could not be embedded{more}: {failure}; use encoder.embed(...) to get failures as data"
        )
        self.failures = failures

    def __reduce__(self) -> tuple[type, tuple[dict[int, object]]]:
        return type(self), (self.failures,)


@contextlib.contextmanager
def options_noted() -> Iterator[None]:
    """Note the options of its message on an error of the block, since engines hand on a worker's errors as text."""
    try:
        yield
    except ClipmillError as err:
        if isinstance(err.text, Message):
            err.add_note(_NOTE + packed(err.text))
        raise


def noted_message(traceback: str) -> Message | None:
    """Return the message of an error with its options, as `options_noted` put it into a traceback; None without one."""
    found = re.search(re.escape(_NOTE) + r"([\w+/=]+)", traceback)
    return unpacked(found[1]) if found else None
