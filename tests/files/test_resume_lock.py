"""Two jobs never write one directory: the second is refused, and the dead are in nobody's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from clipmill.datasets import ShardWriter, finish_job, prepare_directory, write_job
from clipmill.datasets import dataset as dataset_module
from clipmill.datasets.directory import ATTEMPTS, SUCCESS
from clipmill.errors import DatasetError
from clipmill.files import lock as lock_module
from clipmill.files.file_systems import Folder
from clipmill.files.lock import LOCK, DirectoryLock, read_lock, refuse_if_held, release_all
from clipmill.files.processes import may_be_alive, meaning_of_exit, started, this_process


@pytest.fixture(params=["local", "memory"])
def directory(request, tmp_path) -> Iterator[str]:
    """A place that is not there yet, on this machine and on a file system behind fsspec."""
    if request.param == "local":
        yield str(tmp_path / "deep" / "dataset")
        return
    url = f"memory://{uuid.uuid4().hex}/dataset"
    yield url
    fsspec.filesystem("memory").rm(url.rpartition("/")[0], recursive=True)


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    """Waiting for a slow store is not what is tested."""
    monkeypatch.setattr(lock_module, "_SETTLE_S", 0.01)


def leave(directory: str, **says: object) -> dict:
    """Leave a lock as another process would."""
    said = {"token": "another", **this_process(), "since": "then", "beat": time.time(), **says}
    folder = Folder.of(directory)
    folder.make()
    folder.write(LOCK, json.dumps(said).encode())
    return said


def dead_process() -> dict:
    """Return what a process of this machine says of itself, which has ended."""
    program = "import json; from clipmill.files.processes import this_process as t; print(json.dumps(t()))"
    return json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)


ELSEWHERE = {"host": "elsewhere", "place": "elsewhere 1 2", "pid": 7}


def test_a_lock_is_held_while_its_block_runs(directory):
    with DirectoryLock(directory) as lock:
        standing = read_lock(Folder.of(directory))
        assert standing is not None
        assert (standing["token"], standing["pid"]) == (lock.token, os.getpid())
        lock.check()
        refuse_if_held(Folder.of(directory))  # this process may go on
        with pytest.raises(DatasetError, match=rf"another job writes .*process {os.getpid()} on "):
            DirectoryLock(directory).__enter__()
        assert read_lock(Folder.of(directory))["token"] == lock.token
    assert list(Folder.of(directory).list()) == []
    with DirectoryLock(directory):
        pass


def test_a_lock_of_the_dead_is_taken_over_at_once(directory):
    leave(directory, **dead_process())
    with DirectoryLock(directory) as lock:
        assert read_lock(Folder.of(directory))["token"] == lock.token


def test_a_number_that_was_given_again_is_another_process(directory):
    """The number of this process, which began at another time then."""
    process = this_process()
    leave(directory, **{**process, "started": process["started"] - 1})
    with DirectoryLock(directory):
        pass


def test_a_lock_of_another_machine_counts_while_it_beats(directory):
    leave(directory, **ELSEWHERE, beat=time.time() - 100)
    message = rf"process 7 on elsewhere.*last sign of life 10\d s ago.*try again 120 seconds after .*delete .*{LOCK}"
    with pytest.raises(DatasetError, match=message):
        DirectoryLock(directory).__enter__()
    with pytest.raises(DatasetError, match="process 7 on elsewhere"):
        prepare_directory(directory, overwrite=True)
    leave(directory, **ELSEWHERE, beat=time.time() - 121)
    with DirectoryLock(directory):
        pass


def test_a_lock_that_appears_at_the_last_moment_counts(directory, monkeypatch):
    """Between the look and the making of one's own."""

    def looked(folder):
        leave(directory, **ELSEWHERE)
        return None

    monkeypatch.setattr(lock_module, "_settled", looked)
    with pytest.raises(DatasetError, match=r"process 7 on elsewhere.*wait for its end, or choose another directory"):
        DirectoryLock(directory).__enter__()
    assert read_lock(Folder.of(directory))["pid"] == 7


def test_a_lock_needs_four_fields_and_may_have_more(directory):
    folder = Folder.of(directory)
    folder.make()
    said = {"token": "x", "pid": 7, "host": "elsewhere", "beat": time.time()}
    for more in ({}, {"place": "elsewhere 1 2"}):
        folder.write(LOCK, json.dumps({**said, **more}).encode())
        assert read_lock(folder) == {**said, **more}
        with pytest.raises(DatasetError, match="process 7 on elsewhere"):
            DirectoryLock(directory).__enter__()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"token": "x"}'])
def test_a_damaged_lock_is_nobodys(directory, content):
    Folder.of(directory).make()
    Folder.of(directory).write(LOCK, content)
    with DirectoryLock(directory):
        pass


def test_a_lock_gives_signs_of_life(directory, monkeypatch):
    monkeypatch.setattr(lock_module, "BEAT_EVERY_S", 0.01)
    with DirectoryLock(directory):
        first = read_lock(Folder.of(directory))["beat"]
        until = time.monotonic() + 30
        # a store in memory shows the file while it is written, empty
        while (read_lock(Folder.of(directory)) or {}).get("beat", first) == first:
            assert time.monotonic() < until


def test_who_was_taken_for_dead_notices(directory, monkeypatch):
    """A machine that slept: its job must not finish what another one writes now."""
    monkeypatch.setattr(lock_module, "BEAT_EVERY_S", 0.01)
    with DirectoryLock(directory) as lock:
        with lock._writing:  # else a sign of life that is being written could stand there last
            said = leave(directory, **ELSEWHERE)
        lock._beating.join(timeout=30)
        with pytest.raises(DatasetError, match=r"process 7 on elsewhere.*took this job for dead"):
            lock.check()
    assert read_lock(Folder.of(directory)) == said  # it is not ours to delete


