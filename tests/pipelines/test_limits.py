"""Limits of memory and open files: a clear line and exit code 1, and what was not done is resumed."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from clipmill.datasets import read_dataset
from clipmill.errors import ClipmillError, DeviceError
from clipmill.pipelines import limits
from clipmill.pipelines.engines import _failing_as, root_cause

MIB = 2**20


def _run(folder: Path, *more: str, memory: int | None = None, files: int | None = None) -> tuple[int, str]:
    """Run a command in a process with limits; return its exit code and what it said."""
    (folder / "in.jsonl").write_text("".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(8)))

    arguments = ["embed", "in.jsonl", "-o", "out", "--model", "fake::dim=4", "--device", "cpu", *more]
    program = (
        "import resource\n"
        f"for which, limit in ((resource.RLIMIT_AS, {memory}), (resource.RLIMIT_NOFILE, {files})):\n"
        "    if limit is not None:\n        resource.setrlimit(which, (limit, limit))\n"
        f"from clipmill.pipelines.cli import main\nmain({arguments})\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, timeout=60, check=False)
    return ended.returncode, ended.stderr.decode()


def test_a_limit_of_memory_ends_in_one_line_and_the_job_is_resumed(tmp_path: Path) -> None:
    """It is said before libraries are imported, some of which crash where they find no memory."""
    for mebibytes in (300, 450):
        code, said = _run(tmp_path, memory=mebibytes * MIB)
        assert code == 1 and "Traceback" not in said and len(said.splitlines()) <= 2
        assert f"Error: out of memory: this shell allows {mebibytes} MiB" in said and "ulimit -v" in said
    code, said = _run(tmp_path, "--resume")
    assert code == 0, said
    assert read_dataset(str(tmp_path / "out")).num_rows == 8


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libarrow.so.2500: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        SystemError("error return without exception set"),
    ],
)
def test_what_fails_under_a_limit_names_it_and_what_takes_less(monkeypatch: pytest.MonkeyPatch, error) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (600 * MIB, 600 * MIB))
    found = limits.memory_error(error)
    assert found is not None and str(found).startswith("out of memory")
    assert "ulimit -v is 614400 KiB" in str(found) and "--max-batch-rows" in str(found)


def test_few_open_files_are_refused_before_java_starts(tmp_path: Path) -> None:
    code, said = _run(tmp_path, "--engine", "spark", files=64)
    assert code == 1 and "ulimit -n" in said and "64 open files" in said
    assert "java" not in said.lower()


def test_no_limit_of_open_files_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    for hard, fits in ((resource.RLIM_INFINITY, True), (4096, True), (256, False)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, hard=hard: (64, hard))
        if fits:
            limits.check_open_files_for_spark()
            continue
        with pytest.raises(DeviceError, match="256 open files"):
            limits.check_open_files_for_spark()


def test_what_ran_out_in_a_worker_is_said_once() -> None:
    """Python prints no colon behind an error without a message."""
    said = "Traceback (most recent call last):\n  File x, line 1\nMemoryError\n\nduring the work of a bundle"
    assert root_cause(RuntimeError(said)) == "MemoryError"
    for text in (
        said,
        "pyarrow.lib.ArrowMemoryError: malloc of size 99 failed",
        "RuntimeError: can't start new thread",
    ):
        with pytest.raises(MemoryError, match="the Beam job failed: out of memory"), _failing_as("Beam"):
            raise RuntimeError(text)


def test_a_lost_server_of_a_runner_is_said_in_one_line() -> None:
    """An error of gRPC has many, and the caller's own thread of Beam prints a traceback beside it."""

    class Rendezvous(grpc.RpcError):
        def __str__(self) -> str:
            return '<_Rendezvous of RPC that ended with:\n\tstatus = UNAVAILABLE\n\tdetails = "Stream removed"\n>'

    lost = r"the server of the runner ended, or .* \(Stream removed\)$"
    with pytest.raises(ClipmillError, match=lost), _failing_as("Beam"):
        raise Rendezvous


def test_other_errors_are_none_of_memory() -> None:
    assert limits.memory_error(ValueError("a memory of summer")) is None
    assert limits.memory_error(SystemError("error return without exception set")) is None


@pytest.mark.parametrize(("engine", "flag"), [("Beam", "--setup_file"), ("Spark", "spark.pyspark.python")])
def test_a_worker_without_the_package_is_told_from_its_error(engine, flag):
    """Which interpreter workers run is set in another place than that of the command."""
    said = "PythonException: Traceback\nModuleNotFoundError: No module named 'clipmill'\n SQLSTATE: 38000"
    with pytest.raises(ClipmillError) as refused, _failing_as(engine):
        raise RuntimeError(said)
    assert flag in refused.value.hint
