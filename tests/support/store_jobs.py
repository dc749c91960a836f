"""Whole jobs on an object store that fails: what must hold while they are started again and again, and at their end."""

from __future__ import annotations

import collections
import io
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from object_store import Faults, ObjectStore
from resume_jobs import SPEC, contents, work
from storage_jobs import do_job

from clipmill.datasets import finish_job, plan_shards, summarise
from clipmill.errors import ClipmillError
from clipmill.files import lock, retries
from clipmill.files.lock import DirectoryLock
from clipmill.indexes import build_index, open_index
from clipmill.jobs import plan_job, read_previous_run, start_job

BUCKET = f"bucket-{os.getpid()}"
"""Unlike that of other processes: a job deletes temporary files of its output that earlier ones left."""
MOST_STARTS = 200
KINDS = ("throttled", "limited", "broken", "reset", "lost", "cut", "slow")


@pytest.fixture
def store(monkeypatch) -> Iterator[ObjectStore]:
    """A store that this process finds under s3://, with short pauses; its driver does not retry by itself."""
    with ObjectStore(BUCKET) as made:
        use(made, monkeypatch)
        yield made


def use(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    for name, value in {**store.environment, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(retries, "STORE_RETRIES", retries.RetryPolicy(attempts=4, pause_s=0.01))
    monkeypatch.setattr(lock, "_SETTLE_S", 0.01)
    s3fs.S3FileSystem.clear_instance_cache()


def put_texts(store: ObjectStore, name: str, rows: int, *, text: str = "x") -> None:
    """Put JSON lines into the store; every fifth text is empty."""
    lines = [json.dumps({"id": f"{name}-{n}", "text": text * (n + 1) if n % 5 else ""}) for n in range(rows)]
    store.put(BUCKET, f"in/{name}.jsonl", "\n".join(lines).encode())


def expected(store: ObjectStore, folder: Path, name: str) -> list[dict[str, Any]]:
    """Return what an undisturbed job makes of the input, on the local disk."""
    folder.mkdir(parents=True)
    for key, data in store.objects(BUCKET).items():
        if key.startswith("in/"):
            (folder / key.removeprefix("in/")).write_bytes(data)
    do_job(str(folder / name), str(folder / "*.jsonl"), spec=SPEC, rows=3)
    return contents(str(folder / name))


def check_whole(store: ObjectStore, below: str) -> None:
    """Check that every object of a dataset can be read, and that a manifest has the files that it names.

    While a dataset moves to its place, they may be there already.
    """
    there = store.objects(BUCKET)
    for key, data in there.items():
        if key.startswith(f"{below}/") and key.endswith(".parquet"):
            pq.ParquetFile(io.BytesIO(data)).read()
        elif key.startswith(f"{below}/") and key.endswith((".json", ".jsonl")):
            said = [json.loads(line) for line in data.splitlines()] if key.endswith(".jsonl") else json.loads(data)
            folder, found, _ = key.partition("_manifest/")
            for file in said["files"] if found else ():
                places = [place + file["name"] for place in (folder, folder.removesuffix("_next/"))]
                assert file["bytes"] in [len(there.get(place, b"")) for place in places], (key, file)


def persist(run: Callable[[], Any], store: ObjectStore, check: Callable[[], None], counts: collections.Counter) -> Any:
    """Run something until it succeeds. Each error must be one of clipmill; `check` holds after each.

    Between two starts, listings become current: a process takes longer to start.
    """
    for _ in range(MOST_STARTS):
        counts["starts"] += 1
        try:
            return run()
        except ClipmillError as err:
            assert "s3://" in str(err), err
            counts["errors"] += 1
        with store.without_faults():
            check()
        time.sleep(store.faults.stale_s)
    raise AssertionError(f"no success in {MOST_STARTS} starts")


def job_with_faults(
    draw: random.Random,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    rows: int,
    share: float,
    stale_s: float = 0.0,
    index: bool = True,
) -> dict[str, int]:
    """Embed, replace and index in a failing store; compare with an undisturbed job.

    Args:
        draw: Draws the faults.
        folder: For what is compared.
        monkeypatch: Sets the store for this process.
        rows: Rows of each file of the input; three make a shard.
        share: Share of requests that fail in each way.
        stale_s: How old listings are, at most.
        index: Whether an index is built.

    Returns:
        Counts of requests, faults, starts and errors.
    """
    counts: collections.Counter[str] = collections.Counter()
    output = f"s3://{BUCKET}/out"
    with ObjectStore(BUCKET, seed=draw.random()) as store:
        use(store, monkeypatch)
        put_texts(store, "a", rows)
        time.sleep(stale_s)
        store.faults = Faults(dict.fromkeys(KINDS, share), slow_s=0.02, stale_s=stale_s)

        def embed(pattern: str, if_exists: str) -> None:
            with DirectoryLock(output):
                previous = read_previous_run(output) if if_exists == "resume" else None
                given = [f"s3://{BUCKET}/in/{pattern}"]
                shards = plan_shards(given, rows_per_shard=3, previous=previous.plan if previous else ())
                job = plan_job(SPEC, output, shards)
                progress = start_job(job, shards, inputs=given, if_exists=if_exists, previous=previous)
                work(job, progress.to_do)
                finish_job(output)

        def check_output() -> None:
            check_whole(store, "out")

        persist(lambda: embed("a.jsonl", "resume"), store, check_output, counts)
        with store.without_faults():
            made = contents(output)
            assert made == expected(store, folder / "first", "out")
            assert summarise(output).complete
            put_texts(store, "b", rows, text="y")
            both = expected(store, folder / "second", "out")

        def check_old() -> None:
            check_output()
            if "out/_next/_SUCCESS" not in store.objects(BUCKET):
                assert contents(output) in (made, both)  # an error may come after the last step

        time.sleep(stale_s)
        persist(lambda: embed("*.jsonl", "replace"), store, check_old, counts)
        with store.without_faults():
            assert contents(output) == both
            left = {key.split("/")[1] for key in store.objects(BUCKET) if key.startswith("out/")}
            assert {name for name in left if not name.startswith("part-")} == (
                {"_SUCCESS", "_job.json", "_plan.json", "_plan", "_manifest", "_failures"}
            )
        if index:
            place, vectors = f"s3://{BUCKET}/index", [row["embedding"] for row in both if "embedding" in row]
            persist(lambda: build_index([output], place, overwrite=True), store, lambda: None, counts)
            with store.without_faults():
                found = open_index(place).search([vectors[1]], 1)
            assert found.positions.shape == (1, 1) and abs(float(found.scores[0][0]) - 1) < 1e-5
        counts.update(store.counts)
    return dict(counts)


def on_store(
    check: Callable[[random.Random, Path, str, pytest.MonkeyPatch], dict[str, int]],
    draw: random.Random,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, int]:
    """Run a check of a dataset's directory on a store of its own."""
    with ObjectStore(BUCKET) as store:
        use(store, monkeypatch)
        return {**check(draw, folder, f"s3://{BUCKET}/out", monkeypatch), "requests": store.counts["requests"]}
