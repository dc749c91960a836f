"""Tar archives, member by member as they stream in: never more of one in memory than a member.

Python's own `tarfile` ends an archive quietly where a header is broken or missing, and reads extended headers of any
size; here both are said. What stands in a header's fields it reads for us.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tarfile
from collections.abc import Iterator
from typing import IO, cast

from ...files.file_systems import open_input
from .lines import Packed

BLOCK = tarfile.BLOCKSIZE
_MAX_EXTENDED_BYTES = 2**20
"""Bytes of one extended header: names and times; a broken size must not draw the rest of a file into memory."""
_MOST_BYTES = 2**50
"""Bytes of a file that a header may claim; nobody has so many, and no file system goes to where it would end."""
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}
_NAMES_OF_NEXT = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}


class BrokenTarError(ValueError):
    """Raised where an archive cannot be read further; what came before is whole."""


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes:
        name: Its path in there, without a leading `./`.
        offset: Byte at which its first header begins (of the unpacked archive).
        size: Its bytes.
        is_sparse: Whether it is stored with holes, which no reader of samples fills.
    """

    name: str
    offset: int
    size: int
    is_sparse: bool = False


class TarStream:
    """Reads the members of an archive in order; a context manager.

    After `members` has yielded one, `read` returns its content; what is not read is passed over.
    """

    def __init__(self, file: IO[bytes], offset: int = 0, *, is_packed: bool = False) -> None:
        """Take an open file that stands at a header.

        Args:
            file: Unpacked.
            offset: Byte at which it stands.
            is_packed: Whether it is being unpacked, so that offsets are none of the file's own.
        """
        self.is_packed = is_packed
        self._file = file
        self._at = offset
        self._left = 0
        """Bytes of the member that are still in front of the file's position, its padding not counted."""
        self._padding = 0
        self._name = ""

    def __enter__(self) -> TarStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def members(self) -> Iterator[Member]:
        """Yield the regular files; folders and links hold nothing, and are passed over.

        Raises:
            BrokenTarError: If a header is broken or the archive is cut off, its end mark missing included.
            OSError, EOFError, zlib.error: If the file cannot be read further.
        """
        ended = False
        start, extended = self._at, dict[str, str]()
        while True:
            block = self._read(BLOCK)
            if not block.strip(b"\0"):  # of the end mark, which a second archive may follow, or part of it
                if not block and not ended:
                    raise BrokenTarError(f"no mark of its end follows byte {start}: is it cut off?")
                if extended:
                    raise BrokenTarError(f"no file follows the extended header at byte {start}")
                if len(block) < BLOCK:
                    return
                ended, start = True, self._at
                continue
            info = self._header(block, start)
            if info.type in (*_NAMES_OF_NEXT, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE):
                found = self._extended(info)
                if info.type == tarfile.XGLTYPE:  # of all that follow: comments, seldom more
                    start = self._at
                else:
                    extended |= found
                continue
            member = self._begin(info, start, extended)
            if member is not None:
                yield member
            self._pass_over()
            ended, start, extended = False, self._at, {}

    def read(self) -> bytes:
        """Return the content of the member that was yielded last; once.

        Raises:
            BrokenTarError: If the archive is cut off in it.
        """
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
                raise BrokenTarError("it is no tar archive") from None
            raise BrokenTarError(f"the header at byte {self._at - BLOCK} is broken: {err}") from None
        if not 0 <= info.size <= _MOST_BYTES:
            raise BrokenTarError(f"the header at byte {self._at - BLOCK} is broken: a size of {info.size} bytes")
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise BrokenTarError(f"{info.name!r} is stored with holes (--sparse), which is not read")
        return info

    def _extended(self, info: tarfile.TarInfo) -> dict[str, str]:
        """Return what an extended header says of the file that follows."""
        if info.size > _MAX_EXTENDED_BYTES:
            raise BrokenTarError(f"the extended header at byte {self._at - BLOCK} has {info.size} bytes")
        self._left, self._padding, self._name = info.size, -info.size % BLOCK, "an extended header"
        data = self.read()
        self._pass_over()
        if info.type in _NAMES_OF_NEXT:
            return {_NAMES_OF_NEXT[info.type]: data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
        found: dict[str, str] = {}
        while data.rstrip(b"\0"):
            length, space, _ = data[:32].partition(b" ")
            if not (space and length.isdigit() and len(length) + 2 < int(length) <= len(data)):
                raise BrokenTarError(f"the extended header before byte {self._at} is broken")
            key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
            found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
            data = data[int(length) :]
        return found

    def _begin(self, info: tarfile.TarInfo, start: int, extended: dict[str, str]) -> Member | None:
        """Note where a file's content ends; returns the file, None for what holds no content."""
        size = info.size
        if "size" in extended:
            if not extended["size"].isdecimal() or int(extended["size"]) > _MOST_BYTES:
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
        return Member(extended.get("GNU.sparse.name", name), start, size, is_sparse)

    def _pass_over(self) -> None:
        """Go to the next header; what is cut off shows when that is not there."""
        left, self._left, self._padding = self._left + self._padding, 0, 0
        if left:
            self._file.seek(left, io.SEEK_CUR)
            self._at += left

    def _read(self, size: int) -> bytes:
        """Read as many bytes, fewer at the end of the file alone."""
        data = self._file.read(size)
        while 0 < len(data) < size and (more := self._file.read(size - len(data))):
            data += more
        self._at += len(data)
        return data


def open_tar(path: str, offset: int = 0) -> TarStream:
    """Open an archive, packed by gzip or not, told by its first bytes.

    Args:
        path: Path or URL.
        offset: Byte at which a header begins; 0 in a packed archive.

    Raises:
        BrokenTarError: If it is packed otherwise.
    """
    raw = open_input(path)
    with contextlib.ExitStack() as stack:
        stack.callback(raw.close)
        start = raw.read(8)
        packed = next((name for magic, name in _PACKED.items() if start.startswith(magic)), None)
        if packed not in (None, "gzip"):
            raise BrokenTarError(f"it is packed with {packed}; unpack it, or pack it with gzip")
        raw.seek(offset)
        stack.pop_all()
    if packed:
        return TarStream(cast(IO[bytes], Packed(fileobj=raw, mode="rb")), offset, is_packed=True)
    return TarStream(raw, offset)
