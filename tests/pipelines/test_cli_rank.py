"""`clipmill rank`: tables for people, JSON for programs, jobs on both engines, and bad input said clearly."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import notes_of, picture_vector, run, write_pictures
from rank_expected import cosine_of, softmax_of

from clipmill.datasets import read_dataset, read_failures
from clipmill.encoders import load_encoder
from clipmill.encoders.testing import fake_text_vector
from clipmill.pipelines.gallery import write_gallery
from clipmill.pipelines.rank import scoring_as_json

MODEL = ("--model", "fake::")
ENGINES = ["beam", pytest.param("spark", marks=pytest.mark.spark)]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


def table_of(said: str) -> list[list[str]]:
    """Return the cells of what was printed, without what failed."""
    return [line.split() for line in said.split("candidates that failed", maxsplit=1)[0].splitlines() if line.strip()]


COLUMNS = ["rows.jsonl", "-o", "out", "--query-column", "q", "--candidates-column"]

# --- one query -------------------------------------------------------------------------------------------------------


def test_pictures_are_ranked_for_a_text(pictures, capsys) -> None:
    """Best first, from a folder; what failed stands below with its reason, outside the softmax."""
    assert run("rank", "--query", "hi", pictures, *MODEL) == 0
    said = capsys.readouterr().out
    cosines = {n: cosine_of(fake_text_vector("hi"), picture_vector(n)) for n in range(3)}
    best = sorted(cosines, key=lambda n: -cosines[n])
    scores = dict(zip(cosines, softmax_of([100 * cosine for cosine in cosines.values()]), strict=True))
    rows = [
        [str(place), str(pictures / f"{n}.png"), f"{scores[n]:.4f}", f"{cosines[n]:.4f}"]
        for place, n in enumerate(best, 1)
    ]
    assert table_of(said) == [["place", "candidate", "clip_score", "cosine"], *rows]
    failed = said.split("candidates that failed")[1]  # long paths are folded between the lines
    assert "undecodable at decode" in failed and "empty at decode" in failed


def test_texts_are_ranked_for_a_picture_as_json(pictures, capsys) -> None:
    """Every candidate comes with its place before, its rank, its scores or its failure."""
    assert run("rank", "--image", pictures / "1.png", "aa", "", "zz", *MODEL, "--json", "--scale", "7.5") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["scale"], found["learnt"]) == ("fake::", 7.5, False)
    assert found["query"] == {"kind": "image", "value": str(pictures / "1.png")}
    cosines = {text: cosine_of(picture_vector(1), fake_text_vector(text)) for text in ("aa", "zz")}
    scores = dict(zip(cosines, softmax_of([7.5 * cosine for cosine in cosines.values()]), strict=True))
    best = sorted(cosines, key=lambda text: -cosines[text])
    assert [
        (one["rank"], one["candidate"], one["position"], one["clip_score"], one["cosine"], one["failure"])
        for one in found["candidates"][:2]
    ] == [
        (n, text, {"aa": 0, "zz": 2}[text], pytest.approx(scores[text]), pytest.approx(cosines[text]), None)
        for n, text in enumerate(best, 1)
    ]
    (failed,) = found["candidates"][2:]
    assert (failed["rank"], failed["candidate"], failed["position"], failed["clip_score"]) == (None, "", 1, None)
    assert failed["failure"]["code"] == "empty"


def test_equal_scores_share_a_place(capsys) -> None:
    """As in SQL's rank(); among themselves they keep their order."""
    assert run("rank", "--query", "a", "zz", "zz", "a", *MODEL, "--candidate-kind", "text", "--json") == 0
    candidates = json.loads(capsys.readouterr().out)["candidates"]
    found = [(one["rank"], one["candidate"], one["position"]) for one in candidates]
    assert found == [(1, "a", 2), (2, "zz", 0), (2, "zz", 1)]


def test_candidates_may_be_of_the_querys_own_kind_and_are_cut_to_the_best(pictures, capsys) -> None:
    """Pictures for a picture, globs too; failures are told all the same."""
    glob = f"{pictures}/*.png"
    arguments = ("--candidate-kind", "image", "--top-k", "1", "--json")
    assert run("rank", "--image", pictures / "2.png", glob, *MODEL, *arguments) == 0
    found = json.loads(capsys.readouterr().out)["candidates"]
    assert [Path(one["candidate"]).name for one in found] == ["2.png", "broken.png", "empty.png"]
    assert found[0]["cosine"] == 1.0


