"""Workers of a job whose driver died go on while the job is resumed or replaced; what they do late changes nothing."""

from __future__ import annotations

import contextlib
import random
import uuid
from types import SimpleNamespace

import pytest
from orphans import change_texts, check_orphan, run_elsewhere
from resume_jobs import begin, begun, contents, undisturbed, work, write_texts
from store_jobs import on_store
from two_drivers import drive

from clipmill.datasets import ShardWriter, finish_job, plan_shards
from clipmill.datasets.formats.shard_sink import ShardSink
from clipmill.errors import DatasetError, StoreError
from clipmill.files.folder import Folder
from clipmill.jobs import Job, embed_shard, plan_job, runs, start_job

pytest_plugins = ["resume_jobs"]
REFUSED = r"was started again, and this worker belongs to an earlier start"


def resume(directory: str, *inputs: object, **settings: object) -> Job:
    job, progress = begin(directory, *inputs, **settings)
    work(job, progress.to_do)
    finish_job(directory)
    return job


def files(directory: str) -> dict[str, bytes]:
    folder = Folder.of(directory)
    return {name: folder.read(name) for name in folder.list()}


@pytest.fixture
def late(monkeypatch):
    """Runs a function once, when the next worker has embedded its rows and is about to publish them."""

    def run(function) -> None:
        flush, waiting = ShardSink.flush, [function]

        def flush_late(sink: ShardSink) -> None:
            flush(sink)
            while waiting:
                waiting.pop()()

        monkeypatch.setattr(ShardSink, "flush", flush_late)

    return run


def test_a_shard_that_is_done_late(directory, texts, tmp_path):
    """After the job was resumed and is finished: the worker ends before it reads a row."""
    orphan, progress = begin(directory, texts)
    work(orphan, progress.to_do[:2])
    resume(directory, texts)
    there = files(directory)
    for shard in progress.to_do:
        with pytest.raises(DatasetError, match=REFUSED):
            embed_shard(shard, orphan)
    assert files(directory) == there
    assert contents(directory) == undisturbed(str(tmp_path / "other"), texts)


@pytest.mark.parametrize("more", ["nothing", "rows", "another file"])
def test_a_shard_that_is_published_late(directory, texts, tmp_path, late, more):
    """It was embedded when the job was resumed, perhaps with an input that has changed, and finished."""
    orphan, progress = begin(directory, texts)
    inputs = [texts]

    def go_on() -> None:
        if more == "rows":
            write_texts(texts, 11)
        elif more == "another file":
            inputs.append(write_texts(tmp_path / "more.jsonl", 3))
        resume(directory, *inputs)
        there.update(files(directory))

    there: dict[str, bytes] = {}
    late(go_on)
    with pytest.raises(DatasetError, match=rf"{REFUSED}|was the directory deleted meanwhile"):
        embed_shard(progress.to_do[0], orphan)
    assert files(directory) == there
    assert contents(directory) == undisturbed(str(tmp_path / "other"), *inputs)


def test_a_shard_that_is_published_while_the_resumed_job_works(directory, texts, tmp_path, late):
    """The newer worker finds nothing of it."""
    orphan, progress = begin(directory, texts)
    newer = []
    late(lambda: newer.append(begin(directory, texts)))
    with contextlib.suppress(DatasetError):
        embed_shard(progress.to_do[0], orphan)
    assert not any(name.startswith("part-") for name in Folder.of(directory).list())
    ((job, left),) = newer
    work(job, left.to_do)
    finish_job(directory)
    assert contents(directory) == undisturbed(str(tmp_path / "other"), texts)


@pytest.mark.parametrize("if_exists", ["replace", "replace_unfinished"])
def test_an_orphan_of_a_dataset_that_is_replaced(directory, texts, tmp_path, if_exists):
    """Neither the new dataset, which is written beside the old one, nor what took its place gets its shards."""
    orphan, progress = begin(directory, texts)
    work(orphan, progress.to_do[:2])
    other = write_texts(tmp_path / "other.jsonl", 5)
    shards = plan_shards([str(other)], rows_per_shard=2)
    job = plan_job(orphan.spec, directory, shards)
    start_job(job, shards, inputs=[str(other)], if_exists=if_exists)
    with pytest.raises(DatasetError, match=REFUSED):
        embed_shard(progress.to_do[2], orphan)
    work(job, shards[:1])
    with pytest.raises(DatasetError, match=REFUSED):
        embed_shard(progress.to_do[3], orphan)
    work(job, shards[1:])
    finish_job(directory)
    with pytest.raises(DatasetError, match=REFUSED):
        embed_shard(progress.to_do[4], orphan)
    assert contents(directory) == undisturbed(str(tmp_path / "undisturbed"), other)


