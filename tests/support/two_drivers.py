"""Two drivers that start in one directory at once, their steps in an order that is drawn; and what must come of it."""

from __future__ import annotations

import collections
import contextlib
import functools
import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from resume_jobs import SPEC, begun, contents, undisturbed, work, write_texts

from clipmill.datasets import finish_job, plan_shards, summarise
from clipmill.errors import ClipmillError
from clipmill.files import lock
from clipmill.files.folder import Folder
from clipmill.files.lock import LOCK, DirectoryLock
from clipmill.jobs import plan_job, read_previous_run, start_job

WAYS = ("fail", "resume", "replace", "replace_unfinished")
BEFORE = ("nothing", "unfinished", "finished")
_STEPS = ("list", "read", "read_many", "write", "publish", "delete", "exists", "size")
_STUCK_S = 0.1
_MOST_STEPS = 100
"""About as many as a driver takes for five shards, or their workers."""


class Turns:
    """Lets two threads go on in turns; whose turn it is is drawn.

    Either at each step; or one of them stops at a drawn step, until the other one is at its end. A thread that waits
    for the other one outside of a step, such as for a lock of the operating system, is skipped.
    """

    def __init__(self, draw: random.Random, names: Iterable[str]) -> None:
        self._draw = draw
        self._change = threading.Condition()
        self._there = set(names)
        self._turn = draw.choice(sorted(self._there))
        self._left = draw.randrange(_MOST_STEPS) if draw.random() < 0.5 else 0
        self._stops = self._left > 0

    def step(self) -> None:
        """Wait for this thread's turn, if it is one of the two."""
        me = threading.current_thread().name
        if me not in self._there:
            return
        with self._change:
            if self._turn == me:
                self._next()
            self._change.notify_all()
            while self._turn != me:
                if not self._change.wait(_STUCK_S if self._left == 0 else 10 * _STUCK_S):
                    self._turn = me

    def _next(self) -> None:
        if self._left > 0:
            self._left -= 1
        elif self._stops:
            self._turn = next(iter(self._there - {self._turn}), self._turn)
            self._left, self._stops = sys.maxsize, False
        else:
            self._turn = self._draw.choice(sorted(self._there))

    @contextlib.contextmanager
    def taking_part(self) -> Iterator[None]:
        me = threading.current_thread().name
        try:
            yield
        finally:
            with self._change:
                self._there.discard(me)
                self._turn, self._left = next(iter(self._there), me), 0
                self._change.notify_all()


def drive(directory: str, given: Path, if_exists: str, *, locked: bool = True) -> None:
    """Run a whole job as a command does; library users may do so without the lock."""
    with DirectoryLock(directory) if locked else contextlib.nullcontext():
        previous = read_previous_run(directory) if if_exists == "resume" else None
        shards = plan_shards([str(given)], rows_per_shard=2, previous=previous.plan if previous else ())
        job = plan_job(SPEC, directory, shards)
        arguments = {"rows_per_shard": 2}
        progress = start_job(
            job, shards, inputs=[str(given)], arguments=arguments, if_exists=if_exists, previous=previous
        )
        if not progress.is_complete:
            work(job, progress.to_do)
            finish_job(directory)


def check_two_drivers(
    draw: random.Random, folder: Path, directory: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, int]:
    """Start two drivers at once, with drawn ways and inputs; return how many ended well, and how many were refused.

    One that ends well leaves a whole dataset of one of the inputs, never of both. Afterwards another one replaces it.
    """
    monkeypatch.setattr(lock, "_SETTLE_S", 0.01)
    folder.mkdir(exist_ok=True)
    inputs = [write_texts(folder / name, rows) for name, rows in (("a.jsonl", 5), ("b.jsonl", 6))]
    right = [undisturbed(str(folder / f"right-{one.stem}"), one) for one in inputs]
    before = draw.choice(BEFORE)
    if before != "nothing":
        begun(directory, inputs[0], done=1 if before == "unfinished" else 99)
    if before == "finished":
        finish_job(directory)
    ways = [draw.choice(WAYS) for _ in range(2)]
    given = [draw.choice(inputs) for _ in range(2)]
    locked = draw.random() < 0.7
    ended: collections.Counter[str] = collections.Counter()

    def run(number: int) -> None:
        try:
            drive(directory, given[number], ways[number], locked=locked)
            ended["ended well"] += 1
        except ClipmillError:
            ended["refused"] += 1

    errors = run_by_turns(
        draw, monkeypatch, {f"driver-{number}": functools.partial(run, number) for number in range(2)}
    )
    what = f"{before}, {ways}, {[one.stem for one in given]}, locked={locked}, {dict(ended)}"
    assert not errors, (what, errors)
    if ended["ended well"]:
        assert summarise(directory).complete, what
    if (before == "finished" or ended["ended well"]) and summarise(directory).complete:
        assert contents(directory) in right, what
    drive(directory, inputs[1], "replace")
    assert contents(directory) == right[1], what
    assert not [name for name in Folder.of(directory).list() if name == LOCK or name.endswith(".tmp")], what
    return {**ended, "pairs": 1}


def run_by_turns(
    draw: random.Random, monkeypatch: pytest.MonkeyPatch, works: Mapping[str, Callable[[], None]]
) -> list[BaseException]:
    """Run two functions at once, in threads with these names, by turns of a step of a folder; return their errors."""
    turns, errors = Turns(draw, works), []

    def run(work: Callable[[], None]) -> None:
        with turns.taking_part():
            try:
                work()
            except BaseException as err:
                errors.append(err)

    with monkeypatch.context() as patch:
        for name in _STEPS:
            _step_by_step(patch, name, turns)
        threads = [threading.Thread(target=run, args=(work,), name=name) for name, work in works.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return errors


def _step_by_step(patch: pytest.MonkeyPatch, name: str, turns: Turns) -> None:
    usual = getattr(Folder, name)

    def step(self: Folder, *given: object, **options: object) -> object:
        turns.step()
        return usual(self, *given, **options)

    patch.setattr(Folder, name, step)