def test_brackets_and_dashes_are_text_like_any_other(pictures, capsys) -> None:
    """No markup of the terminal's, and behind '--' no option."""
    assert run("rank", "--image", pictures / "1.png", "a [red] star", *MODEL, "--", "-5 degrees", "[/]") == 0
    said = capsys.readouterr().out
    assert all(text in said for text in ("a [red] star", "-5 degrees", "[/]"))


def test_file_names_that_are_not_utf8_are_printed_escaped(tmp_path, capsys) -> None:
    folder = write_pictures(tmp_path / "pictures")
    (folder / "0.png").rename(os.path.join(os.fspath(folder), os.fsdecode(b"lat\xe9.png")))
    assert run("rank", "--query", "hi", folder, *MODEL) == 0
    assert "lat\\xe9.png" in capsys.readouterr().out
    assert run("rank", "--query", "hi", folder, *MODEL, "--json") == 0
    named = [one["candidate"] for one in json.loads(capsys.readouterr().out)["candidates"]]
    assert os.fspath(folder / os.fsdecode(b"lat\xe9.png")) in named


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--query", "", "pictures"], "--query is empty"),
        (["--query", "a", "--query", "b", "pictures"], "--query is given 2 times; give it once"),
        (["--image", "pictures/1.png", "--image", "pictures/2.png", "x"], "--image is given 2 times"),
        (["--query", "a", "pictures", "--json", "--json"], "--json is given 2 times"),
        ([*COLUMNS, "c", "--ranked-column", ""], "--ranked-column is empty"),
        (
            ["parted.parquet", *COLUMNS[1:], "c", "--id-column", "zz"],
            "there is no column 'zz'; the columns are 'q', 'c'",
        ),
        (["rows.jsonl", "-o", "out"], "has no documents with matches (its first lines have the fields 'id', 'q', 'c')"),
        (
            ["rows.jsonl", "-o", "out"],
            "name the columns of the query (--query-column NAME) and of the candidates (--cand",
        ),
        (["parted.parquet", *COLUMNS[1:], "c", "--ranked-column", "q"], "choose a name: --ranked-column NAME"),
        (["--image", "nowhere.png", "a"], "the query 'nowhere.png': not_found at fetch"),
        (["--image", "pictures/broken.png", "a"], "undecodable at decode"),
        (["--query", "a"], "there is no candidate: give files, folders"),
        (["--image", "pictures/1.png"], "there is no candidate: give texts"),
        (["--query", "a", "nowhere"], "'nowhere': no such file or folder"),
        (["--query", "a", "pictures/*.jpg"], "matches no file"),
        (["--query", "a", "rows.jsonl"], "is a table, whose rows a job works on: give --output DIR"),
        (["--query", "a", "--image", "pictures/1.png", "x"], "each give the query; use one of them"),
        (["--query", "a", "pictures", "--output", "out"], "--output has no effect with --query"),
        (["--query", "a", "pictures", "--batch-size", "4"], "it is called --max-batch-rows here"),
        (["--query", "a", "pictures", "--scale", "0"], "neither a finite number above 0 nor 'model'"),
        (["--query", "a", "pictures", "--scale", "model"], "no learnt scale"),
        (["--query", "a", "pictures", "--candidate-kind", "vector"], "vector is for jobs"),
        (["--audio", "a.wav", "x"], "--audio: fake:: embeds image and text"),
        (["--query", "a", "x", "--candidate-kind", "audio"], "--candidate-kind 'audio': fake:: embeds image and text"),
        ([], "nothing to rank: give an INPUT"),
        (["rows.jsonl"], "give a query (--query, --image and --audio) to rank the candidates, or --output DIR"),
        (["rows.jsonl", "-o", "out", "--query-column", "q"], "--query-column needs --candidates-column"),
        (["rows.jsonl", "-o", "out", "--query-kind", "text"], "--query-kind is for rows"),
        ([*COLUMNS, "c", "--keep-content"], "is for documents"),
        (["rows.jsonl", "-o", "out", "--candidate-column", "c", "--by", "id"], "rank_groups(df, by"),
        (["rows.csv", "-o", "out", "--query-column", "q", "--candidates-column", "c"], "'c' is string, not a list"),
        (["pictures", "-o", "out"], "has no documents with matches, which are JSON lines"),
        (["rows.jsonl", "-o", "out", "--projct=x"], "did you mean --project?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_is_said_and_is_2(arguments, message, pictures, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "q": "one", "c": ["x"]}')
    (tmp_path / "rows.csv").write_text("id,q,c\na,one,x\n")
    pq.write_table(pa.table({"q": ["one"], "c": [["x"]]}), tmp_path / "parted.parquet")
    assert run("rank", *arguments, *MODEL) == 2
    said = capsys.readouterr()
    assert message in said.err and "Traceback" not in said.err and not said.out
    assert not (tmp_path / "out").exists()


def test_if_every_candidate_failed_the_code_is_1(pictures, capsys) -> None:
    """They are printed with their reasons, and nothing is called ranked."""
    broken = [pictures / "broken.png", pictures / "empty.png"]
    assert run("rank", "--query", "a", *broken, *MODEL) == 1
    said = capsys.readouterr().out
    assert "clip_score" not in said and said.count("at decode") == 2


def test_texts_that_are_names_of_files_are_ranked_as_texts_with_a_note(pictures, capsys) -> None:
    """A caption may happen to be a file's name; who says what candidates are is told nothing."""
    photo = pictures / "1.png"
    assert run("rank", "--image", photo, photo, pictures, "mixed", *MODEL, "--json") == 0
    said = capsys.readouterr()
    note = "Note: 2 candidates are names of files or folders and are ranked as texts; --candidate-kind image ranks the"
    assert said.err == f"{note} pictures\n"
    texts = [one["candidate"] for one in json.loads(said.out)["candidates"]]
    assert sorted(texts) == sorted([str(photo), str(pictures), "mixed"])
    for more in (("mixed",), (photo, "--candidate-kind", "text"), (photo, "--candidate-kind", "image")):
        assert run("rank", "--image", photo, *more, *MODEL) == 0
        assert not capsys.readouterr().err


def test_the_demo_model_finds_its_pictures_and_its_scale(tmp_path, capsys) -> None:
    write_gallery(tmp_path / "gallery")
    assert run("rank", "--query", "a red circle", tmp_path / "gallery", "--model", "demo", "--top-k", 2, "--json") == 0
    hundred = json.loads(capsys.readouterr().out)["candidates"]
    assert Path(hundred[0]["candidate"]).name == "red-circle.png" and hundred[0]["clip_score"] > 0.99
    texts = ("a red circle", "a blue circle", "a red star")
    picture = tmp_path / "gallery" / "red-star.png"
    assert run("rank", "--image", picture, *texts, "--model", "demo", "--scale", "model", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["candidates"][0]["candidate"] == "a red star"
    (learnt,) = load_encoder("demo").learnt_scales.values()
    assert (found["scale"], found["learnt"]) == (learnt, True)


def test_probabilities_of_candidates(pictures, capsys) -> None:
    """In the order of the cosines, each for itself, with what the model has learnt."""
    learnt = ("--model", "fake::scale=4.5&bias=-2.25", "--score", "sigmoid")
    assert run("rank", "--image", pictures / "1.png", "aa", "b", *learnt, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["score"], found["scale"], found["bias"]) == ("sigmoid", 4.5, -2.25)
    for one in found["candidates"]:
        cosine = cosine_of(picture_vector(1), fake_text_vector(one["candidate"]))
        assert one["clip_score"] == pytest.approx(1 / (1 + math.exp(2.25 - 4.5 * cosine)), abs=1e-5)
    assert run("rank", "--image", pictures / "1.png", "aa", *learnt, "--scale", "3") == 2
    assert "--scale 3.0 has no effect with --score 'sigmoid'" in capsys.readouterr().err
    assert run("rank", "--image", pictures / "1.png", "aa", *MODEL, "--score", "sigmoid") == 2
    assert "no learnt bias" in capsys.readouterr().err


def test_a_model_with_a_scale_for_each_pair_says_all_of_them() -> None:
    scales = {frozenset(["text", "image"]): 2.5, frozenset(["text", "audio"]): 4.0}
    encoder: Any = SimpleNamespace(learnt_scales=scales)
    learnt = {"image and text": 2.5, "audio and text": 4.0}
    assert scoring_as_json(encoder, "model", "softmax") == {"score": "softmax", "scale": learnt, "learnt": True}
    assert scoring_as_json(encoder, 7.5, "softmax") == {"score": "softmax", "scale": 7.5, "learnt": False}
    encoder.learnt_biases = {frozenset(["text", "image"]): -3.0}
    sigmoid = {"score": "sigmoid", "scale": learnt, "bias": -3.0, "learnt": True}
    assert scoring_as_json(encoder, 100.0, "sigmoid") == sigmoid


# --- jobs ------------------------------------------------------------------------------------------------------------

DOCUMENTS: list[Any] = [
    {"id": "q", "text": "one", "matches": [{"text": "x"}, {"uri": "data:image/png,no"}, {"text": "one"}]},
    {"id": "bad", "text": "", "matches": [{"text": "x"}]},
    {"id": "alone", "text": "alone"},
]


@pytest.mark.parametrize("engine", ENGINES)
def test_documents_with_matches_become_a_dataset(engine, tmp_path, capsys) -> None:
    """Matches sorted with scores; a match that is no image is a failure, and so is a query that cannot be read."""
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, DOCUMENTS)))
    out = tmp_path / "out"
    assert run("rank", tmp_path / "in.jsonl", "-o", out, *MODEL, "--engine", engine, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["input_rows"], found["failed_rows"], found["scored"]) == (3, 1, 2)
    assert found["failed"] == {"empty": 1, "undecodable": 1}
    rows = {row["id"]: row for row in read_dataset(str(out)).to_pylist()}
    assert sorted(rows) == ["alone", "q"] and rows["alone"]["matches"] == []
    matches = rows["q"]["matches"]
    assert [one["id"] for one in matches] == ["q@m[2]", "q@m[0]", "q@m[1]"]
    cosines = [1.0, cosine_of(fake_text_vector("one"), fake_text_vector("x"))]
    assert [one["scores"]["cosine"] for one in matches[:2]] == [pytest.approx(one, abs=1e-6) for one in cosines]
    expected = softmax_of([100 * one for one in cosines])
    assert [one["scores"]["clip_score"] for one in matches[:2]] == [pytest.approx(one, abs=1e-5) for one in expected]
    failures = [(f["row"], f["column"], f["code"]) for f in read_failures(str(out))]
    assert failures == [("q", "@m[1]", "undecodable"), ("bad", None, "empty")]


