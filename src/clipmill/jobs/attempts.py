"""Marks of the processes that work on a shard, which show the next process how many of them were killed.

A mark is a small file below `_attempts/`. A process writes it before it reads the first row, and deletes it at its end,
also after an error. A mark that is left therefore belongs to a process that was killed, or that still runs:

    process 1 ── mark ── killed          1 mark of a dead process: embed as usual
    process 2 ── mark ── killed          2 marks: row by row, in a process of its own; each row is noted in the mark
    process 3 ── mark, row 17 ── killed
    process 4 ── mark, row 17 ── killed  2 marks end at row 17: it becomes a failure, `killed`
    process 5 ── done                    deletes the marks of the others

A mark of this machine (and boot, and container) tells for certain whether its process was killed. One of another
machine does not: the process may have been killed by a row, alone or with its container, or the machine was lost
(preempted, scaled down), or it still runs (a speculative copy). Two such marks prove nothing, which three, or one
beside a certain death, do: lost machines hit the shards at random, a bad row hits one again and again.
"""

from __future__ import annotations

import collections
import contextlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from ..datasets.directory import ATTEMPTS
from ..datasets.inputs.shards import Shard
from ..errors import DatasetError
from ..files.file_systems import dataset_errors, is_local
from ..files.folder import Folder
from ..files.json_text import json_text, parse_json
from ..files.processes import may_be_alive, this_process

DEATHS_TO_BLAME = 2
"""Processes killed at the same row after which the row becomes a failure: one may have other causes."""
_KILLED = 3
"""Weight of a mark whose process was killed for certain."""
_UNKNOWN = 2
"""Weight of a mark of another machine, which may have been lost."""
_SUSPECT = 5
"""Weight of marks from which on the shard, or the row where they end, is suspected: of 2 killed processes, of one and
an unknown one, or of 3 unknown ones."""
_MAX_BYTES = 64 * 2**20
"""Bytes of a mark that are read: the places of a shard's rows are a few hundred bytes each."""


class _Death(NamedTuple):
    """What the mark of an ended process says: how certain its death is, and the row where it ended, if noted."""

    weight: int
    place: str | None


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
        self._dead: dict[str, _Death] = {}

    def __enter__(self) -> Self:
        found = {name: self._death(lines) for name, lines in self._marks().items()}
        self._dead = {name: death for name, death in found.items() if death is not None}
        self._head = json_text({**this_process(), "fingerprint": self._fingerprint}).encode() + b"\n"
        with self._errors():
            if is_local(self._folder.fs):
                path = Path(self._folder.at(self._name))
                path.parent.mkdir(exist_ok=True)
                self._file = path.open("xb", buffering=0)
                self._file.write(self._head)
            else:
                self._upload(self._head)
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
        return sum(death.weight for death in self._dead.values()) >= _SUSPECT

    @property
    def blamed(self) -> set[str]:
        """The places, as given to `note`, at which earlier processes were killed often enough."""
        weights: collections.Counter[str] = collections.Counter()
        for death in self._dead.values():
            if death.place is not None:
                weights[death.place] += death.weight
        return {place for place, weight in weights.items() if weight >= _SUSPECT}

    def note(self, place: str) -> None:
        """Write the next place to the mark, for the case that this process is killed there."""
        line = json_text(place).encode() + b"\n"
        with self._errors():
            if self._file is not None:
                self._file.write(line)
            else:
                self._upload(self._head + line)

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

    def _death(self, lines: list[Any]) -> _Death | None:
        """Return what a mark says of its process; None if that still runs, or had other rows in this shard."""
        head = lines[0] if lines and isinstance(lines[0], Mapping) else None
        if head is None:
            return _Death(_KILLED, None)  # while writing its first line
        if head.get("fingerprint") != self._fingerprint or (alive := may_be_alive(dict(head))) is True:
            return None
        return _Death(_KILLED if alive is False else _UNKNOWN, lines[-1] if isinstance(lines[-1], str) else None)

    def _delete(self, name: str) -> None:
        with contextlib.suppress(DatasetError):  # a mark that is left costs time only
            self._folder.delete(name)

    def _upload(self, content: bytes) -> None:
        self._folder.call(lambda: self._folder.fs.pipe_file(self._folder.at(self._name), content))

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return dataset_errors("write", f"{self._folder.url}/{self._name}")


def _parsed(content: bytes) -> list[Any]:
    lines = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError):  # an incomplete line, or one that clipmill did not write
            lines.append(parse_json(line))
    return lines
