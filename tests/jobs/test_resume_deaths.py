"""A row that kills its process is found, becomes a failure, and takes no other row along."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import job_options
import pytest

from clipmill.datasets import finish_job, plan_shards, read_dataset, read_failures
from clipmill.datasets.directory import ATTEMPTS
from clipmill.datasets.inputs.shards import Shard
from clipmill.encoders import EncoderSpec
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import DatasetError, WeightsError
from clipmill.files.folder import Folder
from clipmill.files.processes import this_process
from clipmill.jobs import Job, embed_shard, isolated_run, start_job
from clipmill.jobs.attempts import Attempt

KILLER = """
import os, pathlib, signal
from clipmill.errors import WeightsError
from clipmill.encoders.testing import FakeModel

LOG = pathlib.Path(__file__).parent / "deaths"

class Killer(FakeModel):
    def encode(self, modality, payloads):
        for payload in payloads:
            if "kill" in payload:
                with LOG.open("a") as file:
                    file.write(f"{len(payloads)} {payload}\\n")
                os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(modality, payloads)

    def prepare(self, modality, content, spec):
        if "once" in content and not (LOG.parent / "once").exists():
            (LOG.parent / "once").touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().prepare(modality, content, spec)

def make():
    return Killer({"dim": "4"})

def broken():
    raise WeightsError("the weights are gone")

def deadly():
    os.kill(os.getpid(), signal.SIGKILL)