@pytest.mark.parametrize(
    ("lines", "note"),
    [
        ([], "Note: the input has no rows\n"),
        (
            [{"text": "q", "matches": []}, {"text": "r"}],
            "Note: nothing was ranked: no document has matches\n",
        ),
        ([DOCUMENTS[2], DOCUMENTS[0]], ""),
    ],
    ids=["no rows", "no matches", "something"],
)
def test_a_job_that_ranked_nothing_says_so(lines, note, tmp_path, capsys) -> None:
    """And is no error: empty input is a success, and so are documents without matches."""
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run("rank", tmp_path / "in.jsonl", "-o", tmp_path / "out", *MODEL) == 0
    assert notes_of(capsys.readouterr().err) == note.splitlines()


def test_lines_that_tell_nothing_of_matches_are_read(tmp_path, capsys) -> None:
    """What is no JSON and failures of an earlier job are failures of this one, not a mistake in its options."""
    (tmp_path / "broken.jsonl").write_text("{\n[]\n")
    failed = {"stage": "decode", "code": "undecodable", "message": "?", "transient": False, "uri": "x.png"}
    (tmp_path / "failed.jsonl").write_text(json.dumps(failed))
    for name in ("broken", "failed"):
        assert run("rank", tmp_path / f"{name}.jsonl", "-o", tmp_path / name, *MODEL) == 1
        assert "rows failed; --max-failures 100%" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_rows_with_lists_of_candidates(engine, form, tmp_path, capsys) -> None:
    """Parquet in, either format out; options of the plan and of the job reach it."""
    columns = {"key": [7, 8], "q": ["one", None], "c": [["aa", "one", "z", ""], ["x"]]}
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    named = ("--query-column", "q", "--candidates-column", "c", "--ranked-column", "best", "--id-column", "key")
    more = ("--query-kind", "text", "--candidate-kind", "text", "--top-k", 2, "--drop", "c", "--format", form)
    out = tmp_path / "out"
    assert run("rank", tmp_path / "in.parquet", "-o", out, *MODEL, "--engine", engine, *named, *more) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["scored", "2"] in lines
    (part,) = out.glob("part-*")
    assert part.suffix == f".{form}"
    if form == "parquet":
        rows = read_dataset(str(out)).to_pylist()
    else:
        rows = [json.loads(line) for line in part.read_text().splitlines()]
    assert [(row["key"], sorted(row)) for row in rows] == [(7, ["best", "key", "q"]), (8, ["best", "key", "q"])]
    assert [(one["candidate"], one["position"]) for one in rows[0]["best"]] == [("one", 1), ("aa", 0), ("", 3)]
    assert rows[0]["best"][2]["failure"]["code"] == "empty" and rows[1]["best"] is None
    (failure,) = read_failures(str(out))
    assert (failure["row"], failure["column"]) == ("7", "c[3]")


