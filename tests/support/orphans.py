"""Workers of a dead driver that go on while its job is resumed or replaced, their steps in an order that is drawn."""

from __future__ import annotations

import random
import uuid
from pathlib import Path

import pytest
from resume_jobs import begin, contents, undisturbed, work, write_texts
from two_drivers import drive, run_by_turns

from clipmill.errors import ClipmillError
from clipmill.files import lock
from clipmill.files.folder import Folder
from clipmill.jobs import embed_shard

CHANGES = ("nothing", "rows", "another input")


def check_orphan(draw: random.Random, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Let workers of a first start go on while a second start of the job runs, and after its end.

    The second start may have a changed input, or replace the dataset. It ends well, or says that it did not and ends
    well when it is repeated after the orphan's end. Its dataset stays as it is, whatever the orphan does then.
    """
    monkeypatch.setattr(lock, "_SETTLE_S", 0.01)
    folder.mkdir(exist_ok=True)
    directory = str(folder / "out") if draw.random() < 0.5 else f"memory://{uuid.uuid4().hex}/out"
    given = write_texts(folder / "a.jsonl", 7)
    orphan, progress = begin(directory, given)
    shards = list(progress.to_do)  # the plan that it was started with is deleted
    work(orphan, shards[: draw.randrange(3)])
    change, if_exists = draw.choice(CHANGES), draw.choice(("resume", "replace"))
    if change == "rows":
        write_texts(given, 9)
    if change == "another input" and if_exists == "replace":
        given = write_texts(folder / "b.jsonl", 4)
    right = undisturbed(str(folder / "right"), given)
    ended = {"orphans": 1, "refused shards": 0, "late shards": 0}

    def driver() -> None:
        try:
            drive(directory, given, if_exists)
            ended["ended well"] = 1
        except ClipmillError:
            ended["repeated"] = 1

    def worker() -> None:
        for shard in shards:
            try:
                embed_shard(shard, orphan)
                ended["late shards"] += 1
            except ClipmillError:
                ended["refused shards"] += 1

    errors = run_by_turns(draw, monkeypatch, {"driver": driver, "worker": worker})
    what = f"{directory}, {change}, {if_exists}, {ended}"
    assert not errors, (what, errors)
    if "repeated" in ended:
        drive(directory, given, if_exists)
    assert contents(directory) == right, what
    there = Folder.of(directory).list()
    for shard in shards:
        with pytest.raises(ClipmillError, match="belongs to an earlier start"):
            embed_shard(shard, orphan)
    assert Folder.of(directory).list() == there and contents(directory) == right, what
    return ended
