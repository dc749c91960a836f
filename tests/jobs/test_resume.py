"""A job that was killed goes on: what is whole stays, what is missing is done."""

from __future__ import annotations

import gzip
import tempfile

import pytest
from resume_jobs import begin, begun, contents, undisturbed, work

from clipmill.datasets import ShardWriter, finish_job, prepare_directory, summarise, write_job
from clipmill.datasets.dataset import read_job, read_manifests
from clipmill.datasets.inputs.planning import read_plan, write_plan
from clipmill.datasets.inputs.shards import Shard
from clipmill.datasets.summary import DatasetSummary
from clipmill.errors import DatasetError
from clipmill.files.folder import Folder
from clipmill.jobs import read_previous_run
from clipmill.messages import Setting

pytest_plugins = ["resume_jobs"]

# --- what is done, and what is not -----------------------------------------------------------------------------------


def test_with_nothing_there_a_job_simply_starts(directory, texts, tmp_path):
    assert read_previous_run(directory) is None
    job, progress = begin(directory, texts)
    assert (len(progress.to_do), progress.done, dict(progress.reasons)) == (5, 0, {})
    work(job, progress.to_do)
    assert finish_job(directory).complete
    assert contents(directory) == undisturbed(str(tmp_path / "other"), texts)


def test_only_what_is_missing_is_done(directory, texts, tmp_path):
    begun(directory, texts, done=2)
    before = Folder.of(directory).list()
    parts = {name: Folder.of(directory).read(name) for name in before if name.startswith(("part-", "_manifest"))}
    job, progress = begin(directory, texts)
    assert (progress.done, len(progress.to_do), progress.reasons, progress.rows) == (2, 3, {"not finished": 3}, 4)
    work(job, progress.to_do)
    finish_job(directory)
    assert {name: Folder.of(directory).read(name) for name in parts} == parts
    assert contents(directory) == undisturbed(str(tmp_path / "other"), texts)
    assert len(read_job(directory)["resumed"]) == 1


def test_a_complete_job_is_left_as_it_is(directory, texts):
    undisturbed(directory, texts)
    folder = Folder.of(directory)
    before = {name: folder.read(name) for name in folder.list()}
    _, progress = begin(directory, texts)
    assert progress.is_complete and not progress.to_do
    assert {name: folder.read(name) for name in folder.list()} == before


def named(folder: Folder, beginning: str) -> str:
    """Return the name of a shard's file; on an object store it has the start of the job, too."""
    (name,) = (name for name in folder.list() if name.startswith(beginning))
    return name


