"""Files that are compressed as a whole, recognised by their first bytes, whatever their names are."""

from __future__ import annotations

import gzip
import io
from typing import IO, Any, cast

SUFFIXES = (".gz", ".gzip", ".bz2", ".zst", ".xz")
"""Endings that tools add to the name of a file that they compress."""
_READ = ("gzip", "bzip2", "Zstandard")
_MAGIC = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"\xfd7zXZ\x00", "xz"),
    *((b"BZh%d1AY&SY" % level, "bzip2") for level in range(1, 10)),
)
_CODECS = {"bzip2": "bz2", "Zstandard": "zstd"}
_BLOCK = 2**16
_PIECE = 4096


class CompressionError(ValueError):
    """Raised for a compression that is not read."""


def compression_of(start: bytes) -> str | None:
    """Return the compression of a file by its first ten bytes; None if it is not compressed."""
    return next((name for magic, name in _MAGIC if start.startswith(magic)), None)


def decompressed(file: IO[bytes]) -> tuple[IO[bytes], str | None]:
    """Return the content of a file at its beginning, decompressed while it is read, and the name of its compression.

    A file without compression is returned as it is. The content can be read and skipped forwards, and read again from
    its beginning. Closing it closes the file. Of a truncated file, nearly all content before the cut can be read.

    Raises:
        CompressionError: If the compression is not read; the file is closed.
        OSError, EOFError, zlib.error: While reading, if the file is damaged.
    """
    compression = compression_of(file.read(10))
    file.seek(0)
    if compression is None:
        return file, None
    if compression == "gzip":
        return cast(IO[bytes], _OwningGzipFile(fileobj=file, mode="rb")), compression
    if compression not in _CODECS:
        file.close()
        # A small xz file may ask for gigabytes of memory, which Python's reader cannot limit.
        raise CompressionError(f"it is compressed with {compression}; decompress it, or use one of {', '.join(_READ)}")
    stream = cast(io.RawIOBase, _ArrowDecompressor(file, _CODECS[compression]))
    return cast(IO[bytes], io.BufferedReader(stream, _BLOCK)), compression


class _OwningGzipFile(gzip.GzipFile):
    """A gzip file that also closes the file it reads from.

    It adds no buffer, so that a truncated file still yields everything before the cut.
    """

    def close(self) -> None:
        """Close both files."""
        compressed: Any = self.fileobj
        super().close()
        if compressed is not None:
            compressed.close()


class _ArrowDecompressor(io.RawIOBase):
    """Decompresses a file with a codec of pyarrow; its position can be moved forwards, and to the beginning."""

    def __init__(self, file: IO[bytes], codec: str) -> None:
        self._file = file
        self._codec = codec
        self._rewind()

    def _rewind(self) -> None:
        import pyarrow as pa

        self._file.seek(0)
        self._stream = pa.CompressedInputStream(_Unclosed(self._file), self._codec)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(min(_PIECE, len(buffer)))  # where the file is cut, a piece is lost
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the length of compressed content is unknown")
        target = offset + (self._at if whence == io.SEEK_CUR else 0)
        if target < self._at:
            self._rewind()
        while self._at < target and (data := self._stream.read(min(_BLOCK, target - self._at))):
            self._at += len(data)
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        super().close()
        self._file.close()


class _Unclosed(io.RawIOBase):
    """A file that is read but not closed; pyarrow closes what it reads from."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        return self._file.read(-1 if size is None else size)
