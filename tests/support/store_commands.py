"""Commands on a failing object store, in processes of their own, on both engines; and two of them at once."""

from __future__ import annotations

import collections
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import kills
import pytest
from object_store import Faults, ObjectStore
from resume_jobs import contents
from store_jobs import BUCKET, KINDS, put_texts, use

from clipmill.datasets import read_failures, summarise
from clipmill.encoders.testing import fake_text_vector

ROWS = 24
OPTIONS = ["--model", "fake::dim=8", "--device", "cpu"]
_MOST_STARTS = 20


def command_with_faults(
    draw: random.Random, folder: Path, engine: str, monkeypatch: pytest.MonkeyPatch, *, share: float = 0.02
) -> dict[str, int]:
    """Embed, skip, index and search in a failing store, whose drivers retry as they do for users.

    Args:
        draw: Draws the faults.
        folder: For what the commands say.
        engine: A key of `kills.ENGINES`.
        monkeypatch: Sets the store for this process.
        share: Share of requests that fail in each way.
    """
    counts: collections.Counter[str] = collections.Counter()
    with ObjectStore(BUCKET, seed=draw.random(), faults=Faults(dict.fromkeys(KINDS, share))) as store:
        use(store, monkeypatch)
        environment = {**os.environ, **store.environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment.pop("AWS_MAX_ATTEMPTS")

        def succeed(verb: str, *given: str) -> None:
            """Start a command until it ends well; before that, it says what went wrong in a line."""
            for _ in range(_MOST_STARTS):
                counts["starts"] += 1
                command = [sys.executable, "-m", "clipmill", verb, *given]
                done = subprocess.run(command, check=False, env=environment, cwd=folder, capture_output=True, text=True)
                if done.returncode == 0:
                    return
                counts["errors"] += 1
                assert done.returncode in (1, 2) and "Error: " in done.stderr, done.stderr
            raise AssertionError(done.stderr)

        put_texts(store, "a", ROWS)
        out, more, index = (f"s3://{BUCKET}/{name}" for name in ("out", "more", "index"))
        with_engine = [*OPTIONS, "--rows-per-shard", "6", *kills.ENGINES[engine]]
        succeed("embed", f"s3://{BUCKET}/in", "-o", out, "--resume", *with_engine)
        check(store, out, ROWS)
        put_texts(store, "b", 5)
        succeed("embed", f"s3://{BUCKET}/in", "-o", more, "--resume", "--skip-existing", out, *with_engine)
        with store.without_faults():
            found = summarise(more)
            assert (found.complete, found.input_rows, found.rows) == (True, ROWS + 5, 4)
            assert found.skipped == sum(n % 5 != 0 for n in range(ROWS))
        succeed("index", out, "-o", index, "--overwrite")
        succeed("search", index, "xx", "--top-k", "1")
        succeed("summary", out)
        succeed("report", out, "-o", f"s3://{BUCKET}/page.html", "--overwrite")
        assert store.objects(BUCKET)["page.html"].rstrip().endswith(b"</html>")
        counts.update(store.counts)
    return dict(counts)


def check(store: ObjectStore, output: str, rows: int) -> None:
    """Compare a dataset with what the fake makes of `put_texts`."""
    with store.without_faults():
        made = {row["id"]: row.get("embedding") for row in contents(output)}
        expected = {f"a-{n}": fake_text_vector("x" * (n + 1), 8).tolist() if n % 5 else None for n in range(rows)}
        assert made == expected and summarise(output).complete
        assert all(failure["code"] == "empty" for failure in read_failures(output))


def two_commands(draw: random.Random, folder: Path, engine: str) -> dict[str, int]:
    """Start a command twice, at almost the same time; at least one ends well, and the other one does or is refused."""
    kills.write_inputs(folder)
    output, counts = folder / "out", collections.Counter(pairs=1)
    processes = []
    for number in range(2):
        place = folder / str(number)
        place.mkdir()
        command = [sys.executable, "-m", "clipmill", "embed", str(folder / "in.jsonl"), "-o", str(output), "--resume"]
        command += ["--model", "custom:resume_kills_encoders:slow", "--rows-per-shard", str(kills.ROWS_PER_SHARD)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
        with (place / "said").open("w") as said:
            processes.append(
                subprocess.Popen(
                    [*command, *kills.ENGINES[engine]], env=environment, stdout=said, stderr=subprocess.STDOUT
                )
            )
        time.sleep(draw.random() * 2)
    codes = [process.wait(timeout=300) for process in processes]
    for number, code in enumerate(codes):
        said_there = (folder / str(number) / "said").read_text()
        if code == 0:
            counts["ended well"] += 1
            continue
        assert code == 2 and "another job" in said_there, said_there
        counts["refused"] += 1
    assert counts["ended well"]
    kills.check(output)
    return dict(counts)
