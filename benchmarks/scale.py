"""Time and memory of a driver for jobs of many shards and many files, without a model.

    python benchmarks/scale.py finish --shards 100000     the end of a job, its resumption and its summary
    python benchmarks/scale.py plan --files 1000000       listing files, and cutting them into shards

Both write small files below a folder (--folder, by default in the temporary directory), and delete them. Each step runs
in a process of its own. It prints seconds, CPU seconds (which a shared machine disturbs less), and the peak of the
process's memory above what it held when everything was imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

_SIGNATURE = "0123456789abcdef"

_STEP = """
import json, resource, sys, time
from clipmill.datasets import finish_job, plan_shards, summarise
from clipmill.datasets.dataset import count_finished
from clipmill.datasets.inputs.planning import cut_inputs, input_files, read_plan
from clipmill.jobs import read_previous_run
from clipmill.jobs.resume import look_back

def look(directory):
    previous = read_previous_run(directory)
    return look_back(directory, previous.plan, previous).done

def plan(directory):
    return len(cut_inputs(input_files([directory])))

step, directory = sys.argv[1:]
do = {
    "finish": lambda: finish_job(directory).shards,
    "resume": lambda: look(directory),
    "summarise": lambda: summarise(directory).shards,
    "count": lambda: count_finished(directory),
    "plan": lambda: plan(directory),
    "list": lambda: sum(1 for _ in input_files([directory])),
}[step]
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1024
wall, cpu = time.perf_counter(), time.process_time()
found = do()
print(json.dumps({
    "found": found,
    "seconds": time.perf_counter() - wall,
    "cpu_seconds": time.process_time() - cpu,
    "peak_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
}))
"""


def measure(step: str, directory: Path) -> dict[str, Any]:
    """Do a step in a process of its own; return what it found, its seconds and its memory."""
    command = [sys.executable, "-c", _STEP, step, str(directory)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(printed)
    return found


def show(step: str, found: dict[str, Any]) -> None:
    """Print a line of the table."""
    click.echo(
        f"| {step} | {found['found']:,} | {found['seconds']:.1f} s | {found['cpu_seconds']:.1f} s "
        f"| {found['peak_mb']:.0f} MB |"
    )


def write_dataset(directory: Path, shards: int) -> None:
    """Write a dataset that lacks its end: a plan, and a file of rows and a manifest for each shard."""
    from clipmill.datasets import Shard, write_job
    from clipmill.datasets.inputs.planning import write_plan
    from clipmill.files.folder import Folder

    folder = Folder.of(directory)
    folder.make("_manifest")
    plan = [
        Shard(f"{n:05d}-{n:08x}", "jsonl", (f"/data/captions/{n // 100:05d}.jsonl",), start=n % 100 * 1024)
        for n in range(shards)
    ]
    write_job(str(directory), {"signature": _SIGNATURE}, shards=shards)
    write_plan(folder, plan)
    for shard in plan:
        name = f"part-{shard.name}.parquet"
        manifest = {
            "name": shard.name,
            "shard": shard.identity(),
            "signature": _SIGNATURE,
            "files": [{"name": name, "bytes": 4}],
            "input_rows": 1024,
            "rows": 1020,
            "failed_rows": 4,
            "failed": {"empty": 4},
            "embedded": 1020,
            "batch_rows": {"32": 32},
            "first_row_at": 1795986015.3,
            "last_row_at": 1795986025.3,
            "process": f"host-{hash(shard.name) % 100}:1",
            "run": "8f68cd0a",
            "loads": 1,
            "seconds": 10.0,
            "resolved": {"runtime": "openvino", "precision": "bf16", "weights_sha256": "0" * 64},
        }
        (directory / name).write_bytes(b"PAR1")
        (directory / "_manifest" / f"part-{shard.name}.json").write_text(json.dumps(manifest))


def write_files(directory: Path, files: int, in_folder: int) -> None:
    """Write empty images, so many in a folder."""
    for number in range(files):
        below = directory / f"{number // in_folder:05d}"
        if number % in_folder == 0:
            below.mkdir(parents=True)
        os.close(os.open(below / f"{number:09d}.jpg", os.O_CREAT | os.O_WRONLY))


@click.group()
def main() -> None:
    """Measure a driver."""


@main.command()
@click.option("--shards", default=100_000, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path))
def finish(shards: int, folder: Path | None) -> None:
    """Measure the end of a job."""
    with tempfile.TemporaryDirectory(dir=folder) as home:
        directory = Path(home) / "dataset"
        write_dataset(directory, shards)
        click.echo("| step | shards | time | CPU | memory |\n|---|---|---|---|---|")
        for step in ("count", "resume", "finish", "summarise"):
            show(step, measure(step, directory))


@main.command()
@click.option("--files", default=1_000_000, show_default=True)
@click.option("--in-folder", default=1000, show_default=True, help="Files in a folder.")
@click.option("--folder", type=click.Path(path_type=Path))
def plan(files: int, in_folder: int, folder: Path | None) -> None:
    """Measure listing and planning."""
    with tempfile.TemporaryDirectory(dir=folder) as home:
        directory = Path(home) / "photographs"
        started = time.perf_counter()
        write_files(directory, files, in_folder)
        click.echo(f"wrote {files:,} files in {time.perf_counter() - started:.1f} s")
        click.echo("| step | files or shards | time | CPU | memory |\n|---|---|---|---|---|")
        for step in ("list", "plan"):
            show(step, measure(step, directory))


if __name__ == "__main__":
    main()
