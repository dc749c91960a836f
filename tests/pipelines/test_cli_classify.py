"""`clipmill classify`: labels of files as a table or JSON, of documents and columns as a dataset, bad label files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import picture_vector, run, write_pictures
from rank_expected import cosine_of, softmax_of

from clipmill.datasets import read_dataset, read_failures
from clipmill.datasets.dataset import summarise
from clipmill.encoders.testing import fake_text_vector
from clipmill.pipelines.gallery import write_gallery

MODEL = ("--model", "fake::")
ENGINES = ["beam", pytest.param("spark", marks=pytest.mark.spark)]
LABELS = ["aa", "b", "zzz"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


@pytest.fixture
def plain(tmp_path: Path) -> tuple[str, str]:
    """The option of templates that are the label alone, so that the fake's vectors can be computed."""
    (tmp_path / "templates.txt").write_text("{}\n")
    return "--templates", str(tmp_path / "templates.txt")


def expected(vector: list[float], top_k: int) -> list[dict]:
    cosines = [cosine_of(vector, fake_text_vector(label)) for label in LABELS]
    scores = softmax_of([100 * one for one in cosines])
    best = sorted(range(len(LABELS)), key=lambda n: -cosines[n])[:top_k]
    approx = {"abs": 1e-5}
    return [
        {
            "label": LABELS[n],
            "clip_score": pytest.approx(scores[n], **approx),
            "cosine": pytest.approx(cosines[n], **approx),
        }
        for n in best
    ]


def test_files_are_labelled_as_json(pictures, plain, capsys) -> None:
    assert run("classify", pictures, "--labels", "aa, b,zzz", *plain, *MODEL, "--top-k", 2, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["labels"], found["templates"]) == ("fake::", 3, ["{}"])
    assert (found["scale"], found["learnt"]) == (100, False)
    items = {Path(one["uri"]).name: one for one in found["items"]}
    assert list(items) == ["0.png", "1.png", "2.png", "broken.png", "empty.png"]
    for number in range(3):
        assert items[f"{number}.png"]["labels"] == expected(picture_vector(number), 2)
    assert items["broken.png"]["labels"] is None and items["broken.png"]["failure"]["code"] == "undecodable"
    assert items["empty.png"]["failure"]["code"] == "empty" and items["0.png"]["failure"] is None


def test_files_are_labelled_as_a_table(pictures, plain, capsys) -> None:
    """A file stands beside its best label, the next ones below; what failed stands apart."""
    assert run("classify", pictures / "1.png", pictures / "broken.png", "--labels", "aa,b,zzz", *plain, *MODEL) == 0
    labelled, failed = capsys.readouterr().out.split("files that failed")
    rows = [line.split() for line in labelled.splitlines() if line.strip()]
    best = [f"{one['clip_score'].expected:.4f}" for one in expected(picture_vector(1), 3)]
    assert rows[0] == ["photo", "label", "clip_score", "cosine"]
    assert rows[1][0] == str(pictures / "1.png") and [row[-2] for row in rows[1:]] == best
    assert "undecodable at decode" in failed


