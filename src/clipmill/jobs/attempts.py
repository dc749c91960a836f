"""Marks of the processes that began to work on a shard, so that the next one knows how often that ended in death.

A mark is a small file below `_attempts/`, made before the first row is read and deleted by whoever made it, whatever
went wrong: what is left behind belongs to a process that was killed. Of processes on other machines nobody can tell;
they count as dead, and the worst that a living one costs is a shard that is worked on more slowly than it need be.
"""

from __future__ import annotations

import collections
import contextlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from ..datasets.directory import ATTEMPTS
from ..datasets.inputs.shards import Shard
from ..errors import DatasetError
from ..files.file_systems import Folder, dataset_errors, is_local
from ..files.json_text import json_text
from ..files.processes import may_be_alive, this_process

_DEATHS_TO_BE_CAREFUL = 2
"""Deaths over a shard after which it is worked on row by row."""
DEATHS_TO_BLAME = 2
"""Deaths at one and the same row after which the row is to blame: a single one may be anybody's fault."""


class Attempt:
    """A mark that this process works on a shard; a context manager."""

    def __init__(self, directory: str, shard: Shard) -> None:
        """Name the shard; nothing happens before the block is entered.

        Args:
            directory: Path or URL of the dataset.
            shard: What will be worked on.
        """
        self._folder = Folder.of(directory)
        self._fingerprint = shard.fingerprint
        self._stem = f"{ATTEMPTS}/{shard.name}."
        self._name = f"{self._stem}{secrets.token_hex(4)}.jsonl"
        self._file: IO[bytes] | None = None
        self._head = b""
        self._dead: dict[str, list[Any]] = {}

    def __enter__(self) -> Self:
        self._dead = {name: lines for name, lines in self._standing().items() if self._tells_of_death(lines)}
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
        """Whether so many processes died over this shard that one of its rows may be to blame."""
        return len(self._dead) >= _DEATHS_TO_BE_CAREFUL

    @property
    def blamed(self) -> set[str]:
        """The places at which earlier processes died that worked row by row, as `note` was given them."""
        last = collections.Counter(lines[-1] for lines in self._dead.values() if isinstance(lines[-1], str))
        return {place for place, deaths in last.items() if deaths >= DEATHS_TO_BLAME}

    def note(self, place: str) -> None:
        """Write down what is done next, for those who come after a death of this process too.

        Raises:
            DatasetError: If that is not possible.
        """
        line = json_text(place).encode() + b"\n"
        with self._errors():
            if self._file is not None:
                self._file.write(line)
            else:
                self._folder.fs.pipe_file(self._folder.at(self._name), self._head + line)

    def forget(self) -> None:
        """Delete the marks of the dead: the shard is written."""
        for name in self._dead:
            self._delete(name)

    def _standing(self) -> dict[str, list[Any]]:
        """Return the marks of this shard: of each, its head and the places in it; without what is torn."""
        found = {}
        for name in self._folder.list(ATTEMPTS):
            if name.startswith(self._stem):
                with contextlib.suppress(FileNotFoundError):  # its process has ended meanwhile
                    found[name] = _parsed(self._folder.read(name))
        return found

    def _tells_of_death(self, lines: list[Any]) -> bool:
        head = lines[0] if lines and isinstance(lines[0], Mapping) else None
        if head is None:
            lines.insert(0, {})
            return True  # killed while it wrote its first line
        return head.get("fingerprint") == self._fingerprint and may_be_alive(dict(head)) is not True

    def _delete(self, name: str) -> None:
        with contextlib.suppress(DatasetError):  # a mark too many costs time, and this is no reason to end a job
            self._folder.delete(name)

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return dataset_errors("write", f"{self._folder.url}/{self._name}")


def _parsed(content: bytes) -> list[Any]:
    lines = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError):  # torn by a death
            lines.append(json.loads(line))
    return lines