@pytest.mark.spark
def test_both_engines_write_the_same(tmp_path) -> None:
    """The demo model's scores within 1e-5, the order, the schema with its provenance, the failures."""
    write_gallery(tmp_path / "gallery")
    photos = [str(path) for path in sorted((tmp_path / "gallery").glob("*.png"))]
    records = [
        {"id": str(n), "q": f"a {colour} star", "c": photos} for n, colour in enumerate(("red", "blue", "black"))
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
    named = ("--query-column", "q", "--candidates-column", "c", "--candidate-kind", "image", "--allow-local-files")
    for engine in ("beam", "spark"):
        arguments = ("-o", tmp_path / engine, "--model", "demo", "--engine", engine)
        assert run("rank", tmp_path / "in.jsonl", *arguments, *named) == 0
    beam, spark = (read_dataset(str(tmp_path / engine)) for engine in ("beam", "spark"))
    assert beam.schema.equals(spark.schema, check_metadata=True)
    for ours, theirs in zip(beam.to_pylist(), spark.to_pylist(), strict=True):
        assert [one["candidate"] for one in ours["ranked"]] == [one["candidate"] for one in theirs["ranked"]]
        assert [one["clip_score"] for one in ours["ranked"]] == pytest.approx(
            [one["clip_score"] for one in theirs["ranked"]], abs=1e-5
        )
        assert Path(ours["ranked"][0]["candidate"]).name == f"{ours['q'].split()[1]}-star.png"
    failures = [
        [(f["row"], f["column"], f["code"]) for f in read_failures(str(tmp_path / e))] for e in ("beam", "spark")
    ]
    assert failures[0] == failures[1] and len(failures[0]) == 3 * sum("broken" in photo for photo in photos) > 0


def test_failures_decide_the_exit_code_as_in_embed(tmp_path, capsys) -> None:
    """A query that fails is a failed row; where nothing has a score the job is no success, unless it may be."""
    given = tmp_path / "in.jsonl"
    given.write_text("\n".join(map(json.dumps, DOCUMENTS)))
    arguments = ("rank", given, "-o", tmp_path / "out", *MODEL, "--overwrite")
    assert [run(*arguments, "--max-failures", limit) for limit in ("0", "1", "34%")] == [1, 0, 0]
    assert run(*arguments, "--fail-fast") == 1
    assert "the job ends at its first failure" in capsys.readouterr().err
    given.write_text(json.dumps({"id": "a", "text": "q", "matches": [{"uri": "/etc/hostname"}]}))
    assert [run(*arguments), run(*arguments, "--max-failures", "100%")] == [1, 0]
    assert "nothing has a score, and 1 values failed" in capsys.readouterr().err


def test_an_old_dataset_survives_a_scale_that_the_model_lacks(tmp_path, capsys) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(DOCUMENTS[0]))
    arguments = ("rank", tmp_path / "in.jsonl", "-o", tmp_path / "out", *MODEL)
    assert [run(*arguments), run(*arguments), run(*arguments, "--overwrite", "--scale", "model")] == [0, 2, 2]
    assert "has no learnt scale" in capsys.readouterr().err
    assert len(read_dataset(str(tmp_path / "out"))) == 1


def test_the_summary_of_what_was_ranked(tmp_path, capsys) -> None:
    """Of Parquet; JSON lines are told for what they are."""
    (tmp_path / "in.jsonl").write_text(json.dumps(DOCUMENTS[0]))
    for form, code in (("parquet", 0), ("jsonl", 2)):
        assert run("rank", tmp_path / "in.jsonl", "-o", tmp_path / form, *MODEL, "--format", form) == 0
        assert run("summary", tmp_path / form) == code
    said = capsys.readouterr()
    assert "matches" in said.out and "its rows are JSON lines" in said.err
