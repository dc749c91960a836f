"""Jobs of the command line that are killed: started, killed at drawn moments, resumed, and what they must leave."""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from clipmill.datasets import read_dataset, read_failures, summarise
from clipmill.encoders.testing import fake_text_vector
from clipmill.pipelines.interrupts import descendants

ROWS, ROWS_PER_SHARD = 48, 2
ENGINES = {
    "beam": ["--direct_running_mode=multi_processing", "--direct_num_workers=2"],
    "spark": ["--engine", "spark", "--master", "local[2]"],
}
KINDS = ("all", "command", "worker")
"""What is killed: all processes of the job, the command alone, or one process that it started."""

_ENCODERS = """
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


def write_inputs(folder: Path) -> Path:
    """Write texts, of which every ninth is empty, and encoders that are slow, or die of a row."""
    (folder / "resume_kills_encoders.py").write_text(_ENCODERS)
    lines = [json.dumps({"id": str(n), "text": f"text {n}" if n % 9 else ""}) for n in range(ROWS)]
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def start(folder: Path, output: Path, *options: str, factory: str = "slow", encoders: str = "") -> subprocess.Popen:
    """Start `clipmill embed … --resume`."""
    command = ["embed", str(folder / "in.jsonl"), "-o", str(output), "--resume"]
    model = encoders or f"resume_kills_encoders:{factory}"
    command += ["--model", f"custom:{model}", "--rows-per-shard", str(ROWS_PER_SHARD)]
    return start_command(folder, *command, *options)


def start_command(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start a command in a process group of its own, with the modules of a folder."""
    with (folder / "said").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "clipmill", *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])},
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
    assert left == {"_SUCCESS", "_failures", "_job.json", "_manifest", "_plan", "_plan.json"}


def kill_again_and_again(
    folder: Path,
    engine: str,
    *,
    kills: int,
    moments: random.Random,
    kinds: tuple[str, ...] = KINDS,
    end_on: Sequence[str] | None = None,
) -> collections.Counter[str]:
    """Kill a job at drawn moments and resume it, until it was killed that often; then let it end, and check it.

    When a job has come to its end in spite of kills, another one is started.

    Args:
        folder: From `write_inputs`.
        engine: A key of `ENGINES`.
        kills: How many there are.
        moments: Draws when, and what is killed.
        kinds: What may be killed.
        end_on: Options of the engine of the last run, which is not killed; those of `engine` if None.

    Returns:
        How many kills of each kind there were, and under `jobs` how many jobs they were spread over.
    """
    options = ENGINES[engine]
    done: collections.Counter[str] = collections.Counter(jobs=1)
    whole: dict[str, bytes] = {}
    while sum(done[kind] for kind in KINDS) < kills:
        output = folder / f"out-{done['jobs']}"
        process = start(folder, output, *options)
        target = len(whole) + moments.randrange(12)
        jitter = moments.random() * 0.1
        while process.poll() is None and len(manifests(output)) < target:
            time.sleep(0.005)
        time.sleep(jitter)
        kind = moments.choice(kinds)
        done[kind] += kill(process, kind, moments)
        code = process.wait(timeout=120)
        assert code in (0, 1, -signal.SIGKILL), said(folder)
        assert (code == 1) == ("Error: " in said(folder)), said(folder)
        there = manifests(output)
        assert whole.items() <= there.items(), "a shard that was whole was done again"
        whole = there
        if code == 0:
            check(output)
            done["jobs"], whole = done["jobs"] + 1, {}
    output = folder / f"out-{done['jobs']}"
    assert finish(folder, output, *(options if end_on is None else end_on)) == 0, said(folder)
    assert whole.items() <= manifests(output).items()
    check(output)
    return done


def kill(process: subprocess.Popen, kind: str, moments: random.Random) -> int:
    """Kill something of a job; return 1, or 0 if it was over."""
    below = sorted(descendants(process.pid))
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
