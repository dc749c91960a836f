"""Pipelines on the runner that retries bundles, and what they must leave: every row once, whatever was drawn."""

from __future__ import annotations

import collections
import pickle
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import job_options
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from interleaved import Work, step_one
from retrying_runner import RetryingRunner

from clipmill.datasets import finish_job, plan_shards, read_dataset, read_failures, summarise
from clipmill.encoders import Document, EncoderSpec
from clipmill.encoders.testing import fake_text_vector
from clipmill.indexes import IndexOptions, build_index, open_index
from clipmill.jobs import start_job
from clipmill.transforms import Embed, EmbedShards, IndexShards, Rank, WriteEmbeddings

ROWS = 16
Counts = collections.Counter[str]


def documents(word: str = "text") -> list[Document]:
    """Return documents, of which every fifth is empty."""
    return [Document(id=f"{word} {n}", text=f"{word} {n}" if n % 5 else "") for n in range(ROWS)]


def good(word: str = "text") -> list[str]:
    return sorted(f"{word} {n}" for n in range(ROWS) if n % 5)


def bad(word: str = "text") -> list[str]:
    return sorted(f"{word} {n}" for n in range(ROWS) if not n % 5)


def write(runner: RetryingRunner, out: Path, word: str = "text", **options: Any) -> beam.Pipeline:
    """Return a pipeline that embeds documents and writes them."""
    p = beam.Pipeline(runner=runner)
    _ = p | beam.Create(documents(word)) | Embed("fake::dim=8") | WriteEmbeddings(out, rows_per_file=3, **options)
    return p


def check_written(out: Path, word: str = "text", *, counts: bool = True) -> None:
    """Compare a dataset with what an undisturbed job writes; `counts` compares its manifests, too."""
    rows = read_dataset(str(out)).to_pylist()
    assert sorted(row["id"] for row in rows) == good(word)
    for row in rows:
        np.testing.assert_array_equal(row["embedding"], fake_text_vector(row["id"]))
    assert sorted(failure["row"] for failure in read_failures(str(out))) == bad(word)
    if counts:
        found = summarise(str(out))
        assert found.complete
        assert (found.input_rows, found.rows, found.failed) == (ROWS, len(good()), {"empty": len(bad())})


def check_if_whole(out: Path, *words: str) -> Callable[[], None]:
    """Return a look at a dataset: one that says that it is whole must be one of those with these words."""

    def look() -> None:
        if (out / "_SUCCESS").exists():
            names = sorted(read_dataset(str(out))["id"].to_pylist())
            assert names in [good(word) for word in words], "a reader sees a part"

    return look


def write_once(seed: object, folder: Path) -> Counts:
    """`WriteEmbeddings` into an empty directory, with attempts that outlive the job."""
    out = folder / "out"
    runner = RetryingRunner(seed, out, look=check_if_whole(out, "text"))
    write(runner, out).run()
    return _checked(runner, lambda: check_written(out))


def write_over(seed: object, folder: Path) -> Counts:
    """`WriteEmbeddings` over a dataset, which is read until the new one is whole."""
    out = folder / "out"
    before = RetryingRunner(f"{seed} before", out)
    write(before, out, "old").run()
    runner = RetryingRunner(seed, out, look=check_if_whole(out, "old", "text")).after(before)
    write(runner, out, if_exists="replace").run()
    return _checked(runner, lambda: check_written(out))


def orphan(seed: object, folder: Path) -> Counts:
    """A job goes on after its driver has died, and its successor starts: it ends well, whatever the orphan does."""
    out, draw = folder / "out", random.Random(f"{seed} orphan")
    policies = ("replace", "replace_unfinished")
    old = draw.random() < 0.3
    before = RetryingRunner(f"{seed} before", out)
    if old:
        write(before, out, "old").run()
    look = check_if_whole(out, "orphan", "text", *(["old"] if old else []))
    first, second = (RetryingRunner(f"{seed} {number}", out, look=look) for number in range(2))
    first.after(before)
    if_exists = "replace" if old else draw.choice(policies)
    jobs = [Work(write(first, out, "orphan", if_exists=if_exists).run, str(out))]
    described = out / "_next" / "_job.json" if old else out / "_job.json"
    while not described.exists():
        jobs[0].step()
    for _ in range(draw.randrange(400)):
        if not jobs[0].is_over:
            jobs[0].step()
    if jobs[0].is_over:
        if_exists = "replace"
    jobs.append(Work(write(second, out, if_exists=if_exists).run, str(out)))
    while not jobs[1].is_over:
        step_one(jobs, draw)
    if jobs[1].error is not None:
        raise jobs[1].error
    check_written(out)
    while not jobs[0].is_over:  # by turns with what is left of the other one, which may hold a lock
        jobs[0].step()
        second.step_left()
    while any([first.step_left(), second.step_left()]):
        pass
    check_written(out)
    return first.counts + second.counts


