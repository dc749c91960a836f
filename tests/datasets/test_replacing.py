"""A dataset takes the place of another when it is whole, wherever the process is killed meanwhile."""

from __future__ import annotations

import json
import os
import uuid

import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from clipmill.datasets import ShardWriter, finish_job, prepare_directory, read_dataset, summarise, write_job
from clipmill.datasets.dataset import count_finished
from clipmill.datasets.if_exists import if_exists_of, look_at_directory
from clipmill.datasets.replacing import finish_replacing, folder_written
from clipmill.errors import DatasetError, SpecError
from clipmill.files.folder import Folder
from clipmill.files.lock import DirectoryLock
from clipmill.messages import Setting

SCHEMA = pa.schema([("id", pa.string())])


@pytest.fixture(params=["local", "memory"])
def directory(request, tmp_path):
    """Names with brackets are patterns for some functions of fsspec."""
    name = "data [set]*"
    return str(tmp_path / name) if request.param == "local" else f"memory://{uuid.uuid4().hex}/{name}"


def write(directory: str, ids: str, shards: str = "ab") -> None:
    """Write a shard for each letter of `shards`, the first with a failure."""
    for number, name in enumerate(shards):
        with ShardWriter(directory, f"{number:05d}-{name}", SCHEMA) as writer:
            writer.write(pa.record_batch({"id": [f"{one}{number}" for one in ids]}))
            if not number:
                writer.fail({"row": name})
            writer.commit({})


def old_dataset(directory: str, *, finished: bool = True) -> None:
    """Write a dataset of two shards, `old`; the files of one have the names of the new dataset's."""
    prepare_directory(directory)
    write_job(directory, {"made": "old"}, shards=2)
    write(directory, "o", "az")
    if finished:
        finish_job(directory)


def new_dataset(directory: str) -> str:
    """Write the dataset of two shards that replaces it, all but its end."""
    below = prepare_directory(directory, if_exists="replace")
    write_job(below, {"made": "new"}, shards=2)
    Folder.of(below).write(".part-x.tmp.123-ab.tmp", b"what a killed worker left")
    write(below, "n")
    return below


def shown(directory: str) -> tuple[list[str], str, bool]:
    made = json.loads(Folder.of(directory).read("_job.json"))["made"]
    return sorted(read_dataset(directory)["id"].to_pylist()), made, summarise(directory).complete


OLD, NEW = (["o0", "o1"], "old", True), (["n0", "n1"], "new", True)


class Killed(BaseException):
    """The process ends here."""


def kill_at(monkeypatch, step: int, *, after: bool) -> list[str]:
    """Kill the process before or after the n-th change of a file system; return the list of changes as they begin."""
    begun: list[str] = []

    def patched(owner, name):
        original = getattr(owner, name)

        def change(*args, **kwargs):
            number = len(begun)
            begun.append(name)
            if number == step and not after:
                raise Killed(name)
            result = original(*args, **kwargs)
            if number == step:
                raise Killed(name)
            return result

        monkeypatch.setattr(owner, name, change)

    for owner, name in (
        *((Folder, "delete"), (Folder, "write"), (os, "replace")),
        *((MemoryFileSystem, "cp_file"), (MemoryFileSystem, "rm_file")),
    ):
        patched(owner, name)
    return begun


def changes_of_the_end(directory: str) -> int:
    """Return how many changes the end of a job that replaces a dataset makes."""
    with pytest.MonkeyPatch.context() as patch:
        old_dataset(directory)
        new_dataset(directory)
        begun = kill_at(patch, 10**9, after=False)
        finish_job(directory)
    assert shown(directory) == NEW
    assert not [name for name in Folder.of(directory).list() if name.startswith("_next")]
    return len(begun)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_wherever_it_is_killed_the_next_start_ends_with_one_whole_dataset(directory, after):
    """Before the new dataset is whole, the old one is there; after that, the next start lets it take its place."""
    steps = changes_of_the_end(f"{directory}-counted")
    assert steps > 15
    seen = set()
    for step in range(steps):
        place = f"{directory}-{step}"
        old_dataset(place)
        new_dataset(place)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, step, after=after)
            finish_job(place)
        was_marked = "_next/_SUCCESS" in Folder.of(place).list() or shown(place) == NEW
        with pytest.raises(DatasetError, match="is not empty"):  # a next start that does nothing else
            prepare_directory(place)
        assert shown(place) == (NEW if was_marked else OLD), step
        finish_job(place)  # the end of a job may be repeated, in any case
        assert shown(place) == NEW
        assert set(Folder.of(place).list()) == set(Folder.of(f"{directory}-counted").list()), step
        seen.add(was_marked)
    assert True in seen and (after or False in seen)


def test_a_kill_during_the_continuation_is_continued_too(directory):
    old_dataset(directory)
    new_dataset(directory)
    for step in range(3, 30):
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, step % 7, after=step % 2 == 0)
            try:
                finish_job(directory)
            except Killed:
                continue
            break
    finish_job(directory)
    assert shown(directory) == NEW


