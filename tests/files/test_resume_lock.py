"""The directory lock: two jobs never write to one directory, and dead jobs don't block others."""

from __future__ import annotations

import contextlib
import datetime
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
from clipmill.files.folder import Folder
from clipmill.files.lock import LOCK, DirectoryLock, read_lock, refuse_if_held, release_all
from clipmill.files.processes import may_be_alive, meaning_of_exit, started, this_process


@pytest.fixture(params=["local", "memory"])
def directory(request, tmp_path) -> Iterator[str]:
    """A directory that does not exist yet, on the local file system and on one of fsspec."""
    if request.param == "local":
        yield str(tmp_path / "deep" / "dataset")
        return
    url = f"memory://{uuid.uuid4().hex}/dataset"
    yield url
    fsspec.filesystem("memory").rm(url.rpartition("/")[0], recursive=True)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch) -> None:
    """Shorten the wait before a lock is read back."""
    monkeypatch.setattr(lock_module, "_SETTLE_S", 0.01)


def write_foreign_lock(directory: str, **fields: object) -> dict:
    """Write the lock of another process and return its content."""
    content = {"token": "another", **this_process(), "since": "then", "beat": time.time(), **fields}
    folder = Folder.of(directory)
    folder.make()
    folder.write(LOCK, json.dumps(content).encode())
    return content


def age_lock(directory: str, seconds: float) -> None:
    """Let the file system say that the lock was written so long ago."""
    folder = Folder.of(directory)
    if directory.startswith("memory"):
        written = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
        folder.fs.store[folder.at(LOCK)].modified = written
    else:
        os.utime(folder.at(LOCK), (time.time() - seconds,) * 2)


def dead_process() -> dict:
    """Return the identity of a process of this machine that has ended."""
    program = "import json; from clipmill.files.processes import this_process as t; print(json.dumps(t()))"
    return json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)


ELSEWHERE = {"host": "elsewhere", "place": "elsewhere 1 2", "pid": 7}


def test_a_lock_is_held_while_its_block_runs(directory):
    with DirectoryLock(directory) as lock:
        content = read_lock(Folder.of(directory))
        assert content is not None
        assert (content["token"], content["pid"]) == (lock.token, os.getpid())
        lock.check()
        refuse_if_held(Folder.of(directory))  # this process may continue
        with pytest.raises(DatasetError, match=rf"another job is writing to .*process {os.getpid()} on "):
            DirectoryLock(directory).__enter__()
        assert read_lock(Folder.of(directory))["token"] == lock.token
    assert list(Folder.of(directory).list()) == []
    with DirectoryLock(directory):
        pass


def test_the_lock_of_a_dead_process_is_replaced_at_once(directory):
    write_foreign_lock(directory, **dead_process())
    with DirectoryLock(directory) as lock:
        assert read_lock(Folder.of(directory))["token"] == lock.token


def test_a_process_with_a_reused_pid_is_another_process(directory):
    """The lock has this process's PID but another start time."""
    process = this_process()
    write_foreign_lock(directory, **{**process, "started": process["started"] - 1})
    with DirectoryLock(directory):
        pass


def test_a_lock_of_another_machine_is_valid_while_its_heartbeat_is_recent(directory):
    write_foreign_lock(directory, **ELSEWHERE)
    age_lock(directory, 100)
    message = rf"process 7 on elsewhere.*last heartbeat 10\d s ago.*try again 120 seconds after .*delete .*{LOCK}"
    with pytest.raises(DatasetError, match=message):
        DirectoryLock(directory).__enter__()
    with pytest.raises(DatasetError, match="process 7 on elsewhere"):
        prepare_directory(directory, overwrite=True)
    assert list(Folder.of(directory).list()) == [LOCK]
    age_lock(directory, 125)
    with DirectoryLock(directory):
        pass


@pytest.mark.parametrize("hours", [-5, 5])
@pytest.mark.parametrize("seconds", [60, 125])
def test_clocks_of_two_machines_may_be_hours_apart(directory, hours, seconds):
    """A lock is neither taken from a job that runs nor held for ever: only the clock of the file system counts."""
    write_foreign_lock(directory, **ELSEWHERE, beat=time.time() + hours * 3600)
    age_lock(directory, seconds)
    if seconds < lock_module.DEAD_AFTER_S:
        with pytest.raises(DatasetError, match=r"process 7 on elsewhere.*last heartbeat 6\d s ago"):
            DirectoryLock(directory).__enter__()
        with pytest.raises(DatasetError, match="process 7 on elsewhere"):
            refuse_if_held(Folder.of(directory))
        assert list(Folder.of(directory).list()) == [LOCK]
        return
    refuse_if_held(Folder.of(directory))
    assert prepare_directory(directory) == Folder.of(directory).url
    write_foreign_lock(directory, **ELSEWHERE, beat=time.time() + hours * 3600)
    age_lock(directory, seconds)
    with DirectoryLock(directory) as lock:
        assert read_lock(Folder.of(directory))["token"] == lock.token