def test_an_upload_that_ends_late_leaves_no_manifest(texts, tmp_path, monkeypatch):
    """On an object store the check and the upload are two steps; the job then says that it did not finish."""
    directory = f"memory://{uuid.uuid4().hex}/dataset"
    monkeypatch.setattr("clipmill.jobs.start.remove_temporaries", lambda folder: None)  # those of another machine
    orphan, progress = begin(directory, texts)
    publish, started = Folder.publish, []

    def publish_late(folder, temporary, name):
        if not started and name.startswith("part-"):
            started.append(begin(directory, texts))
        return publish(folder, temporary, name)

    monkeypatch.setattr(Folder, "publish", publish_late)
    with pytest.raises(DatasetError, match=REFUSED):
        embed_shard(progress.to_do[0], orphan)
    assert not Folder.of(directory).list("_manifest")
    ((job, left),) = started
    with pytest.raises(DatasetError, match="5 of 5 shards are missing"):
        finish_job(directory)
    work(job, left.to_do)
    finish_job(directory)
    assert contents(directory) == undisturbed(str(tmp_path / "other"), texts)


def test_datasets_of_earlier_versions_name_no_start(directory, texts):
    """Their workers are not refused."""
    job = begun(directory, texts, done=0)
    folder = Folder.of(directory)
    folder.write("_job.json", folder.read("_job.json").replace(b'"run"', b'"was"'))
    shards = begin(directory, texts, resume=True)[1].to_do
    folder.write("_job.json", folder.read("_job.json").replace(b'"run"', b'"was"'))
    work(job, shards)
    assert finish_job(directory).complete


def test_a_writer_asks_before_it_replaces_anything(tmp_path, texts):
    job, _ = begin(str(tmp_path / "out"), texts)
    asked = []
    with ShardWriter(job.directory, "one", job.schema, before_publishing=lambda: asked.append(1)) as writer:
        assert not asked
        writer.commit({})
    assert len(asked) == 2


@pytest.mark.parametrize("seed", range(6))
def test_an_orphan_beside_the_job_that_goes_on(directory, tmp_path, monkeypatch, seed):
    """In orders that are drawn; `make soak` draws more."""
    ended = check_orphan(random.Random(seed), tmp_path / "work", directory, monkeypatch)
    assert ended["refused shards"] + ended["late shards"] > 0


@pytest.mark.parametrize("seed", range(3))
def test_an_orphan_on_an_object_store(tmp_path, monkeypatch, seed):
    ended = on_store(check_orphan, random.Random(seed), tmp_path / "work", monkeypatch)
    assert ended["refused shards"] + ended["late shards"] > 0


@pytest.mark.parametrize("request_of", ["part-", "_failures/", "_manifest/"])
@pytest.mark.parametrize("change", ["nothing", "rows", "replaced"])
def test_a_request_that_ends_after_the_newer_job(tmp_path, monkeypatch, texts, request_of, change):
    """Whatever an orphan's last request is: the store does it when the job that went on has finished the dataset."""
    directory = f"memory://{uuid.uuid4().hex}/dataset"
    run_elsewhere(monkeypatch)
    orphan, progress = begin(directory, texts)
    late, there = [], {}

    def go_on(name: str) -> None:
        if late or not name.startswith(request_of):
            return
        late.append(name)
        if change != "nothing":
            change_texts(texts, 11)
        drive(directory, texts, "replace" if change == "replaced" else "resume")
        there.update(files(directory))

    for step in ("publish", "create"):
        usual = getattr(Folder, step)

        def wait(folder, given, other, usual=usual, step=step):
            go_on(other if step == "publish" else given)
            return usual(folder, given, other)

        monkeypatch.setattr(Folder, step, wait)
    with contextlib.suppress(DatasetError):
        embed_shard(progress.to_do[2], orphan)  # it has a row and a failure
    assert late and there and files(directory) == there
    assert contents(directory) == undisturbed(str(tmp_path / "other"), texts)


def test_a_store_that_does_not_answer_makes_no_shard_late(monkeypatch):
    folder = Folder.of("memory://does-not-answer/out")
    folder.make("_manifest")
    for name in ("_manifest/part-00000.json", "part-00000-a.parquet"):
        folder.write(name, b"x")

    def silent(job):
        raise StoreError("cannot read")

    monkeypatch.setattr(runs, "check_is_current", silent)
    job = SimpleNamespace(directory=folder.url)
    with pytest.raises(StoreError):
        runs.take_back_if_late(job, {"name": "00000", "files": [{"name": "part-00000-a.parquet"}]})
    assert sorted(folder.list()) == ["_manifest/part-00000.json", "part-00000-a.parquet"]
