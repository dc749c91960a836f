"""Killed at drawn moments and resumed, a job makes the dataset that an undisturbed one makes, on both engines.

A few kills for each engine; `make soak` makes many.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from cli_helpers import run
from kills import (
    ENGINES,
    KINDS,
    ROWS,
    ROWS_PER_SHARD,
    check,
    expected_rows,
    finish,
    kill_again_and_again,
    manifests,
    said,
    start,
    write_inputs,
)

from clipmill.datasets import read_dataset, read_failures
from clipmill.jobs.resume import read_previous_run

BEAM, SPARK = ENGINES["beam"], ENGINES["spark"]


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_inputs(tmp_path)


def test_an_undisturbed_job_is_what_is_compared_with(folder):
    """Without `--resume` and without a kill, on Beam in one process."""
    given = ["embed", folder / "in.jsonl", "-o", folder / "out", "--model", "fake::dim=8"]
    assert run(*given, "--rows-per-shard", ROWS_PER_SHARD) == 0
    check(folder / "out")


@pytest.mark.parametrize(
    ("engine", "kind"),
    [
        *(("beam", kind) for kind in KINDS),
        # all processes of Spark are killed below, and Beam goes on
        *(pytest.param("spark", kind, marks=pytest.mark.spark) for kind in KINDS if kind != "all"),
    ],
)
def test_a_job_that_is_killed_loses_and_repeats_nothing(folder, engine, kind):
    """The run that is not killed is on Beam in one process, which starts faster; `make soak` has the same engine."""
    kill_again_and_again(folder, engine, kills=1, moments=random.Random(kind), kinds=(kind,), end_on=())


@pytest.mark.spark
def test_a_job_begun_on_one_engine_goes_on_on_the_other(folder):
    output = folder / "out"
    process = start(folder, output)
    while len(manifests(output)) < 3:
        assert process.poll() is None, said(folder)
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    whole = manifests(output)
    assert read_previous_run(str(output)) is not None
    assert finish(folder, output, *SPARK) == 0, said(folder)
    assert whole.items() <= manifests(output).items()
    check(output)


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param([([], -signal.SIGKILL), ([], -signal.SIGKILL), ([], 0)], id="beam in one process"),
        pytest.param([([], -signal.SIGKILL), (BEAM, 1), ([], 0)], id="beam"),
        pytest.param([([*SPARK[:-1], "local[2,4]"], 0)], id="spark that retries", marks=pytest.mark.spark),
    ],
)
def test_a_row_that_kills_its_process_becomes_a_failure(folder, runs):
    """After two deaths at its shard, the third process isolates it; Spark, which retries, needs one job for that."""
    output = folder / "out"
    for options, code in runs:
        assert finish(folder, output, *options, factory="deadly") == code, said(folder)
        if code == 1:
            assert "a worker process died" in said(folder) and "--resume" in said(folder)
    rows = {row["id"]: row["embedding"] for row in read_dataset(str(output)).to_pylist()}
    assert rows == expected_rows(without=5)
    failures = {failure["row"]: failure["code"] for failure in read_failures(str(output))}
    assert failures == {**{str(n): "empty" for n in range(0, ROWS, 9)}, "5": "killed"}


@pytest.mark.spark
def test_a_row_that_kills_a_worker_of_spark_ends_the_command(folder):
    """Where the engine does not try again: what happened, and the way out."""
    assert finish(folder, folder / "out", *SPARK, factory="deadly") == 1
    assert "a worker process died" in said(folder) and "--resume" in said(folder)