def test_without_times_of_the_file_system_the_clocks_of_both_machines_count(directory, monkeypatch):
    def unknown(*given):
        raise NotImplementedError

    monkeypatch.setattr(type(Folder.of(directory).fs), "modified", unknown)
    write_foreign_lock(directory, **ELSEWHERE, beat=time.time() - 100)
    with pytest.raises(DatasetError, match=r"last heartbeat 10\d s ago"):
        refuse_if_held(Folder.of(directory))
    write_foreign_lock(directory, **ELSEWHERE, beat=time.time() - 121)
    refuse_if_held(Folder.of(directory))


def test_a_dry_run_judges_a_lock_without_writing(directory):
    """A lock whose time is far from this machine's may be of a dead job: the run itself will know."""
    folder = Folder.of(directory)
    for hours, is_refused in ((0, True), (5, False), (-5, False)):
        write_foreign_lock(directory, **ELSEWHERE, beat=time.time() + hours * 3600)
        with pytest.raises(DatasetError, match="elsewhere") if is_refused else contextlib.nullcontext():
            refuse_if_held(folder, may_write=False)


def test_a_lock_that_could_not_be_released_does_not_hold_up_its_own_process(directory, monkeypatch):
    """The store did not answer when the job ended; the process may be a service that runs for months."""

    def fail(self, name):
        raise DatasetError("the store is busy")

    lock = DirectoryLock(directory)
    with monkeypatch.context() as patch, lock:
        patch.setattr(Folder, "delete", fail)
        lock.release()
    assert read_lock(Folder.of(directory))["token"] == lock.token
    refuse_if_held(Folder.of(directory))
    with DirectoryLock(directory) as again:
        assert read_lock(Folder.of(directory))["token"] == again.token


def test_a_lock_created_at_the_last_moment_is_respected(directory, monkeypatch):
    """It appears after the check and before the own lock is created."""

    def read_too_early(folder):
        write_foreign_lock(directory, **ELSEWHERE)
        return None

    monkeypatch.setattr(lock_module, "_settled", read_too_early)
    with pytest.raises(DatasetError, match=r"process 7 on elsewhere.*wait until it ends, or choose another directory"):
        DirectoryLock(directory).__enter__()
    assert read_lock(Folder.of(directory))["pid"] == 7


def test_a_lock_has_four_required_fields_and_allows_more(directory):
    folder = Folder.of(directory)
    folder.make()
    required = {"token": "x", "pid": 7, "host": "elsewhere", "beat": time.time()}
    for more in ({}, {"place": "elsewhere 1 2"}):
        folder.write(LOCK, json.dumps({**required, **more}).encode())
        assert read_lock(folder) == {**required, **more}
        with pytest.raises(DatasetError, match="process 7 on elsewhere"):
            DirectoryLock(directory).__enter__()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"token": "x"}'])
def test_a_damaged_lock_is_ignored(directory, content):
    Folder.of(directory).make()
    Folder.of(directory).write(LOCK, content)
    with DirectoryLock(directory):
        pass


def test_heartbeats_are_written(directory, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.01)
    with DirectoryLock(directory):
        first = read_lock(Folder.of(directory))["beat"]
        until = time.monotonic() + 30
        # an in-memory store shows a file that is being written as empty
        while (read_lock(Folder.of(directory)) or {}).get("beat", first) == first:
            assert time.monotonic() < until


def test_a_job_notices_that_its_lock_was_taken_over(directory, monkeypatch):
    """The machine was suspended: its job must not finish a dataset that another job is now writing."""
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.01)
    with DirectoryLock(directory) as lock:
        with lock._writing:  # otherwise a heartbeat that is being written could overwrite it
            foreign = write_foreign_lock(directory, **ELSEWHERE)
        lock._heartbeat.join(timeout=30)
        with pytest.raises(DatasetError, match=r"process 7 on elsewhere.*was considered dead"):
            lock.check()
    assert read_lock(Folder.of(directory)) == foreign  # not this process's lock to delete


