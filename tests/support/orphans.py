"""Workers of a dead driver that go on while its job is resumed or replaced, their steps in an order that is drawn."""

from __future__ import annotations

import random
import secrets
from pathlib import Path

import pytest
from resume_jobs import begin, contents, undisturbed, work, write_texts
from two_drivers import drive, run_by_turns

from clipmill.datasets import read_manifests, summarise
from clipmill.datasets.directory import SHARD_FILE
from clipmill.errors import ClipmillError
from clipmill.files import lock
from clipmill.files.folder import Folder
from clipmill.jobs import embed_shard

CHANGES = ("nothing", "rows", "another input")


def check_orphan(draw: random.Random, folder: Path, directory: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Let workers of a first start go on while a second start of the job runs, and after its end.

    The second start may have a changed input, or replace the dataset. It ends well, or says that it did not and ends
    well when it is repeated after the orphan's end. Its dataset stays as it is, whatever the orphan does then.

    Args:
        draw: Draws what happens, and in which order.
        folder: For the inputs.
        directory: The dataset.
        monkeypatch: Cuts the work into steps.
    """
    monkeypatch.setattr(lock, "_SETTLE_S", 0.01)
    run_elsewhere(monkeypatch)
    folder.mkdir(exist_ok=True)
    given = write_texts(folder / "a.jsonl", 7)
    orphan, progress = begin(directory, given)
    shards = list(progress.to_do)  # the plan that it was started with is deleted
    work(orphan, shards[: draw.randrange(3)])
    change, if_exists = draw.choice(CHANGES), draw.choice(("resume", "replace"))
    if change == "rows":
        change_texts(given, 9)
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
    _check_whole(directory, what)
    there = Folder.of(directory).list()
    for shard in shards:
        with pytest.raises(ClipmillError, match="belongs to an earlier start"):
            embed_shard(shard, orphan)
    assert Folder.of(directory).list() == there and contents(directory) == right, what
    return ended


def run_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no job find temporary files for an object store, as if each worker had a machine of its own."""
    monkeypatch.setattr("clipmill.files.folder._folder_hash", lambda folder: secrets.token_hex(6))


def change_texts(path: Path, rows: int) -> None:
    """Write other texts with the ids of `write_texts`."""
    path.write_text(write_texts(path, rows).read_text().replace(': "x', ': "yx'))


def _check_whole(directory: str, what: str) -> None:
    """Check that the dataset is complete, and that its files are those that its manifests name."""
    assert summarise(directory).complete, what
    named = {file["name"]: file["bytes"] for manifest in read_manifests(directory) for file in manifest["files"]}
    there = Folder.of(directory).list()
    assert {name: size for name, size in there.items() if SHARD_FILE.fullmatch(name)} == named, what
