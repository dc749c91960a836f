"""Where the parts of a list are: in a temporary file, or in a folder. `parted_list` reads and writes them."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import itertools
import tempfile
import threading
import weakref
from collections.abc import Sequence
from typing import IO, Any, NamedTuple, Self

from ..errors import DatasetError
from ..messages import Message
from .folder import Folder
from .json_shape import fits
from .json_text import json_text, parse_json

_IN_MEMORY = 8 * 2**20
"""Bytes of compressed parts above which a list that is in no folder goes to a temporary file."""
_LEVEL = 1
"""Of compression. Items are so repetitive that a higher level would gain little."""


class Index(NamedTuple):
    """What `name.json` holds."""

    id: str
    starts: list[int]

    @classmethod
    def read(cls, folder: Folder, name: str, hint: Message | str = "") -> Self:
        """Read the index of a list; raise `FileNotFoundError` if there is none, `DatasetError` if it is damaged."""
        content = folder.read(f"{name}.json")
        try:
            found = parse_json(content)
            if not fits(found, {"id": _is_id, "starts": [int]}):
                raise ValueError("clipmill does not write such values")
            starts = found["starts"]
            if starts[:1] != [0] or any(one >= two for one, two in itertools.pairwise(starts)):
                raise ValueError("its parts are not in order")
        except ValueError as err:
            raise DatasetError(f"{folder.url}/{name}.json is damaged ({err})", hint=hint) from err
        return cls(found["id"], starts)

    def write(self, folder: Folder, name: str) -> None:
        """Write the index of a list."""
        folder.write(f"{name}.json", json_text(self._asdict()).encode())


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 64 and value.isalnum() and value.isascii()


class Spool:
    """The parts of a list that is in no folder.

    Attributes:
        starts: As `Stored.starts`.
    """

    def __init__(self) -> None:
        """Start with no part."""
        self.starts = [0]
        self._places = [0]
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - lives as long as the list
        weakref.finalize(self, self._file.close)
        self._hash = hashlib.sha256()
        self._lock = threading.Lock()

    @property
    def id(self) -> str:
        """A digest of all items."""
        return self._hash.hexdigest()[:16]

    @property
    def key(self) -> Any:
        """What names the list in caches."""
        return self.id

    def name_of(self, part: int) -> str:
        """Return the name of a part in messages."""
        return f"part {part} of a temporary list"

    def add(self, lines: list[bytes]) -> None:
        """Add a part with these encoded items."""
        content = b"\n".join(lines) + b"\n"
        self._hash.update(content)
        self._places.append(self._places[-1] + self._file.write(gzip.compress(content, _LEVEL, mtime=0)))
        self.starts.append(self.starts[-1] + len(lines))

    def read(self, part: int) -> bytes:
        """Return the bytes of a part."""
        with self._lock:
            self._file.seek(self._places[part])
            content = self._file.read(self._places[part + 1] - self._places[part])
            self._file.seek(self._places[-1])
        return content

    def __reduce__(self) -> Any:
        raise TypeError("a list in a temporary file cannot be pickled; store it in a folder")


class Stored:
    """The parts of a list in a folder; pickles to its address.

    Attributes:
        id: A digest of all items.
    """

    def __init__(self, urls: Sequence[str], name: str, id: str, starts: list[int] | None = None) -> None:
        """Take the folders where the list may be, its name, and what its index says."""
        self._urls = urls
        self._name = name
        self.id = id
        self._starts = starts

    def __reduce__(self) -> tuple[Any, ...]:
        return Stored, (self._urls, self._name, self.id)

    @property
    def starts(self) -> list[int]:
        """The number of the first item of each part, and that of all items."""
        if self._starts is None:
            self._starts = _starts_of(tuple(self._urls), self._name, self.id)
        return self._starts

    @property
    def key(self) -> Any:
        """What names the list in caches."""
        return tuple(self._urls), self._name, self.id

    def name_of(self, part: int) -> str:
        """Return the name of a part in messages."""
        return f"{self._urls[0]}/{self.part_name(part)}"

    def part_name(self, part: int) -> str:
        """Return the name of the file of a part."""
        return f"{self._name}/{self.id}-{part:05d}.jsonl.gz"

    def read(self, part: int) -> bytes:
        """Return the bytes of a part."""
        for url in self._urls:
            try:
                return Folder.of(url).read(self.part_name(part))
            except FileNotFoundError:
                continue
        raise _gone(self.name_of(part))


@functools.lru_cache(maxsize=16)
def _starts_of(urls: tuple[str, ...], name: str, id: str) -> list[int]:
    """Return where the parts of a list begin; a process reads its index once."""
    for url in urls:
        with contextlib.suppress(FileNotFoundError):
            index = Index.read(Folder.of(url), name)
            if index.id == id:
                return index.starts
    raise _gone(f"{urls[0]}/{name}.json of the list {id}")


def _gone(what: str) -> DatasetError:
    return DatasetError(
        f"{what} is gone: the job that this worker was started for has ended, or was started again and planned anew"
    )
