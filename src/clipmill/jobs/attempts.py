"""Marks of the processes that work on a shard, which show the next process how many of them were killed.

A mark is a small file below `_attempts/`. A process writes it before it reads the first row, and deletes it at its end,
also after an error. A mark that is left therefore belongs to a process that was killed, or that still runs:

    process 1 ── mark ── killed          1 mark of a dead process: embed as usual
    process 2 ── mark ── killed          2 marks: row by row, in a process of its own; each row is noted in the mark
    process 3 ── mark, row 17 ── killed
    process 4 ── mark, row 17 ── killed  2 marks end at row 17: it becomes a failure, `killed`
    process 5 ── done                    deletes the marks of the others

Whether a process on another machine still runs is unknown. It counts as dead: at worst, its shard runs row by row
without need.
"""

from __future__ import annotations

import collections
import contextlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from ..datasets.directory import ATTEMPTS
from ..datasets.inputs.shards import Shard
from ..errors import DatasetError
from ..files.file_systems import Folder, dataset_errors, is_local
from ..files.json_text import json_text, parse_json
from ..files.processes import may_be_alive, this_process

_DEATHS_TO_ISOLATE = 2
"""Killed processes after which a shard is processed row by row."""
DEATHS_TO_BLAME = 2
"""Processes killed at the same row after which the row becomes a failure: one may have other causes."""
_MAX_BYTES = 64 * 2**20
"""Bytes of a mark that are read: the places of a shard's rows are a few hundred bytes each."""


class Attempt:
    """A mark that this process works on a shard; a context manager."""

    def __init__(self, directory: str, shard: Shard) -> None:
        """Take the shard; the mark is written when the block is entered."""
        self._folder = Folder.of(directory)
        self._fingerprint = shard.fingerprint
        self._stem = f"{ATTEMPTS}/{shard.name}."
        self._name = f"{self._stem}{secrets.token_hex(4)}.jsonl"
        self._file: IO[bytes] | None = None
        self._head = b""
        self._dead: dict[str, list[Any]] = {}

    def __enter__(self) -> Self:
        self._dead = {name: lines for name, lines in self._marks().items() if self._is_of_dead(lines)}
        self._head = json_text({**this_process(), "fingerprint": self._fingerprint}).encode() + b"\n"
        with self._errors():
            if is_local(self._folder.fs):
                path = Path(self._folder.at(self._name))
                path.parent.mkdir(exist_ok=True)
                self._file = path.open("xb", buffering=0)
                self._file.write(self._head)
            else:
                self._folder.fs.pipe_file(self._folder.at(self._name), self._head)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._delete(self._name)
        if self._file is not None:
            self._file.close()

    @property
    def is_dangerous(self) -> bool:
        """Whether enough processes were killed at this shard that one of its rows may be the cause."""
        return len(self._dead) >= _DEATHS_TO_ISOLATE

    @property
    def blamed(self) -> set[str]:
        """The places, as given to `note`, at which earlier processes were killed often enough."""
        last = collections.Counter(lines[-1] for lines in self._dead.values() if isinstance(lines[-1], str))
        return {place for place, deaths in last.items() if deaths >= DEATHS_TO_BLAME}

    def note(self, place: str) -> None:
        """Write the next place to the mark, for the case that this process is killed there."""
        line = json_text(place).encode() + b"\n"
        with self._errors():
            if self._file is not None:
                self._file.write(line)
            else:
                self._folder.fs.pipe_file(self._folder.at(self._name), self._head + line)

    def forget(self) -> None:
        """Delete the marks of dead processes: the shard is written."""
        for name in self._dead:
            self._delete(name)

    def _marks(self) -> dict[str, list[Any]]:
        """Return the marks of this shard by name: the head and the places of each, without incomplete lines."""
        found = {}
        for name in self._folder.list(ATTEMPTS):
            if name.startswith(self._stem):
                with contextlib.suppress(FileNotFoundError):  # its process has ended meanwhile
                    found[name] = _parsed(self._folder.read(name, max_bytes=_MAX_BYTES))
        return found

    def _is_of_dead(self, lines: list[Any]) -> bool:
        head = lines[0] if lines and isinstance(lines[0], Mapping) else None
        if head is None:
            lines.insert(0, {})
            return True  # killed while writing its first line
        return head.get("fingerprint") == self._fingerprint and may_be_alive(dict(head)) is not True

    def _delete(self, name: str) -> None:
        with contextlib.suppress(DatasetError):  # a mark that is left costs time only
            self._folder.delete(name)

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return dataset_errors("write", f"{self._folder.url}/{self._name}")


def _parsed(content: bytes) -> list[Any]:
    lines = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError):  # an incomplete line, or one that clipmill did not write
            lines.append(parse_json(line))
    return lines