DAMAGE = {
    "no manifest": lambda folder, name: folder.delete(f"_manifest/part-{name}.json"),
    "no rows": lambda folder, name: folder.delete(named(folder, f"part-{name}")),
    "rows cut": lambda folder, name: folder.write(named(folder, f"part-{name}"), b"PAR1"),
    "no failures": lambda folder, name: folder.delete(named(folder, f"_failures/part-{name}")),
    "failures cut": lambda folder, name: folder.write(named(folder, f"_failures/part-{name}"), b"{"),
    "manifest cut": lambda folder, name: folder.write(f"_manifest/part-{name}.json", b'{"shard":'),
    "manifest empty": lambda folder, name: folder.write(f"_manifest/part-{name}.json", b""),
    "manifest a list": lambda folder, name: folder.write(f"_manifest/part-{name}.json", b"[]"),
    "manifest without files": lambda folder, name: folder.write(f"_manifest/part-{name}.json", b"{}"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_shard_that_is_not_whole_is_done_again(directory, texts, tmp_path, damage):
    """The third has the failure. Nothing of the directory is believed but a manifest whose files are as it says."""
    expected = undisturbed(directory, texts)
    folder = Folder.of(directory)
    third = read_plan(folder)[2].name
    DAMAGE[damage](folder, third)
    job, progress = begin(directory, texts)
    assert [shard.name for shard in progress.to_do] == [third]
    assert sum(progress.reasons.values()) == 1
    assert not [name for name in folder.list() if third in name] and "_SUCCESS" not in folder.list()
    with pytest.raises(DatasetError, match="1 of 5 shards are missing"):
        finish_job(directory)
    work(job, progress.to_do)
    finish_job(directory)
    assert contents(directory) == expected


def test_a_manifest_that_only_a_listing_has_is_done_again(directory, texts, monkeypatch):
    """Listings of some stores are old."""
    undisturbed(directory, texts)
    folder = Folder.of(directory)
    third = read_plan(folder)[2].name
    read_many = Folder.read_many

    def gone(self: Folder, names: list[str]) -> dict[str, bytes]:
        self.delete(f"_manifest/part-{third}.json")
        return read_many(self, names)

    monkeypatch.setattr(Folder, "read_many", gone)
    _, progress = begin(directory, texts)
    assert [shard.name for shard in progress.to_do] == [third]


def test_a_dataset_whose_files_changed_is_not_called_finished(directory, texts):
    job, progress = begin(directory, texts)
    work(job, progress.to_do)
    name = read_manifests(directory)[0]["files"][0]["name"]
    Folder.of(directory).write(name, b"PAR1")
    with pytest.raises(DatasetError, match=rf"{name} has 4 bytes") as refused:
        finish_job(directory)
    assert Setting("resume", True) in refused.value.text.parts


def test_a_job_killed_while_it_began_begins_again(directory, texts):
    """Between the description and the plan nothing was made."""
    prepare_directory(directory)
    write_job(directory, {}, shards=5)
    assert read_previous_run(directory) is None
    _, progress = begin(directory, texts)
    assert len(progress.to_do) == 5


def test_temporary_files_of_the_dead_are_cleared(directory, texts, tmp_path, monkeypatch):
    """Those in the directory, and of object stores those of this machine that are of this very dataset."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder, another = Folder.of(directory), Folder.of(directory + "-2")
    begun(directory, texts)
    another.make()
    orphans = [folder.temporary("part-00003.parquet"), folder.temporary("_manifest/part-00003.json")]
    strange = [another.temporary("part-00003.parquet"), tmp_path / ".notes.tmp"]
    for path in (*orphans, *strange):
        path.write_bytes(b"half")
    folder.write("_staging/run/part-1.parquet", b"half") if directory.startswith("memory") else None
    begin(directory, texts)
    assert [path.exists() for path in orphans] == [False, False]
    assert [path.exists() for path in strange] == [True, True]
    assert not [name for name in folder.list() if name.startswith(("_staging", "."))]


# --- the plan --------------------------------------------------------------------------------------------------------


def test_a_plan_comes_back_as_it_was(directory):
    paths = ("/a/photo\udcff.jpg", "/a/line\u2028break\n.jpg", "/a/ü.jpg")
    shards = [
        Shard("00000-a", "files", paths, fingerprint="f", nbytes=None),
        Shard("00001-b", "jsonl", ("gs://b/x.jsonl",), 4, 8, 100, 5, "g", 7),
    ]
    folder = Folder.of(directory)
    folder.make()
    assert read_plan(folder) is None
    write_plan(folder, shards)
    assert read_plan(folder) == shards


def test_a_plan_is_small(directory):
    """A name of some 60 characters costs a few bytes."""
    paths = tuple(f"/data/photographs/2024/spring/{n // 1000:05d}/{n:09d}.jpg" for n in range(20_000))
    folder = Folder.of(directory)
    folder.make()
    write_plan(folder, [Shard("00000-a", "files", paths)])
    assert sum(folder.list().values()) < 10 * len(paths)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": "a"}', b'{"id": "../a", "starts": [0]}'])
def test_a_damaged_index_of_the_plan_is_said(directory, texts, content):
    begun(directory, texts)
    Folder.of(directory).write("_plan.json", content)
    with pytest.raises(DatasetError, match=r"_plan.json is damaged") as refused:
        read_previous_run(directory)
    assert Setting("overwrite", True) in refused.value.text.parts


@pytest.mark.parametrize(
    "content", [b"", b"no gzip", *(gzip.compress(one, mtime=0) for one in (b"", b"{", b'{"a": 1}'))]
)
def test_a_damaged_part_of_the_plan_is_said(directory, texts, content):
    begun(directory, texts)
    folder = Folder.of(directory)
    (part,) = folder.list("_plan")
    folder.write(part, content)
    with pytest.raises(DatasetError, match=rf"{part} is damaged") as refused:
        begin(directory, texts)
    assert Setting("overwrite", True) in refused.value.text.parts


def test_a_job_killed_while_it_wrote_its_plan_begins_again(directory, texts):
    begun(directory, texts, done=0)
    folder = Folder.of(directory)
    folder.delete("_plan.json")
    assert read_previous_run(directory) is None
    _, progress = begin(directory, texts)
    assert len(progress.to_do) == 5


def test_a_dataset_without_a_plan_is_not_resumed(directory, texts):
    """As `WriteEmbeddings` makes them."""
    undisturbed(directory, texts)
    Folder.of(directory).delete("_plan.json")
    with pytest.raises(DatasetError, match="without a plan of its shards"):
        read_previous_run(directory)


@pytest.mark.parametrize("job", [b"{", b"[]", b'{"format": "another"}'])
def test_what_is_no_dataset_of_ours_is_not_resumed(directory, texts, job):
    begun(directory, texts)
    Folder.of(directory).write("_job.json", job)
    with pytest.raises(DatasetError, match=r"_job\.json"):
        read_previous_run(directory)


def test_strangers_files_stay_and_do_not_matter(directory, texts):
    begun(directory, texts)
    Folder.of(directory).write("notes.txt", b"mine")
    job, progress = begin(directory, texts)
    work(job, progress.to_do)
    finish_job(directory)
    assert Folder.of(directory).read("notes.txt") == b"mine"


def test_a_directory_of_strangers_is_refused_as_ever(directory, texts):
    Folder.of(directory).make()
    Folder.of(directory).write("notes.txt", b"mine")
    with pytest.raises(DatasetError, match="is not empty"):
        begin(directory, texts)


def test_without_resume_a_dataset_is_refused_with_the_way_out(directory, texts):
    begun(directory, texts)
    with pytest.raises(DatasetError, match="is not empty") as refused:
        begin(directory, texts, resume=False)
    assert Setting("resume", True) in refused.value.text.parts
    assert Setting("overwrite", True) in refused.value.text.parts


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_the_rate_leaves_out_the_time_between_two_starts(directory):
    prepare_directory(directory)
    write_job(directory, {}, shards=3)
    for number, (run, first, last) in enumerate([("a", 100.0, 101.0), ("a", 100.5, 102.0), ("b", 900.0, 903.0)]):
        with ShardWriter(directory, f"0000{number}-x", read_schema()) as writer:
            writer.commit({"input_rows": 10, "run": run, "first_row_at": first, "last_row_at": last})
    summary = finish_job(directory)
    assert (summary.active_seconds, summary.rows_per_second) == (5.0, 6.0)
    assert (summary.first_row_at, summary.last_row_at) == (100.0, 903.0)
    assert summarise(directory) == summary


@pytest.mark.parametrize(("shards", "seconds", "rate"), [(1, 60.0, None), (2, 0.9, None), (2, 1.0, 30.0)])
def test_one_shard_or_less_than_a_second_has_no_rate(shards, seconds, rate):
    """Of one shard only its end is measured: 29 rows came out within a millisecond, after 0.9 s of work."""
    assert DatasetSummary(input_rows=30, shards=shards, active_seconds=seconds).rows_per_second == rate


def read_schema():
    import pyarrow as pa

    return pa.schema([("id", pa.string())])
