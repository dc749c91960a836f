"""What is scraped of a job is what its summary says, on both engines: in a file, on a port, and of each worker."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from cli_helpers import run
from prometheus_client.parser import text_string_to_metric_families
from scrapes import samples

from clipmill.datasets.dataset import read_manifests, summarise
from clipmill.metrics.counts import METRICS

MODEL = "fake::dim=8"


@pytest.fixture
def lines(tmp_path) -> Path:
    """30 texts, of which some are empty, one is null and three are equal; two lines are broken."""
    texts = ["", None, "equal", "equal", "equal", *(f"text {n}" for n in range(25))]
    rows = [json.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts)]
    (tmp_path / "in.jsonl").write_text("\n".join([*rows[:10], "{broken", *rows[10:], "broken}"]) + "\n")
    return tmp_path / "in.jsonl"


def check(found: dict[tuple[str, ...], float], dataset: str) -> None:
    """Compare a scrape with a job's summary and with the sums of its manifests."""
    summary, manifests = summarise(dataset), read_manifests(dataset)
    assert summary.complete and summary.failed and summary.embedded
    expected = {
        "rows_in": summary.input_rows,
        "rows_failed": summary.failed_rows,
        "rows_written": summary.rows,
        "embedded": summary.embedded,
        "scored": summary.scored,
        "nulls": summary.nulls,
        "given_vectors": summary.given,
        "truncated_texts": summary.truncated_texts,
        "cache_hits": summary.cache_hits,
        "cache_misses": summary.cache_misses,
        "models_loaded": summary.loads,
        "shards": summary.shards,
        **{m.name: sum(one[m.manifest] for one in manifests) for m in METRICS if m.name.endswith("_msec")},
        "batches": sum(one["batches"] for one in manifests),
        "out_of_memory_retries": sum(one["out_of_memory_retries"] for one in manifests),
    }
    assert {name: found[f"clipmill_{name}_total",] for name in expected} == pytest.approx(expected)
    failed = {key[1]: number for key, number in found.items() if key[0] == "clipmill_failed_total" and number}
    assert failed == summary.failed
    assert found["clipmill_shards_planned",] == summary.shards
    assert found["clipmill_batch_rows_count",] == expected["batches"]
    sizes = [(int(rows), calls) for one in manifests for rows, calls in one["batch_rows"].items()]
    assert found["clipmill_batch_rows_sum",] == sum(rows * calls for rows, calls in sizes)