def test_a_deleted_lock_is_lost(directory):
    """Another job may have taken it over and ended, so this job must not finish the dataset."""
    with DirectoryLock(directory) as lock:
        lock.check()
        Folder.of(directory).delete(LOCK)
        with pytest.raises(DatasetError, match=r"the lock of .* is gone: .*--resume"):
            lock.check()
    assert read_lock(Folder.of(directory)) is None


def test_check_notices_a_takeover_before_the_next_heartbeat(directory):
    with DirectoryLock(directory) as lock:
        write_foreign_lock(directory, **ELSEWHERE)
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


def test_a_job_that_lost_its_lock_does_not_finish(done):
    with DirectoryLock(done):
        Folder.of(done).make(ATTEMPTS)
        Folder.of(done).write(f"{ATTEMPTS}/another", b"")
        write_foreign_lock(done, **ELSEWHERE)
        with pytest.raises(DatasetError, match=r"process 7 on elsewhere.*was considered dead"):
            finish_job(done)
    assert f"{ATTEMPTS}/another" in Folder.of(done).list()
    assert SUCCESS not in Folder.of(done).list()


def test_a_job_that_loses_its_lock_while_finishing_does_not_mark_success(done, monkeypatch):
    """Removing temporary files takes time on an object store."""
    with DirectoryLock(done):
        monkeypatch.setattr(dataset_module, "remove_temporaries", lambda folder: write_foreign_lock(done, **ELSEWHERE))
        with pytest.raises(DatasetError, match=r"process 7 on elsewhere.*was considered dead"):
            finish_job(done)
        assert SUCCESS not in Folder.of(done).list()


def test_finishing_ignores_the_locks_of_other_datasets(done, tmp_path):
    with DirectoryLock(str(tmp_path / "another")):
        write_foreign_lock(str(tmp_path / "another"), **ELSEWHERE)
        assert finish_job(done).complete


def test_release_all_releases_the_locks_of_this_process(directory):
    DirectoryLock(directory).__enter__()
    release_all()
    assert list(Folder.of(directory).list()) == []


def test_a_store_without_conditional_writes_is_read_back(directory, monkeypatch):
    """Some S3-compatible stores cannot make a write fail if the file exists."""
    if not directory.startswith("memory"):
        return
    folder = Folder.of(directory)

    def refuse(path, value, mode="overwrite", **options):
        raise NotImplementedError(mode)

    monkeypatch.setattr(folder.fs, "pipe_file", refuse)
    with DirectoryLock(directory) as lock:
        assert read_lock(folder)["token"] == lock.token
    taken = {}
    monkeypatch.setattr(lock_module.time, "sleep", lambda _: taken.update(write_foreign_lock(directory, **ELSEWHERE)))
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
def test_one_of_several_jobs_that_start_at_once_wins(tmp_path, before):
    """Eight processes, with and without the lock of a dead process."""
    directory, start = str(tmp_path / "dataset"), tmp_path / "start"
    start.mkdir()
    if before == "dead":
        write_foreign_lock(directory, **dead_process())
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
    results = [job.stdout.readline().split()[0] for job in jobs]
    for job in jobs:
        job.communicate("", timeout=60)
    assert sorted(results) == ["held", *["refused"] * 7]


def test_a_lock_does_not_keep_its_process_alive(tmp_path):
    """The process ends with its main thread, and its lock is ignored from then on."""
    program = f"from clipmill.files.lock import DirectoryLock; DirectoryLock({str(tmp_path)!r}).__enter__()"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert (tmp_path / LOCK).exists()
    with DirectoryLock(str(tmp_path)):
        pass


def test_dead_and_foreign_processes_are_recognized():
    assert may_be_alive(this_process()) is True
    assert may_be_alive(dead_process()) is False
    assert may_be_alive({**this_process(), "place": "elsewhere"}) is None
    assert meaning_of_exit(-9) == meaning_of_exit(137) == "SIGKILL: perhaps the machine ran out of memory"
    assert (meaning_of_exit(-11), meaning_of_exit(3)) == ("SIGSEGV", "exit code 3")


def test_a_zombie_is_dead():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        identity = {**this_process(), "pid": process.pid, "started": started(process.pid)}
        assert may_be_alive(identity) is True
        process.stdin.close()
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        assert may_be_alive(identity) is False