def test_labels_come_from_files_of_lines_and_of_json(pictures, plain, tmp_path, capsys) -> None:
    (tmp_path / "labels.txt").write_text("aa\n\nb\nzzz\n")
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    found = []
    for labels in ("aa,b,zzz", "aa, b, zzz, ", tmp_path / "labels.txt", tmp_path / "labels.json"):
        assert run("classify", pictures / "1.png", "--labels", labels, *plain, *MODEL, "--json") == 0
        found.append(json.loads(capsys.readouterr().out))
    assert all(one == found[0] for one in found) and len(found) == 4


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("empty.txt", "empty.txt: there are none; at least one is needed"),
        ("twice.txt", "'aa' occurs 2 times; each must be unique"),
        ("broken.json", "is not JSON"),
        ("binary.txt", "is not UTF-8"),
        ("nowhere.txt", "'nowhere.txt' cannot be read as a file of labels"),
        ("aa,b,aa", "'aa' occurs 2 times"),
        ("aa,,b", "labels: number 2 is blank"),
        (",", "names no file that is there, and one label alone decides nothing"),
        ("aa,", "one label alone decides nothing"),
        ("", "--labels is empty"),
        ("missing.txt", "; labels themselves are given as a,b,c"),
        ("circle", "names no file that is there, and one label alone decides nothing"),
    ],
)
def test_bad_labels_are_said_and_are_2(labels, message, pictures, tmp_path, monkeypatch, capsys) -> None:
    """Printed or as a job: before anything runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "twice.txt").write_text("aa\nb\naa\n")
    (tmp_path / "broken.json").write_text('["aa", ')
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00a")
    for more in ((), ("-o", "out")):
        assert run("classify", "pictures", "--labels", labels, *MODEL, *more) == 2
        said = capsys.readouterr()
        assert message in said.err and "Traceback" not in said.err and not said.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pictures"], "missing option --labels"),
        (["--labels", "a,b"], "there is nothing to classify"),
        (["--labels", "a,b", "-o", "out"], "nothing to classify: give an INPUT"),
        (["pictures", "--labels", "a,b", "--templates", "bare.txt"], "'a photo' has no {}, where the label goes"),
        (["pictures", "--labels", "a,b", "--templates", "nowhere.txt"], "cannot be read as a file of templates"),
        (["pictures", "--labels", "a,b", "--templates", "a {}"], "; templates go into a file, one a line"),
        (["pictures", "--labels", "a,b", "--labels", "c,d"], "--labels is given 2 times; give it once"),
        (["pictures", "--labels", "a,b", "--templates", ""], "--templates is empty"),
        (
            ["q.parquet", "--labels", "a,b", "-o", "out"],
            "(--text-column NAME, --uri-column NAME, --image-column NAME or",
        ),
        (
            ["q.parquet", "--labels", "a,b", "-o", "out", "--text-column", "q", "--id-column", "zz"],
            "no column 'zz'; it has",
        ),
        (
            ["q.parquet", "--labels", "a,b", "-o", "out", "--column", "q=text", "--id-column", "z"],
            "there is no column 'z'",
        ),
        (
            ["pictures", "--labels", "a,b", "-o", "out", "--column", "q=text"],
            "has no column 'q'; the columns of image files and audio files are",
        ),
        (["pictures", "--labels", "a,b", "--scale", "much"], "--scale 'much' is neither"),
        (["pictures", "--labels", "a,b", "--engine", "spark"], "--engine has no effect without --output"),
        (["pictures", "--labels", "a,b", "--column", "a=text"], "--column has no effect without --output"),
        (["pictures", "--labels", "a,b", "--nonsense"], "no such option: --nonsense"),
        (["nowhere", "--labels", "a,b"], "'nowhere': no such file or folder"),
        (["bare.txt", "rows.jsonl", "--labels", "a,b"], "is a table, whose rows a job works on"),
        (["rows.jsonl", "--labels", "a,b", "-o", "out", "--column", "q"], "not of the form NAME=KIND"),
        (["rows.jsonl", "--labels", "a,b", "-o", "out", "--column", "q=text", "--keep-content"], "is for documents"),
        (
            ["rows.jsonl", "--labels", "a,b", "-o", "out", "--column", "q=text", "--text-column", "q"],
            "no effect with --column",
        ),
        (["rows.jsonl", "--labels", "a,b", "-o", "out", "--column", "q=audio"], "embeds image and text only"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_is_said_and_is_2(arguments, message, pictures, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "q": "one"}')
    (tmp_path / "bare.txt").write_text("a photo\n")
    pq.write_table(pa.table({"q": ["one"]}), tmp_path / "q.parquet")
    assert run("classify", *arguments, *MODEL) == 2
    said = capsys.readouterr()
    assert message in said.err and "Traceback" not in said.err and not said.out
    assert not (tmp_path / "out").exists()


def test_if_every_file_failed_the_code_is_1(pictures, capsys) -> None:
    assert run("classify", pictures / "broken.png", "--labels", "a,b", *MODEL) == 1
    assert "undecodable" in capsys.readouterr().out


def test_the_demo_model_tells_shapes_apart(tmp_path, capsys) -> None:
    write_gallery(tmp_path / "gallery")
    shapes = ["circle", "star", "triangle"]
    files = [tmp_path / "gallery" / f"red-{shape}.png" for shape in shapes]
    assert run("classify", *files, "--labels", ",".join(shapes), "--model", "demo", "--json") == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert [one["labels"][0]["label"] for one in items] == shapes


@pytest.mark.parametrize("engine", ENGINES)
def test_a_folder_becomes_a_dataset_of_labels(engine, pictures, plain, tmp_path) -> None:
    out = tmp_path / "out"
    arguments = ("--labels", "aa,b,zzz", *plain, *MODEL, "--top-k", 2, "--engine", engine)
    assert run("classify", pictures, "-o", out, *arguments) == 0
    rows = read_dataset(str(out)).to_pylist()
    assert [(Path(row["id"]).name, row["labels"]) for row in rows] == [
        (f"{n}.png", expected(picture_vector(n), 2)) for n in range(3)
    ]
    failures = [(Path(f["row"]).name, f["code"]) for f in read_failures(str(out))]
    assert failures == [("broken.png", "undecodable"), ("empty.png", "empty")]
    assert (out / "_SUCCESS").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_column_of_a_table_is_labelled(engine, plain, tmp_path) -> None:
    """Parquet in, JSON lines out; a row that fails is in the failures only."""
    pq.write_table(pa.table({"id": [1, 2, 3], "caption": ["aa", "", None]}), tmp_path / "in.parquet")
    out = tmp_path / "out"
    arguments = ("--labels", "aa,b,zzz", *plain, *MODEL, "--engine", engine, "--format", "jsonl")
    assert run("classify", tmp_path / "in.parquet", "-o", out, *arguments, "--column", "caption=text") == 0
    (part,) = out.glob("part-*.jsonl")
    rows = [json.loads(line) for line in part.read_text().splitlines()]
    vector = fake_text_vector("aa").tolist()
    assert rows == [
        {"id": 1, "caption": "aa", "caption_labels": expected(vector, 5)},
        {"id": 3, "caption": None, "caption_labels": None},
    ]
    assert [(f["row"], f["column"], f["code"]) for f in read_failures(str(out))] == [("2", "caption", "empty")]


# --- several labels, one, or none ------------------------------------------------------------------------------------

LEARNT = ("--model", "fake::scale=4.5&bias=-2.25", "--score", "sigmoid")


def probable(vector: list[float], least: float) -> list[tuple[str, object]]:
    """Return the labels whose sigmoids are at least so high, best first."""
    found = {one: 1 / (1 + math.exp(2.25 - 4.5 * cosine_of(vector, fake_text_vector(one)))) for one in LABELS}
    return [
        (one, pytest.approx(score, abs=1e-5)) for one, score in sorted(found.items(), key=lambda pair: -pair[1])
        if score >= least
    ]  # fmt: skip


def test_labels_above_a_threshold_are_printed(pictures, plain, capsys) -> None:
    """A file without one is said, and is no failure; one label alone may be asked for."""
    assert run("classify", pictures / "1.png", "--labels", "aa,b,zzz", *plain, *LEARNT, "--min-score", 0, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["score"], found["scale"], found["bias"], found["learnt"]) == ("sigmoid", 4.5, -2.25, True)
    (item,) = found["items"]
    assert [(one["label"], one["clip_score"]) for one in item["labels"]] == probable(picture_vector(1), 0)
    assert run("classify", pictures / "1.png", "--labels", "b", *plain, *LEARNT, "--min-score", 1) == 0
    assert capsys.readouterr().out.split()[-2:] == [str(pictures / "1.png"), "none"]


def test_a_file_without_a_label_stands_in_its_place(pictures, plain, capsys) -> None:
    best = [probable(picture_vector(n), 0)[0][1].expected for n in range(3)]
    assert best[2] < min(best[:2]), "only the last picture has no label above the threshold"
    least = (best[2] + min(best[:2])) / 2
    given = [str(pictures / f"{n}.png") for n in (0, 2, 1)]
    assert run("classify", *given, "--labels", "aa,b,zzz", *plain, *LEARNT, "--min-score", least) == 0
    words = capsys.readouterr().out.split()
    assert [word for word in words if word.endswith(".png")] == given
    assert words[words.index(given[1]) + 1] == "none"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_dataset_of_several_labels_or_none(engine, pictures, plain, tmp_path) -> None:
    scores = sorted(score.expected for n in range(3) for _, score in probable(picture_vector(n), 0))
    least = (scores[2] + scores[3]) / 2
    arguments = ("--labels", "aa,b,zzz", *plain, *LEARNT, "--engine", engine, "--min-score", least)
    photos = [pictures / f"{n}.png" for n in range(3)]
    assert run("classify", *photos, "-o", tmp_path / "out", *arguments) == 0
    found = {Path(row["id"]).stem: row["labels"] for row in read_dataset(str(tmp_path / "out")).to_pylist()}
    expected = {str(n): probable(picture_vector(n), least) for n in range(3)}
    assert {name: [(one["label"], one["clip_score"]) for one in labels] for name, labels in found.items()} == expected
    assert run("classify", *photos, "-o", tmp_path / "none", *arguments[:-1], 1) == 0
    assert [row["labels"] for row in read_dataset(str(tmp_path / "none")).to_pylist()] == [[], [], []]


def test_a_value_without_a_label_is_a_result(tmp_path, plain) -> None:
    """It counts as scored, as a document does, and its row is written although another value of it failed."""
    (tmp_path / "rows.jsonl").write_text('{"id": "1", "t": "aa", "u": "b"}\n{"id": "2", "t": "aa", "u": ""}\n')
    arguments = ("--labels", "aa,b,zzz", *plain, *MODEL, "--scale", 1, "--min-score", 1, "--format", "jsonl")
    columns = ("--column", "t=text", "--column", "u=text")
    assert run("classify", tmp_path / "rows.jsonl", "-o", tmp_path / "out", *columns, *arguments) == 0
    (part,) = (tmp_path / "out").glob("part-*.jsonl")
    found = [json.loads(line) for line in part.read_text().splitlines()]
    assert [(row["id"], row["t_labels"], row["u_labels"]) for row in found] == [("1", [], []), ("2", [], None)]
    summary = summarise(str(tmp_path / "out"))
    assert (summary.rows, summary.failed_rows, summary.scored) == (2, 1, 3)
