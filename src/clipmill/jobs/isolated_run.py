"""Embeds a shard that killed processes row by row, in a process of its own, to find the row that kills.

The process reports each row that it starts, and how it ended, to the process that started it. A row at which two of
them died becomes a failure in the next one; the process that reaches the end writes the shard. The watching process
writes the rows down too, for the next attempt after a container is killed as a whole.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..datasets.inputs.shards import Shard
from ..errors import ClipmillError, DatasetError
from ..files.processes import meaning_of_exit
from ..metrics.env_exporter import FILE_VARIABLE, PORT_VARIABLE
from .attempts import DEATHS_TO_BLAME, Attempt
from .job import Job
from .row_by_row import RowByRow
from .shard import embed_rows

_MOST_BLAMED = 16
"""Rows of one shard that may be blamed: if more kill, the rows are not the cause."""


def run_isolated(shard: Shard, job: Job, attempt: Attempt, *, cpus: int | None, exclusive: bool) -> dict[str, Any]:
    """Embed a shard in processes that may die, and return its manifest; `cpus` and `exclusive` as in `embed_shard`.

    Raises:
        ClipmillError: If the work raised it, a process died before its first row, or too many rows killed processes.
    """
    blamed = dict.fromkeys(attempt.blamed, "it ended all processes beside it")
    deaths: collections.Counter[str] = collections.Counter()
    how = ""
    while len(blamed) <= _MOST_BLAMED:
        tried = _Try(attempt.note)
        manifest = tried.run((shard, job, cpus, exclusive, blamed))
        if manifest is not None:
            return manifest
        how = meaning_of_exit(tried.exit_code)
        if tried.place is None:
            raise DatasetError(f"shard {shard.name}: a process for it alone died before its first row ({how})")
        deaths[tried.place] += 1
        if deaths[tried.place] >= DEATHS_TO_BLAME:
            blamed[tried.place] = how
        if len(deaths) > _MOST_BLAMED:
            break
    raise DatasetError(
        f"shard {shard.name}: processes died at {len(deaths)} different rows, the last with {how}; single rows are "
        "not the cause: check the memory of the machine, at the model and at the libraries that decode"
    )


class _Try:
    """One process for one shard, and what it reported."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self.place: str | None = None
        self.exit_code = 0

    def run(self, given: tuple[Any, ...]) -> dict[str, Any] | None:
        """Start it, and wait for its end; return the manifest, or None if it died."""
        reading, writing = os.pipe()
        command = [sys.executable, "-c", f"from {__name__} import main; main()", str(writing)]
        with open(reading, "rb") as told:
            try:
                process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[writing], env=_environment())
            finally:
                os.close(writing)
            with process:
                assert process.stdin is not None
                try:
                    with contextlib.suppress(BrokenPipeError):  # it died at once; its exit code is reported below
                        pickle.dump(given, process.stdin)
                        process.stdin.flush()
                    manifest = self._listen(told)
                except BaseException:
                    process.kill()
                    raise
                finally:
                    with contextlib.suppress(BrokenPipeError):
                        process.stdin.close()
                self.exit_code = process.wait()
        return manifest

    def _listen(self, told: Any) -> dict[str, Any] | None:
        while True:
            try:
                kind, said = pickle.load(told)
            except (EOFError, pickle.UnpicklingError):
                return None
            if kind == "error":
                raise said
            if kind == "manifest":
                return dict(said)
            self.place = said
            self._note(said)


def _environment() -> dict[str, str]:
    """Return the environment with this process's module path, which engines extend, and without its metrics."""
    kept = {name: value for name, value in os.environ.items() if name not in (FILE_VARIABLE, PORT_VARIABLE)}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def main() -> None:
    """Main function of the process: read the work from standard input, report to the given pipe."""
    with contextlib.suppress(OSError):  # Linux only: if memory runs out, this process is killed first
        Path("/proc/self/oom_score_adj").write_text("1000")
    with open(int(sys.argv[1]), "wb", buffering=0) as pipe:

        def tell(kind: str, said: Any) -> None:
            pipe.write(pickle.dumps((kind, said)))

        try:
            shard, job, cpus, exclusive, blamed = pickle.load(sys.stdin.buffer)
            threading.Thread(target=_end_with_parent, daemon=True).start()
            row_by_row = RowByRow(blamed, lambda place: tell("place", place))
            tell("manifest", embed_rows(shard, job, cpus=cpus, exclusive=exclusive, row_by_row=row_by_row))
        except BaseException as err:
            tell("error", err if _travels(err) else ClipmillError(f"{type(err).__name__}: {err}"))


def _end_with_parent() -> None:
    os.read(0, 1)  # unbuffered: this thread would hold the lock of the buffer when the interpreter ends
    os._exit(1)


def _travels(error: BaseException) -> bool:
    try:
        return isinstance(pickle.loads(pickle.dumps(error)), type(error)) and isinstance(error, Exception)
    except Exception:
        return False
