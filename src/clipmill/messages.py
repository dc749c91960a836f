"""Messages that speak of options, which each surface renders as its own users write them.

A message is a `str`, in the keywords of Python. Its options are parts of it, so that the command line can say flags:

    raise DatasetError(f"{directory} is not empty", hint="replace it with " + setting("overwrite", True))

ends with `overwrite=True` in Python and with `--overwrite` on the command line. Texts are joined to options with `+`:
an f-string makes plain text of all that it holds, and every surface shows that as it is.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from typing import Any

_NAMED = object()


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """An option in a message.

    Attributes:
        name: Its keyword in Python.
        value: True, False, or how another value is written; None where the message names the option and no value.
    """

    name: str
    value: bool | str | None = None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value}"


@dataclasses.dataclass(frozen=True, slots=True)
class BySurface:
    """A hint that is another one in Python and on the command line, where the ways out differ."""

    python: str
    flags: str

    def __str__(self) -> str:
        return self.python


Part = str | Setting | BySurface


class Message(str):
    """A message in the words of Python, with the parts that it is made of.

    Attributes:
        parts: Texts and options, in order.
    """

    parts: tuple[Part, ...]

    def __new__(cls, *parts: Part) -> Message:
        """Join parts, those of other messages among them."""
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


def setting(name: str, value: Any = _NAMED) -> Message:
    """Return an option for a message: `runtime='onnx'`, or `--runtime 'onnx'`.

    Args:
        name: Its keyword in Python.
        value: `...` where the reader chooses one; without it the option is only named.
    """
    if value is _NAMED:
        return Message(Setting(name))
    return Message(Setting(name, "…" if value is ... else value if isinstance(value, bool) else repr(value)))


def by_surface(*, python: str, flags: str) -> Message:
    """Return a hint for a message that is one in Python and another on the command line, where it may be empty."""
    return Message(BySurface(python, flags))


def render(text: str, flag: Callable[[Setting], str]) -> str:
    """Return a message as another surface than Python says it.

    Args:
        text: A message, or plain text, which stays as it is.
        flag: Returns what that surface calls an option.
    """
    said: dict[type, Callable[[Any], str]] = {str: str, Setting: flag, BySurface: lambda one: one.flags}
    return "".join(said[type(one)](one) for one in parts_of(text))


def for_any_reader(text: str) -> str:
    """Return a message as files hold it, which users of every surface read: `overwrite=True (--overwrite)`."""
    return "".join(
        f"{one} (--{one.name.replace('_', '-')})" if isinstance(one, Setting) and one.value is True else str(one)
        for one in parts_of(text)
    )


def packed(message: Message) -> str:
    """Return a message with its options as one word of ASCII."""
    parts = [one if isinstance(one, str) else [type(one).__name__, *dataclasses.astuple(one)] for one in message.parts]
    return base64.b64encode(json.dumps(parts).encode()).decode()


def unpacked(word: str) -> Message:
    """Return what `packed` made a word of."""
    kinds = {kind.__name__: kind for kind in (Setting, BySurface)}
    parts = json.loads(base64.b64decode(word))
    return Message(*(one if isinstance(one, str) else kinds[one[0]](*one[1:]) for one in parts))


def first_option(text: str) -> str | None:
    """Return the keyword of the first option of a message, None without one."""
    return next((one.name for one in parts_of(text) if isinstance(one, Setting)), None)


def parts_of(part: Part) -> tuple[Part, ...]:
    """Return the parts of a message; anything else is one."""
    return part.parts if isinstance(part, Message) else (part,)
