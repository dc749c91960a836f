"""Messages between a worker and the encoder process: JSON, one packet each, and errors as JSON.

Nothing is pickled. Arrays travel in shared memory (`memory`); a message names their place in it.
"""

from __future__ import annotations

import array
import builtins
import os
import socket
import struct
from typing import Any

from ...errors import (
    ClipmillError,
    DatasetError,
    DeviceError,
    MissingExtraError,
    OutOfMemoryError,
    SpecError,
    UnknownModelError,
    WeightsError,
)
from ...files.json_shape import fits
from ...files.json_text import json_object, json_text
from ...messages import Message, packed, unpacked

_MAX_BYTES = 64 * 2**10
"""Bytes of a message: a spec, or an error."""
_MAX_WORD = 20 * 2**10
"""Bytes of an error's text on the way; at most three are in a message."""
_CHARACTER = 16
"""Bytes of a character on the way, at most."""

_OURS = {
    kind.__name__: kind
    for kind in (
        ClipmillError, DatasetError, DeviceError, OutOfMemoryError, SpecError, UnknownModelError, WeightsError
    )
}  # fmt: skip
_BUILTIN = ("IndexError", "KeyError", "MemoryError", "OSError", "RuntimeError", "TypeError", "ValueError")
_ERROR = {"type": str, "args": [(str, None)]}


class ConnectionLost(Exception):
    """The other side ended, or does not speak this protocol."""


def send(connection: socket.socket, message: dict[str, Any], descriptor: int | None = None) -> None:
    """Send a message, and a file descriptor with it.

    Raises:
        ConnectionLost: If the other side is gone.
    """
    content = json_text(message).encode()
    if len(content) > _MAX_BYTES:
        raise ClipmillError(f"a message of {len(content)} bytes to the encoder process; at most {_MAX_BYTES} are sent")
    try:
        socket.send_fds(connection, [content], [] if descriptor is None else [descriptor])
    except OSError as err:
        raise ConnectionLost(str(err)) from err


def receive(connection: socket.socket) -> tuple[dict[str, Any], int | None]:
    """Wait for a message; return it with the file descriptor that it brought.

    Raises:
        ConnectionLost: If the other side is gone, or sent something else.
    """
    item = array.array("i").itemsize
    try:
        content, extra, flags, _ = connection.recvmsg(_MAX_BYTES, socket.CMSG_SPACE(item), socket.MSG_CMSG_CLOEXEC)
    except OSError as err:
        raise ConnectionLost(str(err)) from err
    descriptors = array.array("i")
    for level, kind, data in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % item])
    message = json_object(content) if content else None
    if message is None or len(descriptors) > 1 or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for descriptor in descriptors:
            os.close(descriptor)
        raise ConnectionLost("it sent no message" if content else "it closed the connection")
    return message, descriptors[0] if descriptors else None


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return the process id and the user of the other side, as the operating system knows them."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, user, _ = struct.unpack("3i", credentials)
    return pid, user


def packed_error(error: BaseException) -> dict[str, Any]:
    """Describe an error for `raised`: its type, and texts with their options."""
    if isinstance(error, MissingExtraError):
        return {"type": "MissingExtraError", "args": [_packed(text) for text in error.__reduce__()[1]]}
    if isinstance(error, ClipmillError):
        kind = next(one.__name__ for one in type(error).__mro__ if one.__name__ in _OURS)
        texts = (*error.args, None, None)[:3]  # the message, its option and its hint
        return {"type": kind, "args": [None if text is None else _packed(text) for text in texts]}
    return {"type": type(error).__name__, "args": [_packed(str(error))]}


def raised(description: Any) -> Exception:
    """Return the error that `packed_error` described; one of an unknown type becomes a RuntimeError that names it."""
    if not fits(description, _ERROR) or not description["args"] or description["args"][0] is None:
        return ConnectionLost("it reported an error that cannot be read")
    kind = description["type"]
    try:
        texts = [None if one is None else unpacked(one) for one in description["args"]]
        if kind == "MissingExtraError":
            package, extra, purpose = map(_text, texts)
            return MissingExtraError(str(package), str(extra), purpose)
        if kind in _OURS:
            message, option, hint = texts
            return _OURS[kind](_text(message), option and str(option), hint)
    except (ValueError, LookupError, TypeError) as err:
        return ConnectionLost(f"it reported an error that cannot be read: {err}")
    if kind in _BUILTIN:
        found: Exception = getattr(builtins, kind)(str(texts[0]))
        return found
    return RuntimeError(f"{kind}: {texts[0]}")


def _text(text: Message | None) -> Message:
    if text is None:
        raise ValueError("a text is missing")
    return text


def _packed(text: str) -> str:
    word = packed(Message(text))
    return word if len(word) <= _MAX_WORD else packed(Message(text[: _MAX_WORD // _CHARACTER]))
