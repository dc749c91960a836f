"""A job that was killed goes on: what is whole stays, what is missing is done, what changed is done again."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from pictures import encode

from clipmill.encoders import EncoderSpec
from clipmill.encoders.errors import DatasetError, WeightsError
from clipmill.encoders.storage import (
    Job,
    ShardWriter,
    begin_job,
    embed_shard,
    finish_job,
    plan_shards,
    prepare_directory,
    read_dataset,
    read_earlier,
    read_failures,
    summarise,
    write_job,
)
from clipmill.encoders.storage import planning as planning_module
from clipmill.encoders.storage.dataset import read_job, read_manifests
from clipmill.encoders.storage.files import Folder
from clipmill.encoders.storage.planning import read_plan, write_plan
from clipmill.encoders.storage.resume import Progress
from clipmill.encoders.storage.shards import Shard

SPEC = EncoderSpec("fake::dim=4", device="cpu")
ROWS = 2


@pytest.fixture(params=["local", "memory"])
def directory(request, tmp_path) -> Iterator[str]:
    """A place that is not there yet, on this machine and on a file system behind fsspec."""
    if request.param == "local":
        yield str(tmp_path / "deep" / "dataset")
        return
    url = f"memory://{uuid.uuid4().hex}/dataset"
    yield url
    fsspec.filesystem("memory").rm(url.rpartition("/")[0], recursive=True)


@pytest.fixture
def texts(tmp_path) -> Path:
    """Nine texts, of which one is empty: five shards."""
    return write_texts(tmp_path / "in.jsonl", 9)


def write_texts(path: Path, rows: int) -> Path:
    lines = [json.dumps({"id": f"{path.stem}-{n}", "text": "" if n == 4 else "x" * (n + 1)}) for n in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_photographs(folder: Path, names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.png").write_bytes(encode(np.full((3, 3, 3), ord(name), np.uint8)))
    return folder


def begin(
    directory: str, *inputs: object, resume: bool = True, spec: EncoderSpec = SPEC, rows: int = ROWS, **settings: object
) -> tuple[Job, Progress]:
    """Begin a job, or go on with it, as the command line does."""
    named = [str(given) for given in inputs]
    earlier = read_earlier(directory) if resume else None
    shards = plan_shards(named, rows_per_shard=rows, earlier=earlier.plan if earlier else ())
    job = Job.of(spec, directory, shards, **settings)
    progress = begin_job(job, shards, inputs=named, arguments={"rows_per_shard": rows}, earlier=earlier)
    return dataclasses.replace(job, weights_sha256=progress.weights), progress


def work(job: Job, shards: list[Shard]) -> None:
    for shard in shards:
        embed_shard(shard, job)


def undisturbed(directory: str, *inputs: object, **settings: object) -> list[dict]:
    job, progress = begin(directory, *inputs, resume=False, **settings)
    work(job, progress.to_do)
    finish_job(directory)
    return contents(directory)


def contents(directory: str) -> list[dict]:
    """Return the rows and failures of a dataset, by key; each row has its own line."""
    rows = read_dataset(directory).to_pylist()
    return sorted([*rows, *read_failures(directory)], key=lambda row: str(row["id"]))


def begun(directory: str, *inputs: object, done: int = 2, **settings: object) -> Job:
    """Leave a job that died after so many shards."""
    job, progress = begin(directory, *inputs, **settings)
    work(job, progress.to_do[:done])
    return job


# --- what is done, and what is not -----------------------------------------------------------------------------------


def test_with_nothing_there_a_job_simply_starts(directory, texts, tmp_path):
    assert read_earlier(directory) is None
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


DAMAGE = {
    "no manifest": lambda folder, name: folder.delete(f"_manifest/part-{name}.json"),
    "no rows": lambda folder, name: folder.delete(f"part-{name}.parquet"),
    "rows cut": lambda folder, name: folder.write(f"part-{name}.parquet", b"PAR1"),
    "no failures": lambda folder, name: folder.delete(f"_failures/part-{name}.jsonl"),
    "failures cut": lambda folder, name: folder.write(f"_failures/part-{name}.jsonl", b"{"),
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


def test_a_dataset_whose_files_changed_is_not_called_finished(directory, texts):
    job, progress = begin(directory, texts)
    work(job, progress.to_do)
    name = read_manifests(directory)[0]["files"][0]["name"]
    Folder.of(directory).write(name, b"PAR1")
    with pytest.raises(DatasetError, match=rf"{name} has 4 bytes .*--resume does its shard again"):
        finish_job(directory)


def test_a_job_killed_while_it_began_begins_again(directory, texts):
    """Between the description and the plan nothing was made."""
    prepare_directory(directory)
    write_job(directory, {}, shards=5)
    assert read_earlier(directory) is None
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


# --- input that changed ----------------------------------------------------------------------------------------------


def test_a_changed_table_is_done_again_and_another_is_not_looked_at(directory, texts, tmp_path, monkeypatch):
    other = write_texts(tmp_path / "other.jsonl", 4)
    undisturbed(directory, texts, other)
    write_texts(texts, 11)
    with monkeypatch.context() as patch:
        patch.setattr(planning_module, "cut", only_of(texts, planning_module.cut))
        job, progress = begin(directory, texts, other)
    assert (progress.done, progress.reasons) == (2, {"changed input": 5, "new input": 1})
    assert progress.rows == 4
    work(job, progress.to_do)
    finish_job(directory)
    assert contents(directory) == undisturbed(str(tmp_path / "all"), texts, other)


def only_of(path: Path, cut):
    def checked(file, kind, rows):
        assert file.path == str(path), "a table that did not change was cut again"
        return cut(file, kind, rows)

    return checked


def test_a_table_with_the_same_size_and_another_time_is_done_again(directory, texts):
    undisturbed(directory, texts)
    os.utime(texts, ns=(1, 1))
    _, progress = begin(directory, texts)
    assert progress.reasons == {"changed input": 5}


def test_a_shorter_table_leaves_nothing_of_the_longer_one(directory, texts, tmp_path):
    undisturbed(directory, texts)
    write_texts(texts, 3)
    job, progress = begin(directory, texts)
    assert (len(progress.to_do), progress.gone) == (2, 3)
    work(job, progress.to_do)
    finish_job(directory)
    assert contents(directory) == undisturbed(str(tmp_path / "all"), texts)


def test_one_new_photograph_moves_none(directory, tmp_path):
    photos = write_photographs(tmp_path / "photos", "bdfh")
    undisturbed(directory, photos)
    write_photographs(photos, "ac")
    (photos / "e.png").write_bytes((photos / "a.png").read_bytes())
    job, progress = begin(directory, photos)
    assert (progress.done, progress.reasons) == (2, {"new input": 2})
    assert [[Path(path).stem for path in shard.paths] for shard in progress.to_do] == [["a", "c"], ["e"]]
    work(job, progress.to_do)
    finish_job(directory)
    assert contents(directory) == undisturbed(str(tmp_path / "all"), photos)


def test_photographs_that_changed_or_went_cost_their_shard(directory, tmp_path):
    photos = write_photographs(tmp_path / "photos", "abcdefg")
    undisturbed(directory, photos)
    (photos / "a.png").write_bytes((photos / "b.png").read_bytes())
    for name in "dg":
        (photos / f"{name}.png").unlink()
    job, progress = begin(directory, photos)
    assert (progress.done, progress.reasons, progress.gone) == (1, {"changed input": 2}, 1)
    assert [[Path(path).stem for path in shard.paths] for shard in progress.to_do] == [["a", "b"], ["c"]]
    work(job, progress.to_do)
    finish_job(directory)
    assert contents(directory) == undisturbed(str(tmp_path / "all"), photos)


def test_what_only_went_is_deleted_too(directory, tmp_path):
    """Nothing is to be embedded, and the dataset is another one all the same."""
    photos = write_photographs(tmp_path / "photos", "abcd")
    undisturbed(directory, photos)
    for name in "cd":
        (photos / f"{name}.png").unlink()
    _, progress = begin(directory, photos)
    assert (list(progress.to_do), progress.gone, progress.is_complete) == ([], 1, False)
    finish_job(directory)
    assert [Path(row["id"]).stem for row in contents(directory)] == ["a", "b"]
    assert begin(directory, photos)[1].is_complete


def test_input_that_comes_after_the_job_was_killed_is_done(directory, texts, tmp_path):
    begun(directory, texts)
    more = write_texts(tmp_path / "more.jsonl", 3)
    job, progress = begin(directory, texts, more)
    assert (progress.done, progress.reasons) == (2, {"not finished": 3, "new input": 2})
    work(job, progress.to_do)
    finish_job(directory)
    assert contents(directory) == undisturbed(str(tmp_path / "all"), texts, more)
    assert begin(directory, texts, more)[1].is_complete


def test_a_second_kill_and_a_second_change_are_taken_too(directory, tmp_path):
    photos = write_photographs(tmp_path / "photos", "abcd")
    begun(directory, photos, done=1)
    write_photographs(photos, "e")
    begun(directory, photos, done=1)
    write_photographs(photos, "fg")
    (photos / "a.png").unlink()
    job, progress = begin(directory, photos)
    assert [[Path(path).stem for path in shard.paths] for shard in progress.shards] == [
        ["b"], ["c", "d"], ["e"], ["f", "g"],
    ]  # fmt: skip
    assert (progress.done, progress.reasons) == (1, {"changed input": 1, "not finished": 1, "new input": 1})
    work(job, progress.to_do)
    finish_job(directory)
    assert contents(directory) == undisturbed(str(tmp_path / "all"), photos)
    assert len(read_job(directory)["resumed"]) == 2


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
    assert folder.list()["_plan.jsonl.gz"] < 10 * len(paths)


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"{"), gzip.compress(b'{"a": 1}')])
def test_a_damaged_plan_is_said(directory, texts, content):
    begun(directory, texts)
    Folder.of(directory).write("_plan.jsonl.gz", content)
    if content == b"":
        assert read_plan(Folder.of(directory)) == []
        return
    with pytest.raises(DatasetError, match=r"_plan.jsonl.gz is damaged .*--overwrite"):
        read_earlier(directory)


def test_a_dataset_without_a_plan_is_not_resumed(directory, texts):
    """As `WriteEmbeddings` makes them."""
    undisturbed(directory, texts)
    Folder.of(directory).delete("_plan.jsonl.gz")
    with pytest.raises(DatasetError, match="without a plan of its shards"):
        read_earlier(directory)


@pytest.mark.parametrize("job", [b"{", b"[]", b'{"format": "another"}'])
def test_what_is_no_dataset_of_ours_is_not_resumed(directory, texts, job):
    begun(directory, texts)
    Folder.of(directory).write("_job.json", job)
    with pytest.raises(DatasetError, match=r"_job\.json"):
        read_earlier(directory)


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
    with pytest.raises(DatasetError, match=r"is not empty .*--resume.*--overwrite"):
        begin(directory, texts, resume=False)


# --- arguments that changed ------------------------------------------------------------------------------------------

CHANGES = {
    "model": ({"spec": EncoderSpec("fake::dim=5", device="cpu")}, "model was .*dim=4.* and is .*dim=5"),
    "normalize": ({"spec": dataclasses.replace(SPEC, normalize=True)}, "normalize was false and is true"),
    "precision": ({"spec": dataclasses.replace(SPEC, precision="bf16")}, 'precision was "auto" and is "bf16"'),
    "preprocess": ({"spec": dataclasses.replace(SPEC, preprocess=False)}, "preprocess was true and is false"),
    "local files": ({"spec": dataclasses.replace(SPEC, allow_local_files=True)}, "allow_local_files was false"),
    "rows_per_shard": ({"rows": 3}, "rows_per_shard was 2 and is 3"),
    "dtype": ({"dtype": "float16"}, "written column 'embedding' was .*float.* and is .*halffloat"),
    "tags": ({"tags": ["lang"]}, r"reader's tags was \[\] and is \[\"lang\"\]"),
    "access_paths": ({"access_paths": "@r,c"}, 'access_paths was "@r" and is "@r,c"'),
    "content": ({"keep_content": True}, "written column 'blob' was not there"),
    "reader": ({"reader": {"text": "body"}}, 'reader\'s text was not there and is "body"'),
    "format": ({"format": "jsonl"}, 'format was "parquet" and is "jsonl"'),
    "columns": ({"columns": {"text": "text"}}, "columns was not there and is"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_arguments_are_refused_with_what_differs(directory, texts, change):
    begun(directory, texts)
    folder = Folder.of(directory)
    before = folder.list()
    settings, message = CHANGES[change]
    with pytest.raises(DatasetError, match=f"was begun otherwise: .*{message}"):
        begin(directory, texts, **settings)
    assert folder.list() == before


def test_another_preparation_under_the_same_arguments_is_refused(directory, texts):
    """As another version of clipmill might bring it."""
    begun(directory, texts)
    folder = Folder.of(directory)
    description = read_job(directory)
    description["provenance"]["embedding"]["text"]["context_length"] = 5
    folder.write("_job.json", json.dumps(description).encode())
    with pytest.raises(DatasetError, match=r"makes the column 'embedding' differs in text\.context_length"):
        begin(directory, texts)


def test_an_option_that_a_later_version_brought_had_its_default(directory, texts):
    begun(directory, texts)
    description = read_job(directory)
    del description["spec"]["max_audio_seconds"]
    Folder.of(directory).write("_job.json", json.dumps(description).encode())
    assert begin(directory, texts)[1].done == 2
    description["spec"]["max_audio_seconds"] = 5.0
    Folder.of(directory).write("_job.json", json.dumps(description).encode())
    with pytest.raises(DatasetError, match=r"max_audio_seconds was 5\.0 and is 60\.0"):
        begin(directory, texts)


def test_an_input_that_is_not_named_any_more_is_refused(directory, texts, tmp_path):
    """A slip of the pen must not delete a night's work."""
    other = write_texts(tmp_path / "other.jsonl", 4)
    begun(directory, texts, other)
    with pytest.raises(DatasetError, match=r"the input .*other.jsonl is not named any more"):
        begin(directory, texts)