"""
TEXTS = ["a", "bb", "kill me", "cccc", "kill me too", "", "ddddd"]


@pytest.fixture(autouse=True)
def killer(tmp_path, monkeypatch) -> Path:
    """An encoder that kills its process at some texts, and writes down how many rows it had then."""
    (tmp_path / "resume_killer.py").write_text(KILLER)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "deaths"


@pytest.fixture(params=["local", "memory"])
def directory(request, tmp_path) -> Iterator[str]:
    """A place that is not there yet, on this machine and on a file system behind fsspec."""
    if request.param == "local":
        yield str(tmp_path / "dataset")
        return
    url = f"memory://{uuid.uuid4().hex}/dataset"
    yield url
    fsspec.filesystem("memory").rm(url.rpartition("/")[0], recursive=True)


def begin(directory: str, tmp_path: Path, texts: list[str], **options: object) -> tuple[Job, Shard]:
    table = tmp_path / "in.jsonl"
    table.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
    (shard,) = shards = plan_shards([str(table)])
    job = job_options.plan(EncoderSpec("custom:resume_killer:make", device="cpu"), directory, shards, **options)
    start_job(job, shards)
    return job, shard


def with_model(job: Job, name: str) -> Job:
    """Return a job whose model is made by another factory, which its driver has not called."""
    return dataclasses.replace(job, spec=EncoderSpec(f"custom:{name}", device="cpu"))


def die(directory: str, shard: Shard, *places: str, **says: object) -> None:
    """Leave the mark of a process that died over a shard, after these notes."""
    folder = Folder.of(directory)
    head = {**this_process(), "started": 1, "fingerprint": shard.fingerprint, **says}
    content = "".join(json.dumps(line) + "\n" for line in (head, *places))
    folder.make(ATTEMPTS)
    folder.write(f"{ATTEMPTS}/{shard.name}.{uuid.uuid4().hex[:8]}.jsonl", content.encode())


def marks(directory: str) -> list[str]:
    return list(Folder.of(directory).list(ATTEMPTS))


# --- marks -----------------------------------------------------------------------------------------------------------


def test_a_shard_is_marked_while_it_is_worked_on(directory, tmp_path):
    job, shard = begin(directory, tmp_path, ["a"])
    with Attempt(directory, shard) as attempt:
        assert len(marks(directory)) == 1 and not attempt.is_dangerous
        with Attempt(directory, shard) as beside:  # as engines do that start a slow shard twice
            assert len(marks(directory)) == 2 and not beside.is_dangerous
    assert marks(directory) == []
    embed_shard(shard, job)
    assert marks(directory) == []


def test_an_error_is_no_death(directory, tmp_path):
    _, shard = begin(directory, tmp_path, ["a"])
    with pytest.raises(KeyError), Attempt(directory, shard):
        raise KeyError("in the middle")
    assert marks(directory) == []


def test_a_death_leaves_its_mark(tmp_path):
    """Of a real process that was killed."""
    directory = str(tmp_path / "dataset")
    _, shard = begin(directory, tmp_path, ["a"])
    program = (
        "import os, pickle, sys; from clipmill.jobs.attempts import Attempt\n"
        "with Attempt(sys.argv[1], pickle.load(sys.stdin.buffer)) as attempt:\n"
        "    attempt.note('row 7'); os.kill(os.getpid(), 9)"
    )
    for deaths in range(3):
        with Attempt(directory, shard) as attempt:
            assert attempt.is_dangerous == (deaths >= 2)
            assert attempt.blamed == ({"row 7"} if deaths >= 2 else set())
        done = subprocess.run([sys.executable, "-c", program, directory], input=pickle.dumps(shard), check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(marks(directory)) == deaths + 1
    with Attempt(directory, shard) as attempt:
        attempt.forget()
    assert marks(directory) == []


ELSEWHERE = {"host": "elsewhere", "place": "elsewhere 1 2"}


@pytest.mark.parametrize(
    ("killed", "unknown", "is_suspected"), [(2, 0, True), (1, 1, True), (0, 2, False), (1, 0, False), (0, 3, True)]
)
def test_two_machines_that_were_lost_suspect_no_row(directory, tmp_path, killed, unknown, is_suspected):
    """Nobody can ask another machine: it may have been preempted. Three, or one beside a sure death, are no chance."""
    _, shard = begin(directory, tmp_path, ["a"])
    for says in [{}] * killed + [ELSEWHERE] * unknown:
        die(directory, shard, "row 0", **says)
    with Attempt(directory, shard) as attempt:
        assert attempt.is_dangerous == is_suspected
        assert attempt.blamed == ({"row 0"} if is_suspected else set())
        attempt.forget()
    assert marks(directory) == []


def test_marks_of_other_input_or_of_another_shard_do_not_count(directory, tmp_path):
    _, shard = begin(directory, tmp_path, ["a"])
    for _ in range(2):
        die(directory, shard, fingerprint="of the file as it was")
        die(directory, Shard("00001-other", "jsonl", shard.paths, fingerprint=shard.fingerprint))
    with Attempt(directory, shard) as attempt:
        assert not attempt.is_dangerous


def test_a_torn_mark_counts(directory, tmp_path):
    _, shard = begin(directory, tmp_path, ["a"])
    folder = Folder.of(directory)
    folder.make(ATTEMPTS)
    folder.write(f"{ATTEMPTS}/{shard.name}.1.jsonl", b"")
    folder.write(f"{ATTEMPTS}/{shard.name}.2.jsonl", b'{"host": "h')
    with Attempt(directory, shard) as attempt:
        assert attempt.is_dangerous and attempt.blamed == set()


def test_notes_that_differ_blame_nobody(directory, tmp_path):
    _, shard = begin(directory, tmp_path, ["a"])
    die(directory, shard, "row 0", "row 1")
    die(directory, shard, "row 0", "row 1", "row 2")
    with Attempt(directory, shard) as attempt:
        assert attempt.is_dangerous and attempt.blamed == set()


# --- shards ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path) -> str:
    """On this machine: what is in memory belongs to one process alone."""
    return str(tmp_path / "dataset")


def check(dataset: str, texts: list[str], killed: dict[str, str]) -> None:
    """Compare with what a dataset has when all rows are there but the killed ones, which are failures."""
    rows = {row["id"]: row["embedding"] for row in read_dataset(dataset).to_pylist()}
    expected = {str(n): fake_text_vector(t, 4).tolist() for n, t in enumerate(texts) if t and str(n) not in killed}
    assert rows == expected
    failures = {failure["row"]: failure for failure in read_failures(dataset)}
    assert {row: f["code"] for row, f in failures.items() if f["code"] != "empty"} == dict.fromkeys(killed, "killed")
    for row, message in killed.items():
        assert (failures[row]["stage"], failures[row]["transient"]) == ("encode", False)
        assert (
            message in failures[row]["message"]
            and "several processes that worked only on it died" in failures[row]["message"]
        )


def test_the_rows_that_kill_become_failures(dataset, tmp_path, killer):
    """Each is tried twice, alone; before that, no process of this shard lived."""
    job, shard = begin(dataset, tmp_path, TEXTS)
    die(dataset, shard)
    die(dataset, shard)
    manifest = embed_shard(shard, job)
    finish_job(dataset)
    check(dataset, TEXTS, {"2": "SIGKILL", "4": "SIGKILL"})
    assert killer.read_text().splitlines() == ["1 kill me"] * 2 + ["1 kill me too"] * 2
    assert (manifest["input_rows"], manifest["failed"]) == (7, {"empty": 1, "killed": 2})
    assert marks(dataset) == []


def test_one_death_is_no_reason_to_blame_a_row(dataset, tmp_path):
    """Somebody may have killed the process that was watched."""
    texts = ["a", "once", "b"]
    job, shard = begin(dataset, tmp_path, texts)
    die(dataset, shard)
    die(dataset, shard)
    embed_shard(shard, job)
    finish_job(dataset)
    check(dataset, texts, {})
    assert (tmp_path / "once").exists()


def test_a_shard_with_one_dead_process_is_worked_on_as_ever(dataset, tmp_path):
    job, shard = begin(dataset, tmp_path, ["equal to", "no other"])
    die(dataset, shard)
    assert embed_shard(shard, job)["batch_rows"] == {"2": 1}
    assert marks(dataset) == []


def test_a_row_at_which_whole_containers_died_is_not_tried(dataset, tmp_path, killer):
    """Nobody outlived them to tell; two notes that end at one row do."""
    job, shard = begin(dataset, tmp_path, ["a", "kill me", "b"])
    for _ in range(2):
        die(dataset, shard, "row 0", "reading row 1", "row 1")
    embed_shard(shard, job)
    finish_job(dataset)
    check(dataset, ["a", "kill me", "b"], {"1": "ended all processes beside it"})
    assert not killer.exists()


@pytest.mark.parametrize("columns", [None, {"text": "text"}], ids=["documents", "rows"])
def test_reading_that_kills_is_one_failure_for_the_rest(dataset, tmp_path, columns):
    """As of a file that is cut off: what came before is there."""
    plan = {} if columns is None else {"plan": ColumnPlan.of(columns)}
    job, shard = begin(dataset, tmp_path, ["a", "b", "c"], **plan)
    for _ in range(2):
        die(dataset, shard, "reading row 2")
    embed_shard(shard, job)
    finish_job(dataset)
    assert read_dataset(dataset)["id"].to_pylist() == ["0", "1"]
    (failure,) = read_failures(dataset)
    assert (failure["row"], failure["stage"], failure["code"]) == (shard.paths[0], "read", "killed")
    assert "rows from 2 on" in failure["message"]


def test_errors_of_the_careful_process_are_the_jobs(dataset, tmp_path):
    job, shard = begin(dataset, tmp_path, ["a"])
    die(dataset, shard)
    die(dataset, shard)
    with pytest.raises(WeightsError, match="the weights are gone"):
        embed_shard(shard, with_model(job, "resume_killer:broken"))
    assert len(marks(dataset)) == 2


def test_a_model_that_kills_is_not_blamed_on_rows(dataset, tmp_path):
    job, shard = begin(dataset, tmp_path, ["a"])
    die(dataset, shard)
    die(dataset, shard)
    with pytest.raises(DatasetError, match=r"died before its first row \(SIGKILL"):
        embed_shard(shard, with_model(job, "resume_killer:deadly"))
    assert list(read_failures(dataset)) == []


def test_when_every_row_kills_it_is_not_the_rows(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(isolated_run, "_MOST_BLAMED", 1)
    job, shard = begin(dataset, tmp_path, ["kill"] * 4)
    die(dataset, shard)
    die(dataset, shard)
    with pytest.raises(DatasetError, match="processes died at 2 different rows, the last with SIGKILL"):
        embed_shard(shard, job)
    assert list(Folder.of(dataset).list("_manifest")) == []


def test_the_careful_process_ends_with_the_one_that_watches(dataset, tmp_path):
    """A kill of the driver leaves nobody behind who writes."""
    (tmp_path / "resume_slow.py").write_text(
        "import pathlib, time, os\n"
        "from clipmill.encoders.testing import FakeModel\n"
        "class Slow(FakeModel):\n"
        "    def encode(self, modality, payloads):\n"
        "        (pathlib.Path(__file__).parent / 'working').write_text(str(os.getpid()))\n"
        "        time.sleep(600)\n"
        "def make():\n"
        "    return Slow({'dim': '4'})\n"
    )
    job, shard = begin(dataset, tmp_path, ["a"])
    die(dataset, shard)
    die(dataset, shard)
    program = (
        "import pickle, sys; from clipmill.jobs import embed_shard\n"
        "shard, job = pickle.load(sys.stdin.buffer); embed_shard(shard, job)"
    )
    slow = with_model(job, "resume_slow:make")
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    ) as watching:
        watching.stdin.write(pickle.dumps((shard, slow)))
        watching.stdin.close()
        working = wait_for(tmp_path / "working")
        watching.kill()
    wait_until_gone(working)


def wait_for(path: Path) -> int:
    until = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    return int(path.read_text())


def wait_until_gone(pid: int) -> None:
    until = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