def embed_shards(seed: object, folder: Path) -> Counts:
    """The shards of `clipmill embed`."""
    out, spec = folder / "out", EncoderSpec("fake::dim=8", device="cpu")
    table = pa.table({"id": [d.id for d in documents()], "text": [d.text for d in documents()]})
    pq.write_table(table, folder / "in.parquet", row_group_size=3)
    shards = plan_shards([str(folder / "in.parquet")], rows_per_shard=3)
    job = job_options.plan(spec, str(out), shards, reader={"text": "text", "id": "id"})
    start_job(job, shards)
    runner = RetryingRunner(seed, out, look=check_if_whole(out, "text"))
    p = beam.Pipeline(runner=runner)
    manifests = _each(p, shards) | EmbedShards(job)
    p.run()
    assert sorted(one["name"] for one in runner.output(manifests)) == sorted(shard.name for shard in shards)
    finish_job(str(out))
    return _checked(runner, lambda: check_written(out))


def index_shards(seed: object, folder: Path) -> Counts:
    """The shards of `clipmill index`, which must make the index that they make undisturbed."""
    data = folder / "data"
    vectors = np.random.default_rng(0).standard_normal((ROWS * 4, 8), np.float32)
    table = pa.table({"id": [str(n) for n in range(len(vectors))], "embedding": list(vectors)})
    data.mkdir()
    pq.write_table(table, data / "part-0.parquet", row_group_size=8)
    options = IndexOptions(column="embedding", rows_per_shard=8, queries=4, factory="IVF4,Flat")
    expected = build_index([str(data)], str(folder / "expected"), options)
    runners: list[RetryingRunner] = []

    def run(shards: Sequence[Any], job: Any) -> None:
        runners.append(runner := RetryingRunner(seed, folder / "index"))
        p = beam.Pipeline(runner=runner)
        _ = _each(p, shards) | IndexShards(job)
        p.run()

    found = build_index([str(data)], str(folder / "index"), options, run=run)
    (runner,) = runners

    def check() -> None:
        assert (found.rows, found.segments) == (expected.rows, found.segments)
        assert found.recall is not None and expected.recall is not None
        ours, theirs = (open_index(str(folder / name)) for name in ("index", "expected"))
        mine, other = ([hits.tolist() for hits in one.search(vectors[:8], k=5)] for one in (ours, theirs))
        assert mine == other

    return _checked(runner, check)


def _checked(runner: RetryingRunner, check: Callable[[], None]) -> Counts:
    """Check what a job left, and again after the attempts that outlive it."""
    check()
    runner.drain()
    check()
    return runner.counts


def _each(p: beam.Pipeline, shards: Sequence[Any]) -> beam.PCollection:
    pickled = p | beam.Create([pickle.dumps(shard) for shard in shards]) | beam.Reshuffle()
    return pickled | beam.Map(pickle.loads).with_output_types(Any)


def rows_once(seed: object, folder: Path) -> Counts:
    """`Embed` and `Rank`: what they output for bundles that count."""
    runner = RetryingRunner(seed, folder)
    p = beam.Pipeline(runner=runner)
    rows = p | beam.Create([{"id": d.id, "caption": d.text, "others": ["a", "bb"]} for d in documents()])
    embedded = rows | Embed("fake::dim=8", columns={"caption": "text"}, max_batch_rows=4)
    ranked = rows | Rank("fake::dim=8", query="caption", candidates="others", output="ranked")
    p.run()
    for pair in (embedded, ranked):
        assert sorted(row["id"] for row in runner.output(pair.rows)) == good()
        assert sorted(failed.row["id"] for failed in runner.output(pair.failures)) == bad()
    runner.drain()
    return runner.counts


SCENARIOS = {one.__name__: one for one in (write_once, write_over, orphan, embed_shards, index_shards, rows_once)}


def run_drawn(name: str, draw: random.Random, folder: Path, times: int) -> Counts:
    """Run a scenario with drawn seeds; a failure names its seed."""
    counts: Counts = collections.Counter()
    for number in range(times):
        seed = draw.randrange(10**9)
        below = folder / f"{name}-{number}"
        below.mkdir(parents=True)
        try:
            counts += SCENARIOS[name](seed, below)
        except BaseException as err:
            err.add_note(f"{name}, seed {seed}")
            raise
    return counts
