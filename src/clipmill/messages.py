"""Messages that mention options, which Python shows as keywords and the command line as flags.

A message is a `str` that shows its options as Python keywords. It also keeps them as separate parts, so that the
command line can show flags instead:

    raise DatasetError(f"{directory} is not empty", hint="replace it with " + setting("overwrite", True))

ends with `overwrite=True` in Python and with `--overwrite` on the command line. Join options to texts with `+`: an
f-string would turn them into plain text, which the command line shows unchanged.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from typing import Any

_NO_VALUE = object()


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """An option in a message.

    Attributes:
        name: The keyword in Python.
        value: True, False, or another value as text. None if the message only names the option.
    """

    name: str
    value: bool | str | None = None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value}"


@dataclasses.dataclass(frozen=True, slots=True)
class BySurface:
    """A hint that differs between Python and the command line."""

    python: str
    flags: str

    def __str__(self) -> str:
        return self.python


Part = str | Setting | BySurface


class Message(str):
    """A message for Python users, which keeps the parts it was made from: texts and options, in order."""

    parts: tuple[Part, ...]

    def __new__(cls, *parts: Part) -> Message:
        """Join parts. Messages among them contribute their own parts."""
        flat = tuple(one for part in parts for one in parts_of(part))
        message = super().__new__(cls, "".join(map(str, flat)))
        message.parts = flat
        return message

    def __add__(self, other: str) -> Message:
        return Message(self, other)

    def __radd__(self, other: str) -> Message:
        return Message(other, self)

    def __reduce__(self) -> tuple[type, tuple[Part, ...]]:
        return Message, self.parts


def setting(name: str, value: Any = _NO_VALUE) -> Message:
    """Return an option for a message: `runtime='onnx'` in Python, `--runtime 'onnx'` on the command line.

    Args:
        name: The keyword in Python.
        value: `...` if the reader chooses the value. If omitted, only the option's name is shown.
    """
    if value is _NO_VALUE:
        return Message(Setting(name))
    return Message(Setting(name, "…" if value is ... else value if isinstance(value, bool) else repr(value)))


def by_surface(*, python: str, flags: str) -> Message:
    """Return a hint that differs between Python and the command line, where it may be empty."""
    return Message(BySurface(python, flags))


def render(text: str, flag: Callable[[Setting], str]) -> str:
    """Return a message with each option as `flag` returns it; plain text is returned unchanged."""
    renderers: dict[type, Callable[[Any], str]] = {str: str, Setting: flag, BySurface: lambda one: one.flags}
    return "".join(renderers[type(one)](one) for one in parts_of(text))


def for_any_reader(text: str) -> str:
    """Return a message with both spellings, `overwrite=True (--overwrite)`, for files that any user may read."""
    return "".join(
        f"{one} (--{one.name.replace('_', '-')})" if isinstance(one, Setting) and one.value is True else str(one)
        for one in parts_of(text)
    )


def packed(message: Message) -> str:
    """Serialize a message with its options as one ASCII word."""
    parts = [one if isinstance(one, str) else [type(one).__name__, *dataclasses.astuple(one)] for one in message.parts]
    return base64.b64encode(json.dumps(parts).encode()).decode()


def unpacked(word: str) -> Message:
    """Return the message that `packed` serialized; raise `ValueError` if it did not serialize this word."""
    kinds = {kind.__name__: kind for kind in (Setting, BySurface)}
    try:
        parts = json.loads(base64.b64decode(word, validate=True))
        return Message(*(one if isinstance(one, str) else kinds[one[0]](*one[1:]) for one in parts))
    except (LookupError, TypeError, RecursionError) as err:
        raise ValueError(f"not a message: {err}") from err


def first_option(text: str) -> str | None:
    """Return the keyword of the first option in a message, or None if it has none."""
    return next((one.name for one in parts_of(text) if isinstance(one, Setting)), None)


def parts_of(part: Part) -> tuple[Part, ...]:
    """Return the parts of a message, or anything else as a single part."""
    return part.parts if isinstance(part, Message) else (part,)
