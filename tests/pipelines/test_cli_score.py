"""`clipmill score`: one pair printed, jobs on both engines with rejected rows, resumed ones, reports, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import notes_of, picture_vector, run, write_pictures
from rank_expected import cosine_of
from report_helpers import look, page_of, text_of

from clipmill.datasets import read_dataset, read_failures, summarise
from clipmill.encoders.testing import fake_text_vector
from clipmill.metrics.counts import process_counts

MODEL = ("--model", "fake::scale=4.5&bias=-2.25")
ENGINES = ["beam", pytest.param("spark", marks=pytest.mark.spark)]
PAIRS = [("one", "one"), ("one", "xyz"), (None, "x"), ("", "x"), ("two", "two")]
OTHER = cosine_of(fake_text_vector("one"), fake_text_vector("xyz"))
LEAST = (1 + OTHER) / 2
COLUMNS = ("--a", "left", "--b", "right")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.parquet"
    left, right = zip(*PAIRS, strict=True)
    blobs = [bytes([n]) * 3 for n in range(5)]
    table = pa.table({"id": [f"r{n}" for n in range(5)], "left": left, "right": right, "blob": blobs})
    pq.write_table(table, path)
    return path


def rejected_of(out: Path) -> list[dict]:
    return pq.read_table(out / "_rejected").to_pylist()


# --- one pair ---------------------------------------------------------------------------------------------------------


def test_a_picture_and_a_text_are_printed(tmp_path, capsys):
    picture = write_pictures(tmp_path / "pictures") / "1.png"
    cosine = cosine_of(picture_vector(1), fake_text_vector("hi"))
    assert run("score", picture, "hi", *MODEL) == 0
    assert capsys.readouterr().out.split()[-2:] == ["hi", f"{cosine:.4f}"]
    for score, expected in (("cosine", cosine), ("clip_score", 2.5 * cosine), ("logit", 4.5 * cosine - 2.25)):
        assert run("score", picture, "hi", *MODEL, "--score", score, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found == {"model": MODEL[1], "a": str(picture), "b": "hi", score: pytest.approx(expected, abs=1e-5)}
    assert run("score", "one", "one", "--a-kind", "text", *MODEL) == 0
    assert capsys.readouterr().out.split()[-1] == "1.0000"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x.png",), "give two values to compare"),
        (("x.png", "hi", "--b-kind", "vector"), "--b-kind vector is for jobs"),
        (("gone.png", "hi"), "'gone.png': "),
        (("x", "", "--a-kind", "text"), "'': the text is empty"),
        (("x", "y", "--min-score", "0.5"), "--min-score has no effect without --output"),
        (
            ("x", "y", "--a-kind", "text", "--score", "sigmoid"),
            "no scale between text and text (--score",
        ),
        (("x", "y", "--a-kind", "audio"), "--a-kind 'audio'"),
        (("x", "y", "--skore", "logit"), "no such option: --skore"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_pairs_that_cannot_be_printed(arguments, said, capsys):
    assert run("score", *arguments, *MODEL) == 2
    assert said in capsys.readouterr().err


# --- jobs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_are_kept_rejected_or_failed_once(engine, pairs, tmp_path, capsys):
    """With all of their columns, values of bytes too; counted in the summary, the metrics and the manifests."""
    out = tmp_path / "out"
    before = process_counts()
    arguments = ("--min-score", LEAST, "--engine", engine, "--rows-per-shard", 2)
    assert run("score", pairs, "-o", out, *MODEL, *COLUMNS, *arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    counts = {name: found[name] for name in ("input_rows", "rows", "rejected", "failed_rows", "scored", "shards")}
    assert counts == {"input_rows": 5, "rows": 2, "rejected": 2, "failed_rows": 1, "scored": 3, "shards": 3}
    kept = read_dataset(str(out)).to_pylist()
    assert [(row["id"], row["similarity"], row["blob"]) for row in kept] == [
        ("r0", pytest.approx(1.0), b"\0\0\0"),
        ("r4", pytest.approx(1.0), b"\4\4\4"),
    ]
    assert "rejection" not in kept[0]
    low = {"id": "r1", "left": "one", "right": "xyz", "blob": b"\1\1\1", "similarity": pytest.approx(OTHER, abs=1e-6)}
    null = {"id": "r2", "left": None, "right": "x", "blob": b"\2\2\2", "similarity": None}
    assert rejected_of(out) == [{**low, "rejection": "below_min_score"}, {**null, "rejection": "no_score"}]
    assert [(one["row"], one["column"], one["code"]) for one in read_failures(str(out))] == [("r3", "left", "empty")]
    if engine == "beam":  # Spark's workers are other processes
        assert process_counts()["rows_rejected", ""] - before.get(("rows_rejected", ""), 0) == 2


def test_the_summary_says_how_many_and_where(pairs, tmp_path, capsys):
    out = tmp_path / "out"
    metrics = tmp_path / "m.prom"
    assert run("score", pairs, "-o", out, *MODEL, *COLUMNS, "--min-score", LEAST, "--metrics", metrics) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["rows", "rejected", "2"] in said and ["rejected", "in", f"{out}/_rejected/"] in said
    assert f'clipmill_rows_rejected_total{{dataset="{out}"}} 2.0' in metrics.read_text()


def test_json_lines_in_and_out(tmp_path):
    """Undeclared fields of rejected rows are kept too."""
    lines = [{"id": f"r{n}", "left": a, "right": b} for n, (a, b) in enumerate(PAIRS)]
    lines[1]["note"] = {"deep": 1}
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "out"
    named = ("--score", "clip_score", "--score-column", "clipscore", "--min-score", 2.5 * LEAST, "--format", "jsonl")
    assert run("score", tmp_path / "in.jsonl", "-o", out, *MODEL, *COLUMNS, *named) == 0
    (part,), (rejected,) = out.glob("part-*.jsonl"), (out / "_rejected").iterdir()
    kept = [json.loads(line) for line in part.read_text().splitlines()]
    assert [(row["id"], row["clipscore"]) for row in kept] == [("r0", 2.5), ("r4", 2.5)]
    assert rejected.suffix == ".jsonl"
    low, null = [json.loads(line) for line in rejected.read_text().splitlines()]
    assert (low["id"], low["tags"], low["rejection"]) == ("r1", {"note": {"deep": 1}}, "below_min_score")
    assert low["clipscore"] == pytest.approx(2.5 * OTHER, abs=1e-5)
    assert (null["id"], null["clipscore"], null["rejection"]) == ("r2", None, "no_score")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_resumed_job_ends_like_one_that_was_not_stopped(engine, pairs, tmp_path, capsys):
    """Shards whose rejected rows are gone or damaged are done again; none is there twice."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    arguments = ("score", pairs, *MODEL, *COLUMNS, "--min-score", LEAST, "--rows-per-shard", 1, "--engine", engine)
    for directory in (out, whole):
        assert run(*arguments, "-o", directory) == 0
    (out / "_SUCCESS").unlink()
    first, second = sorted((out / "_rejected").iterdir())
    first.unlink()
    second.write_bytes(b"cut")
    assert run(*arguments, "-o", out, "--resume") == 0
    assert "3 of 5 shards were done" in capsys.readouterr().err
    assert rejected_of(out) == rejected_of(whole)
    assert read_dataset(str(out)).equals(read_dataset(str(whole)))
    assert summarise(str(out)).rejected == 2
    assert run(*arguments, "-o", out, "--resume", "--score", "clip_score") == 2
    assert "score" in capsys.readouterr().err


