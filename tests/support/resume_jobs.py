"""Jobs that were killed, for tests: begun, gone on with, and what they leave."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import job_options
import numpy as np
import pytest
from pictures import encode

from clipmill.datasets import finish_job, plan_shards, read_dataset, read_failures
from clipmill.datasets.inputs.shards import Shard
from clipmill.encoders import EncoderSpec
from clipmill.jobs import Job, embed_shard, read_previous_run, start_job
from clipmill.jobs.resume import Progress

SPEC = EncoderSpec("fake::dim=4", device="cpu")
ROWS = 2


@pytest.fixture(params=["local", "memory"])
def directory(request, tmp_path) -> Iterator[str]:
    """A place that is not there yet, on this machine and on a file system behind fsspec."""
    if request.param == "local":
        yield str(tmp_path / "deep" / "dataset")
        return
    url = f"memory://{uuid.uuid4().hex}/dataset"
    yield url
    fsspec.filesystem("memory").rm(url.rpartition("/")[0], recursive=True)


@pytest.fixture
def texts(tmp_path) -> Path:
    """Nine texts, of which one is empty: five shards."""
    return write_texts(tmp_path / "in.jsonl", 9)


def write_texts(path: Path, rows: int) -> Path:
    lines = [json.dumps({"id": f"{path.stem}-{n}", "text": "" if n == 4 else "x" * (n + 1)}) for n in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_photographs(folder: Path, names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.png").write_bytes(encode(np.full((3, 3, 3), ord(name), np.uint8)))
    return folder


def begin(
    directory: str, *inputs: object, resume: bool = True, spec: EncoderSpec = SPEC, rows: int = ROWS, **settings: object
) -> tuple[Job, Progress]:
    """Begin a job, or go on with it, as the command line does."""
    named = [str(given) for given in inputs]
    previous = read_previous_run(directory) if resume else None
    shards = plan_shards(named, rows_per_shard=rows, previous=previous.plan if previous else ())
    job = job_options.plan(spec, directory, shards, **settings)
    progress = start_job(job, shards, inputs=named, arguments={"rows_per_shard": rows}, previous=previous)
    return dataclasses.replace(job, weights_sha256=progress.weights), progress


def work(job: Job, shards: list[Shard]) -> None:
    for shard in shards:
        embed_shard(shard, job)


def undisturbed(directory: str, *inputs: object, **settings: object) -> list[dict]:
    job, progress = begin(directory, *inputs, resume=False, **settings)
    work(job, progress.to_do)
    finish_job(directory)
    return contents(directory)


def contents(directory: str) -> list[dict]:
    """Return the rows and failures of a dataset, by key; each row has its own line."""
    rows = read_dataset(directory).to_pylist()
    return sorted([*rows, *read_failures(directory)], key=lambda row: str(row["id"]))


def begun(directory: str, *inputs: object, done: int = 2, **settings: object) -> Job:
    """Leave a job that died after so many shards."""
    job, progress = begin(directory, *inputs, **settings)
    work(job, progress.to_do[:done])
    return job
