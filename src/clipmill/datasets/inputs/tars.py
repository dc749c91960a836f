"""Streams tar archives member by member, with at most one member in memory.

Python's `tarfile` silently ends an archive at a broken or missing header, and reads extended headers of any size; here
both are errors. `tarfile` still parses the fields of the headers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tarfile
from collections.abc import Iterator
from typing import IO

from ...files.compression import decompressed
from ...files.file_systems import open_input

BLOCK = tarfile.BLOCKSIZE
_MAX_EXTENDED_BYTES = 2**20
"""Maximum bytes of the extended headers (names and times) of one member; a broken size must not load the whole file
into memory."""
_MAX_MEMBER_BYTES = 2**50
"""Maximum member size that a header may claim. No real file is larger, and file systems cannot seek beyond it."""
_NAMES_OF_NEXT = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}


class BrokenTarError(ValueError):
    """Raised where an archive cannot be read further; the members before are complete."""


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes:
        name: Its path in the archive, without a leading `./`.
        offset: Byte at which its first header begins (in the decompressed archive).
        size: Its size in bytes.
        content: Byte at which its content begins.
        is_sparse: Whether it is stored as a sparse file, which `read` does not expand.
    """

    name: str
    offset: int
    size: int
    content: int
    is_sparse: bool = False


class TarStream:
    """Reads the members of an archive in order; a context manager.

    After `members` has yielded a member, `read` returns its content; unread content is skipped.
    """

    def __init__(self, file: IO[bytes], offset: int = 0, *, is_compressed: bool = False) -> None:
        """Take an open file at a header, at byte `offset`; `is_compressed` says that it decompresses."""
        self.is_compressed = is_compressed
        self._file = file
        self._at = offset
        self._left = 0
        """Bytes of the current member after the file's position, without padding."""
        self._padding = 0
        self._name = ""

    def __enter__(self) -> TarStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def members(self) -> Iterator[Member]:
        """Yield the regular files; folders and links are skipped.

        Raises:
            BrokenTarError: If a header is broken or the archive is truncated, even if only its end marker is missing.
            OSError, EOFError, zlib.error: If reading fails.
        """
        ended = False
        start, extended = self._at, dict[str, str]()
        while True:
            block = self._read(BLOCK)
            if not block.strip(b"\0"):  # the end marker or a part of it; a second archive may follow
                if not block and not ended:
                    raise BrokenTarError(f"no end marker follows byte {start}: is it cut off?")
                if extended:
                    raise BrokenTarError(f"no file follows the extended header at byte {start}")
                if len(block) < BLOCK:
                    return
                ended, start = True, self._at
                continue
            info = self._header(block, start)
            if info.type in (*_NAMES_OF_NEXT, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE):
                if self._at - start > _MAX_EXTENDED_BYTES:
                    raise BrokenTarError(f"extended headers from byte {start} on describe no file")
                fields = self._extended(info)
                if info.type == tarfile.XGLTYPE:  # it applies to all members that follow; mostly holds comments
                    start = self._at
                else:
                    extended |= fields
                continue
            member = self._start_member(info, start, extended)
            if member is not None:
                yield member
            self._skip_unread()
            ended, start, extended = False, self._at, {}

    def read(self) -> bytes:
        """Return the content of the member yielded last, at most once; raise `BrokenTarError` if it is truncated."""
        data = self._read(self._left)
        self._left -= len(data)
        if self._left:
            raise BrokenTarError(f"it is cut off in {self._name!r}, {self._left} bytes before the end of that file")
        return data

    def _header(self, block: bytes, start: int) -> tarfile.TarInfo:
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as err:
            if len(block) < BLOCK:
                raise BrokenTarError(f"it is cut off in the header at byte {start}") from None
            if self._at == BLOCK:
                raise BrokenTarError("it is not a tar archive") from None
            raise BrokenTarError(f"the header at byte {self._at - BLOCK} is broken: {err}") from None
        if not 0 <= info.size <= _MAX_MEMBER_BYTES:
            raise BrokenTarError(f"the header at byte {self._at - BLOCK} is broken: a size of {info.size} bytes")
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise BrokenTarError(f"{info.name!r} is a sparse file (--sparse), which is not supported")
        return info

    def _extended(self, info: tarfile.TarInfo) -> dict[str, str]:
        """Read the fields of an extended header, which describe the member that follows."""
        if info.size > _MAX_EXTENDED_BYTES:
            raise BrokenTarError(f"the extended header at byte {self._at - BLOCK} has {info.size} bytes")
        self._left, self._padding, self._name = info.size, -info.size % BLOCK, "an extended header"
        data = self.read()
        self._skip_unread()
        if info.type in _NAMES_OF_NEXT:
            return {_NAMES_OF_NEXT[info.type]: data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
        fields: dict[str, str] = {}
        at, end = 0, len(data.rstrip(b"\0"))
        while at < end:
            length, space, _ = data[at : at + 32].partition(b" ")
            if not (space and length.isdigit() and len(length) + 2 < int(length) <= len(data) - at):
                raise BrokenTarError(f"the extended header before byte {self._at} is broken")
            key, _, value = data[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
            fields[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
            at += int(length)
        return fields

    def _start_member(self, info: tarfile.TarInfo, start: int, extended: dict[str, str]) -> Member | None:
        """Record where a member's content ends; return the member, or None if it is not a regular file."""
        size = info.size
        if "size" in extended:
            if not extended["size"].isdecimal() or int(extended["size"]) > _MAX_MEMBER_BYTES:
                raise BrokenTarError(f"the header at byte {start} gives the size {extended['size']!r}")
            size = int(extended["size"])
        is_file = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        self._left, self._padding = (size, -size % BLOCK) if is_file else (0, 0)
        self._name = extended.get("path", info.name)
        if not info.isreg():
            return None
        name = self._name
        while name.startswith("./"):
            name = name[2:].lstrip("/")
        is_sparse = any(key.startswith("GNU.sparse.") for key in extended)
        return Member(extended.get("GNU.sparse.name", name), start, size, self._at, is_sparse)

    def _skip_unread(self) -> None:
        """Seek to the next header; a truncated archive is noticed when that header is read."""
        left, self._left, self._padding = self._left + self._padding, 0, 0
        if left:
            self._file.seek(left, io.SEEK_CUR)
            self._at += left

    def _read(self, size: int) -> bytes:
        """Read exactly `size` bytes; fewer only at the end of the file."""
        data = self._file.read(size)
        while 0 < len(data) < size and (more := self._file.read(size - len(data))):
            data += more
        self._at += len(data)
        return data


def open_tar(path: str, offset: int = 0) -> TarStream:
    """Open an archive, decompressed if it is compressed; its first bytes tell.

    Args:
        path: Path or URL.
        offset: Byte at which a header begins; must be 0 for a compressed archive.

    Raises:
        CompressionError: If its compression is not read.
    """
    raw = open_input(path)
    with contextlib.ExitStack() as stack:
        stack.callback(raw.close)
        file, compression = decompressed(raw)
        if not compression:
            file.seek(offset)
        stack.pop_all()
    return TarStream(file, offset, is_compressed=compression is not None)
