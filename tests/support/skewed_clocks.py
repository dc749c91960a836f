"""A job whose hosts have clocks that are hours apart: each step is done under another clock."""

from __future__ import annotations

import datetime
import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from resume_jobs import begin, contents, undisturbed, work, write_texts

from clipmill.datasets import finish_job, summarise
from clipmill.errors import DatasetError
from clipmill.files import lock
from clipmill.files.folder import Folder
from clipmill.files.lock import LOCK, DirectoryLock
from clipmill.files.processes import this_process

HOURS = (-5.0, -1.0, 0.0, 2.0, 5.0)


def check_skewed_clocks(draw: random.Random, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Start, work on, resume and finish a job under drawn clocks, and meet locks of living and dead hosts.

    No input counts as changed, no shard is done again, a lock of a host that works is never taken, but one of a host
    that is gone is, and the rate is that of the work.
    """
    monkeypatch.setattr(lock, "_SETTLE_S", 0.01)
    folder.mkdir(exist_ok=True)
    directory, given = str(folder / "out"), write_texts(folder / "a.jsonl", 9)
    right = undisturbed(str(folder / "right"), given)
    counts = {"jobs": 1, "locks kept": 0, "locks replaced": 0}

    @contextmanager
    def clock(host: str) -> Iterator[None]:
        offset, real = 3600 * draw.choice(HOURS), time.time
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: real() + offset)
            patch.setattr("clipmill.jobs.shard.socket.gethostname", lambda: host)
            yield

    def meet_lock(*, is_alive: bool) -> None:
        foreign = {**this_process(), "place": "another host", "host": "h", "token": "t"}
        with clock("h"):
            foreign["beat"] = time.time()
        Folder.of(directory).write(LOCK, json.dumps(foreign).encode())
        if is_alive:
            with clock("driver"), pytest.raises(DatasetError, match=r"last heartbeat -?\d s ago"):
                DirectoryLock(directory).__enter__()
            Folder.of(directory).delete(LOCK)
            counts["locks kept"] += 1
        else:
            then = datetime.datetime.now().timestamp() - lock.DEAD_AFTER_S - 5
            os.utime(Path(directory) / LOCK, (then, then))
            counts["locks replaced"] += 1

    with clock("driver"):
        job, progress = begin(directory, given)
    shards = list(progress.to_do)
    for number, shard in enumerate(shards[:3]):
        with clock(f"worker-{number}"):
            work(job, [shard])
    meet_lock(is_alive=draw.random() < 0.5)
    with clock("driver"), DirectoryLock(directory) as held:
        job, progress = begin(directory, given)
        held.check()
    assert [shard.name for shard in progress.to_do] == [shard.name for shard in shards[3:]], progress.reasons
    for number, shard in enumerate(list(progress.to_do)):
        with clock(f"worker-{number}"):
            work(job, [shard])
    meet_lock(is_alive=draw.random() < 0.5)
    with clock("driver"), DirectoryLock(directory):
        finish_job(directory)
        assert begin(directory, given)[1].is_complete
    assert contents(directory) == right
    assert summarise(directory).active_seconds < 600
    return counts
