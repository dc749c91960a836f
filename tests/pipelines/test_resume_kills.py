"""Killed at random moments and resumed, a job makes the dataset that an undisturbed one makes, on both engines."""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipmill.encoders.storage import read_dataset, read_failures, summarise
from clipmill.encoders.storage.resume import read_earlier
from clipmill.encoders.testing import fake_text_vector
from clipmill.pipelines.engines import _descendants

KILLS = 20
ROWS, ROWS_PER_SHARD = 80, 2
ENCODER = """
import os, signal, time
from clipmill.encoders.testing import FakeModel

class Slow(FakeModel):
    def encode(self, modality, payloads):
        time.sleep(0.05)
        return super().encode(modality, payloads)

class Deadly(FakeModel):
    def encode(self, modality, payloads):
        if "text 5" in payloads:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(modality, payloads)

def slow():
    return Slow({})

def deadly():
    return Deadly({})
"""
BEAM = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
SPARK = ["--engine", "spark", "--master", "local[2]"]
ENGINES = [pytest.param(BEAM, id="beam"), pytest.param(SPARK, id="spark", marks=pytest.mark.spark)]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Texts, of which every ninth is empty, and encoders that are slow, or die of a row."""
    (tmp_path / "resume_kills_encoders.py").write_text(ENCODER)
    lines = [json.dumps({"id": str(n), "text": f"text {n}" if n % 9 else ""}) for n in range(ROWS)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def start(folder: Path, output: Path, *options: str, factory: str = "slow") -> subprocess.Popen:
    """Start the command with `--resume`, in a process group of its own."""
    command = [sys.executable, "-m", "clipmill", "embed", str(folder / "in.jsonl"), "-o", str(output), "--resume"]
    command += ["--model", f"custom:resume_kills_encoders:{factory}", "--rows-per-shard", str(ROWS_PER_SHARD), *options]
    with (folder / "said").open("w") as said:
        return subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(folder: Path, output: Path, *options: str, **more: str) -> int:
    """Run the command to its end; return its exit code."""
    return start(folder, output, *options, **more).wait(timeout=300)


def said(folder: Path) -> str:
    return (folder / "said").read_text()


def manifests(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "_manifest").glob("part-*.json")}


def expected_rows(*, without: int | None = None) -> dict[str, list[float]]:
    return {str(n): fake_text_vector(f"text {n}").tolist() for n in range(ROWS) if n % 9 and n != without}


def check(output: Path) -> None:
    """Compare a dataset with what an undisturbed job writes: the fake can be computed in the head."""
    rows = read_dataset(str(output)).to_pylist()
    assert collections.Counter(row["id"] for row in rows) == dict.fromkeys(expected_rows(), 1)
    assert {row["id"]: row["embedding"] for row in rows} == expected_rows()
    failures = [(failure["row"], failure["code"]) for failure in read_failures(str(output))]
    assert sorted(failures) == sorted((str(n), "empty") for n in range(0, ROWS, 9))
    summary = summarise(str(output))
    assert summary.complete and (summary.input_rows, summary.shards) == (ROWS, ROWS // ROWS_PER_SHARD)
    left = {path.name for path in output.iterdir() if not path.name.startswith("part-")}
    assert left == {"_SUCCESS", "_failures", "_job.json", "_manifest", "_plan.jsonl.gz"}


def test_an_undisturbed_job_is_what_is_compared_with(folder):
    """Without `--resume` and without a kill, on Beam in one process."""
    command = [sys.executable, "-m", "clipmill", "embed", str(folder / "in.jsonl"), "-o", str(folder / "out")]
    command += ["--model", "fake::dim=8", "--rows-per-shard", str(ROWS_PER_SHARD)]
    subprocess.run(command, check=True, capture_output=True)
    check(folder / "out")


@pytest.mark.parametrize("options", ENGINES)
def test_a_job_that_is_killed_again_and_again_loses_and_repeats_nothing(folder, options):
    """Twenty kills: of all processes of the job, of the command alone, or of one that it started.

    When a job has come to its end in spite of them, another one is begun.
    """
    moments = random.Random(f"{options}")
    kills = job = 0
    whole: dict[str, bytes] = {}
    while kills < KILLS:
        output = folder / f"out-{job}"
        process = start(folder, output, *options)
        target = len(whole) + moments.randrange(12)
        jitter = moments.random() * 0.1
        while process.poll() is None and len(manifests(output)) < target:
            time.sleep(0.005)
        time.sleep(jitter)
        kind = moments.choice(["all", "command", "worker"])
        kills += kill(process, kind, moments)
        code = process.wait(timeout=120)
        assert code in (0, 1, -signal.SIGKILL), said(folder)
        assert (code == 1) == ("Error: " in said(folder)), said(folder)
        there = manifests(output)
        assert whole.items() <= there.items(), "a shard that was whole was done again"
        whole = there
        if code == 0:
            check(output)
            job, whole = job + 1, {}
    output = folder / f"out-{job}"
    assert finish(folder, output, *options) == 0, said(folder)
    assert whole.items() <= manifests(output).items()
    check(output)


def kill(process: subprocess.Popen, kind: str, moments: random.Random) -> int:
    """Kill something of a job; return 1, or 0 if it was over."""
    below = sorted(_descendants(process.pid))
    if process.poll() is not None:
        return 0
    try:
        if kind == "all":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(moments.choice(below) if kind == "worker" and below else process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


@pytest.mark.spark
def test_a_job_begun_on_one_engine_goes_on_on_the_other(folder):
    output = folder / "out"
    for options in (BEAM, SPARK):
        process = start(folder, output, *options)
        before = len(manifests(output))
        while len(manifests(output)) < before + 3:
            assert process.poll() is None, said(folder)
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        whole = manifests(output)
        assert read_earlier(str(output)) is not None
    assert finish(folder, output, *BEAM) == 0, said(folder)
    assert whole.items() <= manifests(output).items()
    check(output)


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        pytest.param([], [-signal.SIGKILL, -signal.SIGKILL, 0], id="beam in one process"),
        pytest.param(BEAM, [1, 1, 0], id="beam"),
        pytest.param(SPARK, [1, 1, 0], id="spark", marks=pytest.mark.spark),
        pytest.param([*SPARK[:-1], "local[2,4]"], [0], id="spark that retries", marks=pytest.mark.spark),
    ],
)
def test_a_row_that_kills_its_process_becomes_a_failure(folder, options, codes):
    """Two deaths over its shard, and the third process is careful; where the engine tries again, within one job."""
    output = folder / "out"
    for code in codes:
        assert finish(folder, output, *options, factory="deadly") == code, said(folder)
        if code == 1:
            assert "a worker process died" in said(folder) and "--resume" in said(folder)
    rows = {row["id"]: row["embedding"] for row in read_dataset(str(output)).to_pylist()}
    assert rows == expected_rows(without=5)
    failures = {failure["row"]: failure["code"] for failure in read_failures(str(output))}
    assert failures == {**{str(n): "empty" for n in range(0, ROWS, 9)}, "5": "killed"}
