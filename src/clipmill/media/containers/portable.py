"""PPM, PGM and PBM files: comments and spaces of the header, and comments between numbers, are dropped."""

from __future__ import annotations

import re

_COMMENT = re.compile(rb"(?:#[^\r\n]*+[\r\n]?)++")
_GAP = re.compile(rb"(?:[ \t\n\x0b\x0c\r]|#[^\r\n]*+[\r\n])++")
_NUMBER = re.compile(rb"\d{1,10}(?=[ \t\n\x0b\x0c\r#])")
_PLAIN = (b"P1", b"P2", b"P3")
_WITHOUT_RANGE = (b"P1", b"P4")


def without_comments(data: bytes) -> bytes:
    """Return a file with a short header, and without comments between its numbers if those are plain text.

    Pillow reads headers byte by byte, and copies up to a megabyte for each comment between numbers.
    """
    magic = data[:2]
    if magic in _PLAIN:
        data = _COMMENT.sub(b"", data)
    numbers, at = [], 2
    for _ in range(2 if magic in _WITHOUT_RANGE else 3):
        if not (gap := _GAP.match(data, at)) or not (number := _NUMBER.match(data, gap.end())):
            return data
        numbers.append(number[0])
        at = number.end()
    header = b" ".join([magic, *numbers])
    # a comment may also stand between the last number and the one space before the pixels
    return data if at <= len(header) else header + data[at:]
