"""A full disk at every step of a job and an index: an error that names the file, nothing half-written, and a way on."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from full_disk import full_after
from resume_jobs import contents, undisturbed, write_texts
from two_drivers import drive

from clipmill.errors import ClipmillError, DatasetError
from clipmill.files import lock
from clipmill.files.folder import Folder
from clipmill.indexes import build_index, open_index

LIMITS = (0, 100, 400, 1_000, 2_000, 3_000)
"""Bytes that a file may have: one after the other, marks, the lock, plans, manifests, descriptions and rows fit."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(lock, "_SETTLE_S", 0.01)


def check_nothing_half_written(directory: Path) -> None:
    for path in directory.rglob("part-*.parquet"):
        pq.read_table(path)
    assert not [path for path in directory.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("limit", LIMITS)
def test_a_job_on_a_full_disk_is_resumed(tmp_path, limit):
    given, output = write_texts(tmp_path / "a.jsonl", 5), tmp_path / "out"
    with full_after(limit), pytest.raises(ClipmillError, match=r"cannot write .*; raise the limit"):
        drive(str(output), given, "resume")
    check_nothing_half_written(output)
    drive(str(output), given, "resume")
    assert contents(str(output)) == undisturbed(str(tmp_path / "right"), given)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_dataset_stays_when_the_disk_is_full_while_it_is_replaced(tmp_path, limit):
    given, output = write_texts(tmp_path / "a.jsonl", 5), tmp_path / "out"
    before = undisturbed(str(output), given)
    other = write_texts(tmp_path / "b.jsonl", 6)
    with full_after(limit), pytest.raises(ClipmillError, match=r"cannot write"):
        drive(str(output), other, "replace")
    check_nothing_half_written(output)
    assert contents(str(output)) == before
    drive(str(output), other, "replace")
    assert contents(str(output)) == undisturbed(str(tmp_path / "right"), other)


@pytest.mark.parametrize("limit", [0, 1_000, 4_000])
def test_an_index_stays_when_the_disk_is_full_while_it_is_built_again(tmp_path, limit):
    given, dataset, index = write_texts(tmp_path / "a.jsonl", 9), tmp_path / "dataset", str(tmp_path / "index")
    undisturbed(str(dataset), given)
    vectors = [row["embedding"] for row in contents(str(dataset)) if row.get("embedding")]
    build_index([str(dataset)], index)
    try:
        with full_after(limit):
            build_index([str(dataset)], index, overwrite=True)
    except ClipmillError as err:
        assert "cannot write" in str(err) and "raise the limit" in str(err)
    assert not [path for path in Path(index).rglob(".*") if path.is_file()]
    for _ in range(2):
        assert abs(float(open_index(index).search([vectors[1]], 1).scores[0][0]) - 1) < 1e-5
        build_index([str(dataset)], index, overwrite=True)


@pytest.mark.parametrize("seed", range(8))
def test_a_disk_that_is_full_from_a_drawn_file_on(tmp_path, monkeypatch, seed):
    """Also while the new dataset takes the place of the old one: what is there then is continued."""
    draw = random.Random(seed)
    given, output = write_texts(tmp_path / "a.jsonl", 5), str(tmp_path / "out")
    undisturbed(output, given)
    other = write_texts(tmp_path / "b.jsonl", 6)
    left = draw.randrange(25)
    publish = Folder.publish

    def full(folder: Folder, temporary: Path, name: str) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise DatasetError(f"cannot write {name}") from OSError(errno.ENOSPC, "full")
        return publish(folder, temporary, name)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "publish", full)
        try:
            drive(output, other, "replace")
        except DatasetError as err:
            assert "cannot write" in str(err)
    drive(output, other, "replace")
    assert contents(output) == undisturbed(str(tmp_path / "right"), other)