@pytest.mark.parametrize("engine", ["beam", pytest.param("spark", marks=pytest.mark.spark)])
def test_the_file_of_a_job_says_what_its_summary_says(tmp_path, lines, engine) -> None:
    """In a process of its own, as a user starts it: the Spark session of the tests is not the command's to stop."""
    command = ["embed", lines, "-o", tmp_path / "out", "--model", MODEL, "--rows-per-shard", 8, "--column", "text=text"]
    command += ["--metrics", tmp_path / "m.prom", "--engine", engine]
    workers = tmp_path / "workers"
    workers.mkdir()
    if engine == "spark":
        command += ["--master", "local[2]", "--conf", f"spark.executorEnv.CLIPMILL_METRICS_FILE={workers}/{{pid}}.prom"]
    done = subprocess.run(
        [sys.executable, "-m", "clipmill", *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = samples((tmp_path / "m.prom").read_text())
    check(found, str(tmp_path / "out"))
    assert (found["clipmill_failed_total", "empty"], found["clipmill_failed_total", "malformed"]) == (1, 2)
    assert (found["clipmill_rows_in_total",], found["clipmill_nulls_total",]) == (32, 1)
    if engine == "spark":
        check_workers(workers, found)


def check_workers(folder: Path, found: dict[tuple[str, ...], float]) -> None:
    """Compare what each worker wrote for itself, as its environment told it, with the whole.

    A worker that is killed at the end may have counted something in its last half second that it did not write.
    """
    pages = [text_string_to_metric_families(path.read_text()) for path in folder.iterdir()]
    rows = [s for page in pages for family in page for s in family.samples if s.name == "clipmill_rows_in_total"]
    assert {path.stem for path in folder.iterdir()} == {sample.labels["pid"] for sample in rows}
    assert all(sample.value for sample in rows)
    assert sum(sample.value for sample in rows) <= found["clipmill_rows_in_total",]


def test_ranking_and_classifying_jobs_have_a_file_too(tmp_path, lines) -> None:
    rows = [{"id": "1", "q": "a", "c": ["b", "", "c"]}, {"id": "2", "q": "", "c": ["b"]}]
    (tmp_path / "rank.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for verb, *more in (
        ("rank", tmp_path / "rank.jsonl", "--query-column", "q", "--candidates-column", "c"),
        ("classify", lines, "--labels", "x,y"),
    ):
        out, file = tmp_path / verb, tmp_path / f"{verb}.prom"
        assert run(verb, *more, "-o", out, "--model", MODEL, "--metrics", file, "--json") == 0
        found = samples(file.read_text())
        check(found, str(out))
        assert found["clipmill_scored_total",] > 0


SLOW = """
import time
from clipmill.encoders.testing import FakeModel

class Slow(FakeModel):
    def encode(self, modality, payloads):
        time.sleep(0.4)
        return super().encode(modality, payloads)

def make():
    return Slow({"dim": "8"})
"""


def test_a_job_is_served_while_it_runs(tmp_path, lines) -> None:
    """Scrapes in the middle say the shards that are done, and never fewer than before."""
    (tmp_path / "slow_model.py").write_text(SLOW)
    port = _free_port()
    command = ["embed", lines, "-o", tmp_path / "out", "--model", "custom:slow_model:make", "--rows-per-shard", "4"]
    job = subprocess.Popen(
        [sys.executable, "-m", "clipmill", *map(str, command), "--metrics-port", str(port)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = []
    while job.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                seen.append(samples(answer.read().decode()))
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    assert job.returncode == 0, job.stderr.read()
    shards = [found["clipmill_shards_total",] for found in seen]
    assert shards == sorted(shards) and any(0 < number < 8 for number in shards)
    for found in seen:
        assert found["clipmill_shards_planned",] == 8
        assert found["clipmill_rows_in_total",] == 4 * found["clipmill_shards_total",]


def test_what_an_older_dataset_counted_is_not_counted(tmp_path, lines) -> None:
    command = [
        "embed",
        lines,
        "-o",
        tmp_path / "out",
        "--model",
        MODEL,
        "--metrics",
        tmp_path / "m.prom",
        "--overwrite",
    ]
    for _ in range(2):
        assert run(*command, "--rows-per-shard", "8") == 0
        check(samples((tmp_path / "m.prom").read_text()), str(tmp_path / "out"))


def test_a_job_that_fails_leaves_what_it_did(tmp_path, lines) -> None:
    command = ["embed", lines, "-o", tmp_path / "out", "--model", MODEL, "--metrics", tmp_path / "m.prom"]
    assert run(*command, "--fail-fast", "--rows-per-shard", "1") == 1
    found = samples((tmp_path / "m.prom").read_text())
    assert found["clipmill_shards_total",] == summarise(str(tmp_path / "out")).shards < 32
    assert found["clipmill_rows_in_total",] == found["clipmill_shards_total",]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metrics", "gs://bucket/m.prom"], "--metrics 'gs://bucket/m.prom' is no file of this machine"),
        (["--metrics", "/nowhere/m.prom"], "--metrics /nowhere/m.prom cannot be written: No such file or directory"),
        (["--metrics", "out/m.prom"], "lies in the output"),
        (["--metrics-port", "0"], "--metrics-port"),
        (["--metrics-port", "TAKEN"], "cannot be had: Address already in use; choose another port or address"),
    ],
    ids=["url", "nowhere", "inside", "zero", "taken"],
)
def test_what_cannot_be_written_or_served_runs_no_job(tmp_path, lines, monkeypatch, capsys, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        given = [str(taken.getsockname()[1]) if option == "TAKEN" else option for option in options]
        assert run("embed", lines, "-o", "out", "--model", MODEL, *given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_prometheus_client_no_job_runs(tmp_path, lines, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    for option, value in (("--metrics", tmp_path / "m.prom"), ("--metrics-port", _free_port())):
        assert run("embed", lines, "-o", tmp_path / "out", "--model", MODEL, option, value) == 1
        said = capsys.readouterr().err
        assert f"{option} needs 'prometheus_client'" in said and "pip install 'clipmill[metrics]'" in said
    assert not (tmp_path / "out").exists()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("0.0.0.0", 0))
        return int(one.getsockname()[1])