def test_a_lock_that_is_gone_is_lost(directory):
    """Another job may have taken it over, and ended: what stands there is no longer this job's to finish."""
    with DirectoryLock(directory) as lock:
        lock.check()
        Folder.of(directory).delete(LOCK)
        with pytest.raises(DatasetError, match=r"the lock of .* is gone: .*--resume"):
            lock.check()
    assert read_lock(Folder.of(directory)) is None


def test_who_slept_notices_before_the_next_sign_of_life(directory):
    with DirectoryLock(directory) as lock:
        leave(directory, **ELSEWHERE)
        with pytest.raises(DatasetError, match=r"process 7 on elsewhere"):
            lock.check()


@pytest.fixture
def done(directory) -> str:
    """A dataset of one shard whose job has not marked it as finished."""
    prepare_directory(directory)
    write_job(directory, {}, shards=1)
    with ShardWriter(directory, "one", pa.schema([("id", pa.string())])) as writer:
        writer.commit({})
    return directory


def test_who_lost_the_lock_does_not_finish(done):
    with DirectoryLock(done):
        Folder.of(done).make(ATTEMPTS)
        Folder.of(done).write(f"{ATTEMPTS}/another", b"")
        leave(done, **ELSEWHERE)
        with pytest.raises(DatasetError, match=r"process 7 on elsewhere.*took this job for dead"):
            finish_job(done)
    assert f"{ATTEMPTS}/another" in Folder.of(done).list()
    assert SUCCESS not in Folder.of(done).list()


def test_who_loses_the_lock_while_it_finishes_marks_nothing(done, monkeypatch):
    """Clearing up takes its time in a store."""
    with DirectoryLock(done):
        monkeypatch.setattr(dataset_module, "remove_temporaries", lambda folder: leave(done, **ELSEWHERE))
        with pytest.raises(DatasetError, match=r"process 7 on elsewhere.*took this job for dead"):
            finish_job(done)
        assert SUCCESS not in Folder.of(done).list()


def test_the_lock_of_another_dataset_is_not_asked_about(done, tmp_path):
    with DirectoryLock(str(tmp_path / "another")):
        leave(str(tmp_path / "another"), **ELSEWHERE)
        assert finish_job(done).complete


def test_all_locks_of_a_process_can_be_given_back(directory):
    DirectoryLock(directory).__enter__()
    release_all()
    assert list(Folder.of(directory).list()) == []


def test_a_store_without_conditions_is_read_back(directory, monkeypatch):
    """Some stores that speak S3 know no write that fails where there is a file."""
    if not directory.startswith("memory"):
        return
    folder = Folder.of(directory)

    def refuse(path, value, mode="overwrite", **options):
        raise NotImplementedError(mode)

    monkeypatch.setattr(folder.fs, "pipe_file", refuse)
    with DirectoryLock(directory) as lock:
        assert read_lock(folder)["token"] == lock.token
    taken = {}
    monkeypatch.setattr(lock_module.time, "sleep", lambda _: taken.update(leave(directory, **ELSEWHERE)))
    with pytest.raises(DatasetError, match="process 7 on elsewhere"):
        DirectoryLock(directory).__enter__()


RACE = """
import pathlib, sys, time
from clipmill.errors import DatasetError
from clipmill.files.lock import DirectoryLock
directory, start, name = sys.argv[1:]
lock = DirectoryLock(directory)
pathlib.Path(start, name).touch()
while not pathlib.Path(start, "go").exists():
    time.sleep(0.001)
try:
    lock.__enter__()
except DatasetError as err:
    print("refused", err)
else:
    print("held")
    sys.stdout.flush()
    sys.stdin.read()
"""


@pytest.mark.parametrize("before", ["nothing", "dead"])
def test_of_those_who_start_at_once_one_wins(tmp_path, before):
    """Eight processes, with and without the lock of a dead one in the way."""
    directory, start = str(tmp_path / "dataset"), tmp_path / "start"
    start.mkdir()
    if before == "dead":
        leave(directory, **dead_process())
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, directory, str(start), str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(8)
    ]  # fmt: skip
    while len(list(start.iterdir())) < len(jobs):
        assert all(job.poll() is None for job in jobs)
        time.sleep(0.01)
    (start / "go").touch()
    said = [job.stdout.readline().split()[0] for job in jobs]
    for job in jobs:
        job.communicate("", timeout=60)
    assert sorted(said) == ["held", *["refused"] * 7]


def test_a_lock_does_not_keep_its_process(tmp_path):
    """It ends with the main thread, and leaves a lock that counts for nothing."""
    program = f"from clipmill.files.lock import DirectoryLock; DirectoryLock({str(tmp_path)!r}).__enter__()"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert (tmp_path / LOCK).exists()
    with DirectoryLock(str(tmp_path)):
        pass


def test_what_is_known_of_processes():
    assert may_be_alive(this_process()) is True
    assert may_be_alive(dead_process()) is False
    assert may_be_alive({**this_process(), "place": "elsewhere"}) is None
    assert meaning_of_exit(-9) == meaning_of_exit(137) == "SIGKILL: perhaps the machine ran out of memory"
    assert (meaning_of_exit(-11), meaning_of_exit(3)) == ("SIGSEGV", "exit code 3")


def test_a_zombie_is_dead():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        said = {**this_process(), "pid": process.pid, "started": started(process.pid)}
        assert may_be_alive(said) is True
        process.stdin.close()
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        assert may_be_alive(said) is False
