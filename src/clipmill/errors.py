"""Errors that end a call or a job. Errors of a single row are in `failures`."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import numbers
import re
from collections.abc import Collection, Iterator
from typing import Any

from .messages import Message, first_option, packed, setting, unpacked

_NOTE = "with its options, for clipmill: "


class ClipmillError(Exception):
    """Base of every error that clipmill raises on purpose.

    Attributes:
        option: Keyword of the option at fault. Defaults to the first option in the message, or None if it has none.
        hint: How to fix it. None if the message already says so.
    """

    def __init__(self, message: str = "", option: str | None = None, hint: str | None = None) -> None:
        # Everything goes into `args`: Beam recreates the error from them and appends the step's name to the message.
        super().__init__(message, *((option, hint) if option or hint else ()))
        self.option = option or first_option(message)
        self.hint = hint

    @property
    def text(self) -> str:
        """The message with the hint, for `messages.render`."""
        message: str = self.args[0]
        return message if self.hint is None else message + "; " + self.hint

    def __str__(self) -> str:
        return str(self.text)


class SpecError(ClipmillError, ValueError):
    """An option, or a combination of options, is invalid."""


class UnknownModelError(SpecError):
    """A model name is not in the catalog. The message lists the closest names."""


class WeightsError(ClipmillError, RuntimeError):
    """The weights of a model were not found, could not be downloaded or read, or do not match its architecture."""


class DeviceError(ClipmillError, RuntimeError):
    """The requested device does not exist on this machine."""


class OutOfMemoryError(ClipmillError, MemoryError):
    """A call of the model needed more memory than its device has. A smaller micro-batch may fit."""


_MEMORY_SIGNS = (
    "bad_alloc",
    "bad allocation",
    "failed to allocate",
    "out of memory",
    "cannot allocate",
    "can't allocate",
    "alloc_failed",
    "not enough memory",
    "can't start new thread",
    "failed to map segment",
    "memoryerror",
)


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out: libraries have types of their own, or only texts.

    A thread needs memory for its stack, and a library for its code.
    """
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in said for sign in _MEMORY_SIGNS)


class MissingExtraError(ClipmillError, ImportError):
    """An optional dependency is not installed. The message contains the command that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(purpose + f" needs {package!r}, which is not installed: pip install 'clipmill[{extra}]'")
        self.name = package
        self._args = (package, extra, purpose)

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), self._args


def require(module: str, extra: str, purpose: str, *, package: str | None = None) -> Any:
    """Import a module of an optional package.

    Args:
        module: Its full name.
        extra: The extra of clipmill that installs the package.
        purpose: What needs it, for the message.
        package: The package's name, where the module has another.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise MissingExtraError(package or module, extra, purpose) from err


def is_installed(module: str) -> bool:
    """Return whether a top-level module is installed, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # an import hook that refuses it, or a module without a spec
        return False


class DatasetError(ClipmillError, RuntimeError):
    """A dataset cannot be read or written, for instance because it exists, is incomplete or is inconsistent."""


class StoreError(DatasetError):
    """An object store cannot be reached, or refused or failed a call; what it holds is unknown."""


class EmbeddingError(ClipmillError, ValueError):
    """Rows failed in a call that must return a vector for every row.

    Attributes:
        failures: The failures by position in the call.
    """

    def __init__(self, failures: dict[int, object], hint: str = "encoder.embed(...) returns failures as data") -> None:
        """Name the first row by its position."""
        first, failure = next(iter(failures.items()))
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        super().__init__(f"row {first} could not be embedded{more}: {failure}", hint=hint)
        self.failures = failures

    def __reduce__(self) -> tuple[type, tuple[dict[int, object], str | None]]:
        return type(self), (self.failures, self.hint)


@contextlib.contextmanager
def options_noted() -> Iterator[None]:
    """Add the options in an error's message to the error as a note.

    Engines pass on a worker's errors as text only. `noted_message` restores the options from that text.
    """
    try:
        yield
    except ClipmillError as err:
        if isinstance(err.text, Message):
            err.add_note(_NOTE + packed(err.text))
        raise


def noted_message(traceback: str) -> Message | None:
    """Return the message that `options_noted` added to a traceback, with its options. None if there is none.

    What only looks like such a note, because a message quotes a value, is ignored.
    """
    for found in re.finditer(re.escape(_NOTE) + r"([A-Za-z0-9+/=]+)", traceback):
        with contextlib.suppress(ValueError):
            return unpacked(found[1])
    return None


def check_integer(
    name: str, value: Any, *, least: int = 1, error: type[ClipmillError] = SpecError, hint: str | None = None
) -> None:
    """Raise an `error` naming the option, with the `hint`, if its value is not an integer of at least `least`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise error(setting(name, value) + f" is not an integer of at least {least}", hint=hint)


def check_flags(**flags: Any) -> None:
    """Raise `SpecError`, naming the option, if a given value is neither True nor False: a text 'no' would be true."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise SpecError(setting(name, value) + " is neither True nor False")


def check_choice(name: str, value: Any, allowed: Collection[str], *, error: type[ClipmillError] = SpecError) -> None:
    """Check the value of an option that takes one of several texts.

    Args:
        name: The option's keyword.
        value: Its value, of any type.
        allowed: What it takes.
        error: Type of the error.

    Raises:
        ClipmillError: Of the type `error`, if the value is not allowed.
    """
    if value not in allowed:
        raise error(setting(name, value) + f" must be one of {', '.join(map(repr, allowed))}")
