"""The boxes that AVIF, HEIF (ISO/IEC 14496-12) and JPEG XL files (ISO/IEC 18181-2) consist of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .parts import counted

_HEADER, _LONG_HEADER = 8, 16


class Box(NamedTuple):
    """A box of a file, with its name; its content is between `inner` and `stop`."""

    name: bytes
    start: int
    inner: int
    stop: int


def boxes(data: bytes, inside: dict[bytes, int] | None = None) -> Iterator[Box]:
    """Yield the boxes of a file, up to damage.

    Args:
        data: The file.
        inside: Names of boxes whose boxes are yielded as well, after those beside them, with the bytes to skip first.

    Raises:
        RowError: `too_large` if there are more than any real file has.
    """
    pending, parts = [(0, len(data))], 0
    while pending:
        at, stop = pending.pop()
        while at + _HEADER <= stop:
            parts = counted(parts)
            length, inner = int.from_bytes(data[at : at + 4]), at + _HEADER
            if length == 1:
                length, inner = int.from_bytes(data[at + 8 : at + 16]), at + _LONG_HEADER
            elif length == 0:
                length = stop - at
            if inner - at > length or at + length > stop:
                break
            box = Box(data[at + 4 : at + 8], at, inner, at + length)
            yield box
            if inside and box.name in inside:
                pending.append((inner + inside[box.name], box.stop))
            at += length
