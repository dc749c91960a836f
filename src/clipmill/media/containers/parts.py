"""Counts the parts of a file, and puts a file together from those that are kept."""

from __future__ import annotations

from collections.abc import Sequence

from ...failures import Code, RowError, Stage

MOST_PARTS = 250_000
"""Parts of a file. A PNG of 64 MiB in pieces of 1 KiB has 65,000, and other files have a few dozen."""


def counted(number: int) -> int:
    """Return the number of the next part.

    Raises:
        RowError: `too_large` if no real file has so many.
    """
    if number > MOST_PARTS:
        raise too_large(f"the image file has over {MOST_PARTS:,} parts, more than any real one")
    return number + 1


def too_large(message: str) -> RowError:
    """Return the failure of a file whose structure would keep a decoder busy."""
    return RowError(Stage.DECODE, Code.TOO_LARGE, message)


def of_parts(data: bytes, parts: Sequence[tuple[int, int]]) -> bytes:
    """Return the parts of a file between positions; the file itself if they are all of it."""
    if sum(stop - start for start, stop in parts) >= len(data):
        return data
    view = memoryview(data)
    return b"".join([view[start:stop] for start, stop in parts])
