"""Jobs on an object store that throttles, breaks off, answers late, loses answers and lists what is old."""

from __future__ import annotations

import json
import random

import pytest
from full_disk import full_after
from object_store import Faults, Refused
from resume_jobs import contents, undisturbed, write_texts
from store_jobs import BUCKET, check_whole, job_with_faults, put_texts
from two_drivers import drive

from clipmill.datasets import plan_shards, read_rows
from clipmill.datasets.replacing import move
from clipmill.errors import DatasetError
from clipmill.failures import RowError
from clipmill.files.file_systems import dataset_errors
from clipmill.files.folder import Folder
from clipmill.files.lock import LOCK, DirectoryLock, read_lock
from clipmill.media.fetch import FetchPolicy, fetch

pytest_plugins = ["store_jobs"]
OUT = f"s3://{BUCKET}/out"
TRANSIENT = ("throttled", "limited", "broken", "reset")


@pytest.mark.parametrize(("share", "stale_s"), [(0.02, 0.0), (0.0, 0.4)], ids=["faults", "old-listings"])
def test_a_job_ends_right(share, stale_s, tmp_path, monkeypatch):
    """It embeds, and is replaced; `make soak` does the same with more rows, and an index."""
    counts = job_with_faults(random.Random(5), tmp_path, monkeypatch, rows=4, share=share, stale_s=stale_s, index=False)
    assert counts["requests"] > 100
    if not share:
        assert counts["starts"] == 2  # an old listing is no reason to start again


@pytest.mark.parametrize("kind", TRANSIENT)
def test_a_table_that_the_store_does_not_give_fails_no_rows(store, kind):
    """Its rows are there: the shard is done again, which a failure would prevent."""
    put_texts(store, "a", 7)
    (shard,) = plan_shards([f"s3://{BUCKET}/in/a.jsonl"])
    store.faults = Faults({kind: 1})
    with pytest.raises(DatasetError, match=rf"cannot read s3://{BUCKET}/in/a\.jsonl"):
        list(read_rows(shard))
    with pytest.raises(DatasetError, match=rf"cannot (read|list) s3://{BUCKET}/in/a\.jsonl"):
        plan_shards([f"s3://{BUCKET}/in/a.jsonl"])
    store.faults = Faults()
    store._history[BUCKET].clear()
    assert [row.failure.code for row in read_rows(shard)] == ["not_found"]


@pytest.mark.parametrize("kind", TRANSIENT)
def test_media_are_fetched_again(store, kind):
    store.put(BUCKET, "a.png", b"x" * 10)
    failing = ["", kind, kind]
    draw, store.draw_fault = store.draw_fault, lambda method: failing.pop() if failing else None
    policy = FetchPolicy(buckets=f"s3://{BUCKET}")
    assert fetch(f"s3://{BUCKET}/a.png", policy).data == b"x" * 10 and not failing
    store.draw_fault = draw
    store.faults = Faults({kind: 1})
    with pytest.raises(RowError) as caught:
        fetch(f"s3://{BUCKET}/a.png", policy)
    assert caught.value.failure.transient


@pytest.mark.parametrize("times", [1, 3])
def test_answers_that_are_lost_after_the_work_was_done(store, times):
    """The lock is this job's own, the file is there once, and what was deleted or moved stays so."""
    folder = Folder.of(OUT)
    draw, left = store.draw_fault, [0]

    def lost(method):
        if method == "GET" or method == "HEAD" or left[0] <= 0:
            return draw(method)
        left[0] -= 1
        return "lost"

    store.draw_fault = lost
    left[0] = times
    with DirectoryLock(OUT) as lock:
        assert left[0] == 0 and read_lock(folder)["token"] == lock.token
        left[0] = times
        folder.write("a", b"1")
        assert store.objects(BUCKET)["out/a"] == b"1"
        left[0] = times
        move(folder, "a", "b")
        left[0] = times
        folder.delete("b")
        assert list(store.objects(BUCKET)) == [f"out/{LOCK}"]
        with pytest.raises(DatasetError, match="another job is writing"):
            DirectoryLock(OUT).__enter__()
        left[0] = times
    assert not store.objects(BUCKET)