def test_a_replaced_dataset_leaves_no_rejected_rows_behind(pairs, tmp_path):
    out = tmp_path / "out"
    arguments = ("score", pairs, "-o", out, *MODEL, *COLUMNS)
    assert run(*arguments, "--min-score", LEAST) == 0
    assert len(list((out / "_rejected").iterdir())) == 1
    assert run(*arguments, "--overwrite") == 0
    assert not list((out / "_rejected").glob("*")) and len(read_dataset(str(out))) == 4


def test_a_job_that_rejects_every_row_is_a_success(pairs, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("score", pairs, "-o", out, *MODEL, *COLUMNS, "--score", "logit", "--min-score", 99, "--b-kind", "text",
               "--a-kind", "image", "--max-failures", "100%") == 0  # fmt: skip
    assert notes_of(capsys.readouterr().err) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--a", "left"), "--a 'left' needs --b NAME"),
        ((), "a job needs --a NAME"),
        (("--a", "left", "--b", "left"), "--a 'left' and --b 'left' are the same column"),
        (("--a", "left", "--b", "gone"), "no column 'gone'"),
        ((*COLUMNS, "--min-score", "7"), "--min-score 7.0 is not a number from -1 to 1"),
        ((*COLUMNS, "--min-score", "nan"), "--min-score nan"),
        ((*COLUMNS, "--score", "dot"), "'dot' is not one of"),
        ((*COLUMNS, "--b-kind", "audio"), "--b-kind 'audio'"),
        ((*COLUMNS, "--score-column", "id"), "column 'id' exists already"),
        ((*COLUMNS, "--score-column", "rejection", "--min-score", "0"), "--score-column NAME"),
        ((*COLUMNS, "--keep-content"), "--keep-content is for documents"),
        (
            (*COLUMNS, "--a-kind", "text", "--b-kind", "text", "--score", "sigmoid"),
            "no scale between text and text (--score",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_jobs_that_cannot_work_are_refused(arguments, said, pairs, tmp_path, capsys):
    code = run("score", pairs, "-o", tmp_path / "out", *MODEL, *arguments)
    assert (code, said in capsys.readouterr().err) == (2, True)
    assert not list((tmp_path / "out").glob("part-*"))


def test_a_model_without_a_bias_is_refused_with_what_works(pairs, tmp_path, capsys):
    arguments = ("score", pairs, "-o", tmp_path / "out", *COLUMNS, "--model", "fake::scale=3", "--score", "sigmoid")
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert "no learnt bias, which --score 'sigmoid' needs" in said and "ViT-B-16-SigLIP::webli" in said


# --- reports ----------------------------------------------------------------------------------------------------------


def test_a_report_draws_all_scores_and_the_threshold(pairs, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("score", pairs, "-o", out, *MODEL, *COLUMNS, "--min-score", LEAST) == 0
    (found,) = look(out).pairs
    assert (found.kept, found.below, found.missing, found.scores.total) == (2, 1, 1, 3)
    assert (found.column.score, found.column.min_score, found.column.pair) == ("cosine", LEAST, ("left", "right"))
    page = page_of(tmp_path, out)
    said = text_of(page)
    counted = "2 rows kept, 2 rejected: 1 below the least score, 1 without a score"
    assert f"The cosine of left and right : {counted}, since a value is null." in said
    assert "2 rows rejected" in said and f"min_score {LEAST:g}" in page
    capsys.readouterr()
    assert run("report", out, "-o", tmp_path / "printed.html") == 0
    assert f"similarity: {counted}\n" in capsys.readouterr().out


def test_a_report_of_logits_without_a_threshold(tmp_path):
    """Their range follows from the rows."""
    pictures = write_pictures(tmp_path / "pictures")
    lines = [{"id": str(n), "left": f"{pictures}/{n}.png", "right": "hi"} for n in range(3)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    kinds = ("--a-kind", "image", "--score", "logit", "--allow-local-files")
    assert run("score", tmp_path / "in.jsonl", "-o", tmp_path / "out", *MODEL, *COLUMNS, *kinds) == 0
    (found,) = look(tmp_path / "out").pairs
    logits = [4.5 * cosine_of(picture_vector(n), fake_text_vector("hi")) - 2.25 for n in range(3)]
    assert (found.kept, found.below, found.scores.total) == (3, 0, 3)
    assert found.scores.edges[0] == pytest.approx(min(logits), abs=1e-3)
    assert found.scores.edges[-1] == pytest.approx(max(logits), abs=1e-3)
    assert "rejected" not in text_of(page_of(tmp_path, tmp_path / "out")).partition("Scores of pairs")[2]


def test_rejected_files_that_cannot_be_read_are_said(pairs, tmp_path):
    out = tmp_path / "out"
    assert run("score", pairs, "-o", out, *MODEL, *COLUMNS, "--min-score", LEAST) == 0
    next((out / "_rejected").iterdir()).write_bytes(b"cut")
    found = look(out)
    assert (found.pairs[0].kept, found.pairs[0].below) == (2, 0)
    assert any("Rejected rows are not in the figures" in one for one in found.warnings)