def test_until_the_new_dataset_is_whole_the_old_one_is_read(directory):
    old_dataset(directory)
    below = new_dataset(directory)
    assert folder_written(directory).url == below and count_finished(directory) == 2
    assert shown(directory) == OLD
    Folder.of(below).delete("_manifest/part-00001-b.json")
    with pytest.raises(DatasetError, match="1 of 2 shards are missing"):
        finish_job(directory)
    assert shown(directory) == OLD
    write(below, "n")
    finish_job(below)  # the folder that was written is as good a name
    assert shown(directory) == NEW and folder_written(directory) == Folder.of(directory)


def test_a_job_that_failed_leaves_what_the_next_one_clears(directory):
    old_dataset(directory)
    new_dataset(directory)
    found = look_at_directory(directory, if_exists="replace")
    assert found.leftovers and all(name.startswith("_next/") for name in found.leftovers)
    assert "_SUCCESS" in found.replaced and not set(found.leftovers) & set(found.replaced)
    below = prepare_directory(directory, if_exists="replace")
    assert Folder.of(below).list() == {} and shown(directory) == OLD


def test_unfinished_is_what_has_no_mark_of_its_end(directory):
    old_dataset(directory, finished=False)
    with pytest.raises(DatasetError) as refused:
        prepare_directory(directory)
    assert Setting("if_exists", "'replace_unfinished'") in refused.value.text.parts
    below = prepare_directory(directory, if_exists="replace_unfinished")
    write_job(below, {"made": "new"}, shards=2)
    write(below, "n")
    finish_job(directory)
    assert shown(directory) == NEW
    with pytest.raises(DatasetError) as refused:
        prepare_directory(directory, if_exists="replace_unfinished")
    assert Setting("if_exists", "'replace_unfinished'") not in refused.value.text.parts
    assert shown(directory) == NEW


def test_nothing_else_is_deleted(directory):
    """What somebody has put there while the job ran stays where it is."""
    old_dataset(directory)
    new_dataset(directory)
    Folder.of(directory).write("notes.txt", b"mine")
    finish_job(directory)
    assert Folder.of(directory).read("notes.txt") == b"mine" and shown(directory) == NEW


def test_a_foreign_file_in_the_new_dataset_is_not_deleted(directory):
    old_dataset(directory)
    Folder.of(new_dataset(directory)).write("notes.txt", b"mine")
    with pytest.raises(DatasetError, match=r"not part of the dataset \(_next/notes.txt\)"):
        prepare_directory(directory, if_exists="replace")
    assert Folder.of(directory).read("_next/notes.txt") == b"mine"


def test_a_link_in_its_place_is_never_followed(tmp_path):
    """Files elsewhere would be moved, or deleted."""
    directory, elsewhere = str(tmp_path / "dataset"), tmp_path / "elsewhere"
    old_dataset(directory)
    old_dataset(str(elsewhere))
    (tmp_path / "dataset" / "_next").symlink_to(elsewhere)
    assert not finish_replacing(Folder.of(directory)) and folder_written(directory) == Folder.of(directory)
    with pytest.raises(DatasetError):
        prepare_directory(directory, if_exists="replace")
    assert shown(str(elsewhere)) == OLD and shown(directory) == OLD


def test_a_job_that_has_lost_its_lock_replaces_nothing(tmp_path):
    directory = str(tmp_path / "dataset")
    old_dataset(directory)
    new_dataset(directory)
    with DirectoryLock(directory):
        Folder.of(directory).delete("_lock.json")
        with pytest.raises(DatasetError, match="lock"):
            finish_job(directory)
    assert shown(directory) == OLD


def test_another_process_never_continues_what_a_running_one_replaces(tmp_path):
    """Its lock says that it runs."""
    directory = str(tmp_path / "dataset")
    old_dataset(directory)
    Folder.of(new_dataset(directory)).write("_SUCCESS", b"")
    lock = {"token": "t", "pid": 1, "host": "elsewhere", "beat": 4e9}
    Folder.of(directory).write("_lock.json", json.dumps(lock).encode())
    with pytest.raises(DatasetError, match="another job is writing"):
        prepare_directory(directory, if_exists="replace")
    assert "_next/_SUCCESS" in Folder.of(directory).list()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "fail"),
        ({"overwrite": True}, "replace"),
        ({"resume": True}, "resume"),
        ({"if_exists": "replace", "overwrite": True}, "replace"),
        ({"if_exists": "resume", "resume": True}, "resume"),
        ({"if_exists": "replace_unfinished"}, "replace_unfinished"),
    ],
    ids=str,
)
def test_the_flags_are_short_for_the_option(options, expected):
    assert if_exists_of(**options) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"overwrite": True, "resume": True},
        {"if_exists": "fail", "overwrite": True},
        {"if_exists": "replace_unfinished", "resume": True},
        {"if_exists": "append"},
    ],
    ids=str,
)
def test_contradictions_are_refused(options):
    with pytest.raises(SpecError):
        if_exists_of(**options)


def test_an_output_that_is_no_directory_is_refused_by_what_it_is(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place, words in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "link", "is a link to nothing"),
        ("/dev/null", "is a file"),
    ):
        with pytest.raises(DatasetError, match=words):
            prepare_directory(str(place), overwrite=True)