def test_an_upload_in_parts_whose_last_answer_is_lost(store, tmp_path, monkeypatch):
    """The driver asks again, and the store knows the upload no more, since it is complete."""
    import s3fs

    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda size, **options: 5 * 2**20)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    s3fs.S3FileSystem.clear_instance_cache()
    folder, lost = Folder.of(OUT), []
    draw = store.draw_fault

    def lose_first(method):
        if method == "POST" and any(store._uploads.values()) and not lost:
            lost.append(1)
            return "lost"
        return draw(method)

    store.draw_fault = lose_first
    content = bytes(11 * 2**20)
    folder.write("large", content)
    assert lost and store.objects(BUCKET)["out/large"] == content and not store._uploads


def test_a_file_that_a_listing_shows_no_more_or_not_yet(store):
    folder = Folder.of(OUT)
    folder.write("old", b"1")
    store.faults = Faults(stale_s=1e6)
    folder.write("new", b"2")
    folder.delete("old")
    assert "new" not in folder.list()
    assert folder.read("new") == b"2" and folder.exists("new") and folder.size("new") == 1
    assert not folder.exists("old") and folder.read_many(["old", "new"]) == {"new": b"2"}
    with pytest.raises(FileNotFoundError):
        folder.read("old")


def test_a_listing_that_fails_is_not_an_empty_folder(store):
    folder = Folder.of(OUT)
    folder.write("a", b"1")
    store.faults = Faults({"broken": 1})
    with pytest.raises(DatasetError, match=rf"cannot list s3://{BUCKET}/out: .*InternalError"):
        folder.list()
    with pytest.raises(DatasetError, match="cannot look at"):
        folder.exists("a")


def test_errors_say_what_the_store_said():
    message = r"cannot write s3://b/a: device or resource busy \(reduce your rate\)"
    with pytest.raises(DatasetError, match=message), dataset_errors("write", "s3://b/a"):
        raise OSError(16, "reduce your rate")


def test_clocks_of_drivers_and_the_store_differ(store):
    """The lock of another machine is judged by the store's clock alone."""
    folder = Folder.of(OUT)
    foreign = {"token": "t", "pid": 7, "host": "h", "place": "elsewhere", "beat": 1.0}
    store.clock_s = 5 * 3600
    folder.write(LOCK, json.dumps(foreign).encode())
    with pytest.raises(DatasetError, match=r"last heartbeat \d s ago"):
        DirectoryLock(OUT).__enter__()
    store.clock_s += 130
    with DirectoryLock(OUT) as lock:
        assert read_lock(folder)["token"] == lock.token


def test_what_is_checked_after_each_error(store):
    """A manifest whose files are not there, or not whole, is noticed."""
    described = {"files": [{"name": "part-0.jsonl", "bytes": 3}]}
    store.put(BUCKET, "out/_manifest/part-0.json", json.dumps(described).encode())
    with pytest.raises(AssertionError):
        check_whole(store, "out")
    store.put(BUCKET, "out/part-0.jsonl", b"{}\n")
    check_whole(store, "out")


@pytest.mark.parametrize(
    ("status", "code", "way_out"),
    [
        (403, "QuotaExceeded", "raise the quota"),
        (507, "InsufficientStorage", "raise the quota"),
        (400, "EntityTooLarge", "fewer rows in a shard"),
        (403, "AccessDenied", "permissions"),
    ],
)
def test_a_store_that_takes_no_more(store, tmp_path, status, code, way_out):
    """The error has the store's words, the file and the way out; nothing is half-written, and the job goes on later."""
    given = write_texts(tmp_path / "a.jsonl", 5)

    def refuse(method, key):
        if method != "GET" and key.startswith("out/part-"):
            raise Refused(status, code)

    store.on_request = refuse
    with pytest.raises(DatasetError, match=rf"cannot write s3://{BUCKET}/out/part-.*{code}.*; .*{way_out}"):
        drive(OUT, given, "resume")
    check_whole(store, "out")
    assert not [key for key in store.objects(BUCKET) if key.startswith(("out/part-", "out/_manifest/"))]
    store.on_request = lambda method, key: None
    drive(OUT, given, "resume")
    assert contents(OUT) == undisturbed(str(tmp_path / "right"), given)


def test_a_full_disk_under_temporary_files(store, tmp_path):
    given = write_texts(tmp_path / "a.jsonl", 5)
    for limit in (0, 1_000):
        said = rf"cannot write .*, the temporary files of s3://{BUCKET}/out/.*; .*TMPDIR"
        with full_after(limit), pytest.raises(DatasetError, match=said):
            drive(OUT, given, "resume")
        check_whole(store, "out")
    drive(OUT, given, "resume")
    assert contents(OUT) == undisturbed(str(tmp_path / "right"), given)