def test_the_same_input_may_be_named_otherwise(directory, texts, monkeypatch):
    begun(directory, texts)
    monkeypatch.chdir(texts.parent)
    _, progress = begin(directory, texts.name)
    assert progress.done == 2


def test_how_it_is_run_may_differ_and_is_recorded(directory, texts):
    begun(directory, texts)
    spec = dataclasses.replace(SPEC, max_batch_rows=1, decode="exact", cache_dir="/tmp/elsewhere")
    job, progress = begin(directory, texts, spec=spec)
    assert progress.done == 2
    work(job, progress.to_do)
    finish_job(directory)
    (again,) = read_job(directory)["resumed"]
    assert again["spec"] == {"max_batch_rows": 1, "decode": "exact", "cache_dir": "/tmp/elsewhere"}


def test_other_weights_under_the_same_name_are_refused(directory, texts):
    job, progress = begin(directory, texts)
    manifest = embed_shard(progress.to_do[0], job)
    manifest["resolved"]["weights_sha256"] = "0123"
    Folder.of(directory).write(f"_manifest/part-{manifest['name']}.json", json.dumps(manifest).encode())
    job, progress = begin(directory, texts)
    assert job.weights_sha256 == "0123"
    embed_shard(progress.to_do[0], job)  # the fake has none, and nothing is known against it
    other = EncoderSpec("custom:resume_weights:make", device="cpu")
    with pytest.raises(WeightsError, match=r"SHA-256 0123, .*have 4567 now"):
        embed_shard(progress.to_do[1], dataclasses.replace(job, spec=other))


@pytest.fixture(autouse=True)
def own_encoder(tmp_path, monkeypatch):
    """An encoder whose weights have another digest."""
    (tmp_path / "resume_weights.py").write_text(
        "from clipmill.encoders.testing import FakeModel\n"
        "def make():\n"
        "    model = FakeModel({'dim': '4'})\n"
        "    model.resolved['weights_sha256'] = '4567'\n"
        "    return model\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


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


def read_schema():
    import pyarrow as pa

    return pa.schema([("id", pa.string())])
