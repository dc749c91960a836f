"""`clipmill search`: tables for people, JSON for programs, the demo's pictures found, and bad input said clearly."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import run, run_example
from index_helpers import DIM, SPEC, write_dataset
from pictures import encode
from places import DOCS
from search_contract import WORDS, text_vectors

from clipmill.datasets.tables.provenance import TAKEN_OVER, provenance_of, spec_of_provenance
from clipmill.encoders import EncoderSpec, score
from clipmill.encoders.testing import fake_text_vector
from clipmill.indexes.build import IndexOptions, build_index
from clipmill.pipelines.drawings import CLASSES, class_caption, draw, sample_scene
from clipmill.pipelines.search_command import search

DRAWN = 200
UNSEEN = 4_000_037
"""Seed of the drawings; neither the training's nor the evaluation's."""


@pytest.fixture
def words(tmp_path) -> Path:
    return write_dataset(tmp_path / "words", list(text_vectors(WORDS)), text=WORDS)


@pytest.fixture(scope="module")
def drawings(tmp_path_factory) -> Path:
    """A dataset of 200 drawings by the demo model, the files beside it."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(UNSEEN)
    for number in range(DRAWN):
        colour, shape = CLASSES[number % len(CLASSES)]
        picture = draw(sample_scene(rng, colour=colour, shape=shape, count=1), rng)
        picture.save(folder / "pictures" / f"{number:03d}-{colour}-{shape}.png")
    assert run("embed", folder / "pictures", "-o", folder / "vectors", "--model", "demo") == 0
    return folder


def cells(said: str) -> list[list[str]]:
    return [line.split() for line in said.splitlines() if line.strip()]


def test_a_table_of_what_is_nearest(words, capsys) -> None:
    assert run("search", words, "pear 7", "-k", 3, "--columns", "number") == 0
    out = capsys.readouterr().out
    header, *rows = cells(out)
    assert header == ["place", "score", "id", "text", "number"]
    position = WORDS.index("pear 7")
    assert rows[0] == ["1", "1.0000", f"r{position}", "pear", "7", str(position)]
    assert [row[0] for row in rows] == ["1", "2", "3"]


def test_json_of_several_queries(words, capsys) -> None:
    """Texts and images; with --rerank cosine and clip_score, the scale beside them."""
    photo = words.parent / "photo.png"
    photo.write_bytes(encode(np.full((4, 6, 3), 90, np.uint8)))
    given = ("fig 2", "apple 5", "--image", photo, "--top-k", 2, "--rerank", "--scale", 7, "--columns", "uri,number")
    assert run("search", words, *given, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["index"], found["model"], found["rows"]) == (str(words), SPEC.model, len(WORDS))
    assert (found["scale"], found["learnt"], found["top_k"]) == (7.0, False, 2)
    assert [(one["kind"], one["value"]) for one in found["queries"]] == [
        ("text", "fig 2"),
        ("text", "apple 5"),
        ("image", str(photo)),
    ]
    first = found["queries"][0]["hits"]
    vectors = text_vectors(WORDS)[[hit["position"] for hit in first]]
    expected = score(fake_text_vector("fig 2", DIM), vectors, scale=7)
    assert [hit["rank"] for hit in first] == [1, 2] and first[0]["id"] == f"r{WORDS.index('fig 2')}"
    assert [hit["cosine"] for hit in first] == pytest.approx(expected.cosine.tolist(), abs=1e-6)
    assert [hit["clip_score"] for hit in first] == pytest.approx(expected.clip_score.tolist(), abs=1e-6)
    assert first[0]["uri"] == f"/photos/{first[0]['id']}.jpg"


def test_the_demo_model_finds_what_is_drawn(drawings, capsys) -> None:
    """For each pair of colour and shape one of its pictures comes first, and a picture finds itself."""
    captions = [class_caption(colour, shape) for colour, shape in CLASSES]
    assert run("search", drawings / "vectors", *captions, "-k", 2, "--json") == 0
    found = json.loads(capsys.readouterr().out)["queries"]
    right = [
        Path(one["hits"][0]["id"]).stem[4:] == f"{colour}-{shape}"
        for one, (colour, shape) in zip(found, CLASSES, strict=True)
    ]
    picture = drawings / "pictures" / "010-{}-{}.png".format(*CLASSES[10])
    assert run("search", drawings / "vectors", "--image", picture, "-k", 1, "--json") == 0
    (hit,) = json.loads(capsys.readouterr().out)["queries"][0]["hits"]
    assert hit["id"] == str(picture) and hit["score"] == pytest.approx(1, abs=1e-5)
    print(f"the right picture of {DRAWN} first for {np.mean(right):.3f} of {len(CLASSES)} captions")
    assert np.mean(right) >= 0.9


def test_an_index_answers_as_its_dataset_does(drawings, tmp_path, capsys) -> None:
    build_index([str(drawings / "vectors")], str(tmp_path / "index"), IndexOptions(factory="Flat", queries=20))
    said = []
    for place in (drawings / "vectors", tmp_path / "index"):
        assert run("search", place, "a red circle", "-k", 5) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and "red-circle.png" in said[0].splitlines()[1]


def test_a_prompt_is_put_around_texts(words, capsys) -> None:
    assert run("search", words, "2", "-k", 1, "--prompt", "fig {}", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompt"] == "fig {}" and found["queries"][0]["value"] == "2"
    assert found["queries"][0]["hits"][0]["text"] == "fig 2"


def test_texts_that_begin_with_a_dash(words, capsys) -> None:
    assert run("search", words, "-k", 1, "--json", "--", "--fig") == 0
    assert json.loads(capsys.readouterr().out)["queries"][0]["value"] == "--fig"


def test_one_bad_query_among_good_ones(words, tmp_path, capsys) -> None:
    """The others are answered, the reason stands below, and the code is 1; alone it is 2."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert run("search", words, "fig 2", "--image", tmp_path / "broken.png", "-k", 1) == 1
    out = capsys.readouterr().out
    assert "fig 2" in out and "queries that failed" in out and "undecodable at decode" in out
    assert run("search", words, "--image", tmp_path / "broken.png", "-k", 1, "--json") == 2
    assert "undecodable at decode" in capsys.readouterr().err
    assert run("search", words, "fig 2", "--image", tmp_path / "broken.png", "-k", 1, "--json") == 1
    good, bad = json.loads(capsys.readouterr().out)["queries"]
    assert len(good["hits"]) == 1 and bad["hits"] == [] and bad["failure"].startswith("undecodable")


def test_rows_without_an_id_are_told_by_what_there_is(tmp_path, capsys) -> None:
    vectors = pa.array(list(text_vectors(WORDS[:5])), pa.list_(pa.float32()))
    pq.write_table(pa.table({"embedding": vectors}), tmp_path / "part-0.parquet")
    assert run("search", tmp_path, WORDS[3], "-k", 2, "--model", SPEC.model) == 0
    header, first, _ = cells(capsys.readouterr().out)
    assert header == ["place", "score", "position"] and first == ["1", "1.0000", "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing INDEX"),
        (["words"], "nothing to search words for"),
        (["words", "fig", "-k", "81"], "--top-k 81 is more than the 80 vectors"),
        (["words", "fig", "-k", "0"], "0 is not in the range x>=1"),
        (["words", ""], "empty"),
        (["words", "fig", "--columns", "nowhere"], "has no column 'nowhere'"),
        (["words", "fig", "--columns", "score"], "has no column 'score'"),
        (["words", "fig", "--model", "demo"], "model is 'demo' and was 'fake::dim=16'"),
        (["words", "fig", "--batch-size", "4"], "it is called --max-batch-rows here"),
        (["words", "--audio", "a.wav"], "--audio: fake::dim=16 embeds image and text"),
        (["words", "--image", "nowhere.png"], "not_found at fetch"),
        (["words", "fig", "--scale", "7"], "--scale is of clip_scores"),
        (["words", "fig", "--rerank", "--scale", "x"], "neither a finite number above 0 nor 'model'"),
        (["words", "fig", "--rerank", "--scale", "model"], "no learnt scale"),
        (["words", "fig", "--prompt", "a photo"], "has no {}, where the text goes"),
        (["words", "fig", "--nprobe", "3"], "has no effect with a dataset"),
        (["words", "fig", "--overwrite"], "--overwrite has no effect without --html"),
        (["words", "fig", "--fetch-remote"], "--fetch-remote has no effect without --html"),
        (["words", "fig", "--html", "words"], "is a directory; the contact sheet is a file"),
        (["words", "fig", "--html", "strange.html"], "is there and is no contact sheet"),
        (["nowhere", "fig"], "no such file or directory"),
        (["empty", "fig"], "is neither an index"),
        (["cut", "fig"], "cannot read"),
        (["index", "fig"], "is damaged"),
        (["unfinished", "fig"], "is not finished"),
        (["plain", "fig"], "has no provenance, so its model is unknown"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_is_said_and_is_2(arguments, message, words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "strange.html").write_text("<p>mine</p>")
    build_index([str(words)], str(tmp_path / "index"), IndexOptions(factory="IVF2,SQ8", queries=10))
    damaged = next((tmp_path / "index").glob("vectors/*.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-8])
    cut = write_dataset(tmp_path / "cut", list(text_vectors(WORDS)), parts=1) / "part-00.parquet"
    cut.write_bytes(cut.read_bytes()[:-9])
    write_dataset(tmp_path / "plain", list(text_vectors(WORDS)), spec=None)
    unfinished = write_dataset(tmp_path / "unfinished", list(text_vectors(WORDS)))
    (unfinished / "_job.json").write_text(json.dumps({"format": "clipmill dataset", "shards": 9}))
    assert run("search", *arguments) == 2
    said = capsys.readouterr()
    assert message in said.err and "Traceback" not in said.err and not said.out
    assert (tmp_path / "strange.html").read_text() == "<p>mine</p>"


def test_what_is_damaged_is_2_in_a_report_too(words, tmp_path, capsys) -> None:
    """Nothing was run: as in `search`, and as where there is nothing at all."""
    build_index([str(words)], str(tmp_path / "index"), IndexOptions(factory="Flat", queries=10))
    damaged = next((tmp_path / "index").glob("vectors/*.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-8])
    for place, message in (("index", "is damaged"), ("nowhere", "no such file or directory")):
        assert run("report", tmp_path / place, "-o", tmp_path / "report.html") == 2
        assert message in capsys.readouterr().err
    assert run("summary", tmp_path / "nowhere") == 2
    assert not (tmp_path / "report.html").exists()


def test_the_help_says_whose_defaults_count() -> None:
    """Those of the vectors that are searched, not those of the spec."""
    said = {name: str(option.help) for option in search.params if (name := option.name) and hasattr(option, "help")}
    for name in TAKEN_OVER:
        assert said[name].endswith("[default: as the vectors that are searched were made]")
    assert said["device"].endswith("[default: auto]") and said["top_k"].endswith("or all if there are fewer]")
    model = "M-CLIP/XLM-Roberta-Large-Vit-B-32"
    made = {"normalize": True, "preprocess": False, "apply_exif": True, "on_long_text": "fail", "max_text_tokens": 40}
    others = {"runtime": "onnx", "decode": "exact", "device": "cpu", "precision": "fp32"}
    made |= {"dimensions": 256, "force_dimensions": True}
    spec = EncoderSpec(model, image_weights="laion2b-s34b-b79k", **made, **others)
    found = spec_of_provenance(provenance_of(spec, "auto"))
    fields = [field for field in dataclasses.fields(EncoderSpec) if getattr(found, field.name) != field.default]
    assert {field.name for field in fields} == {"model", "image_weights", *made} < set(TAKEN_OVER)


# --- the page in docs/ -----------------------------------------------------------------------------------------------

PAGE = (DOCS / "searching.md").read_text(encoding="utf-8")


def test_python_of_the_page_runs(tmp_path, monkeypatch, capsys) -> None:
    """All but the lines on Spark, which need a DataFrame."""
    monkeypatch.chdir(tmp_path)
    alone, on_beam, on_spark = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    said = []
    for block in (alone, on_beam):
        run_example(block)
        said.append(capsys.readouterr().out)
    assert said[0].startswith("[7 8] [[") and "'text': 'a red circle'" in said[1].partition("'position': 1")[0]
    assert "from clipmill.udfs import search" in on_spark


def test_commands_of_the_page_run(drawings, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    build_index([str(drawings / "vectors")], "index", IndexOptions(factory="Flat", queries=20))
    (tmp_path / "photo.jpg").write_bytes(next((drawings / "pictures").iterdir()).read_bytes())
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    commands = block.splitlines()
    assert len(commands) == 3
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "clipmill" and run(*arguments) == 0
    said = capsys.readouterr()
    assert "red-circle" in said.out and (tmp_path / "page.html").is_file()
    assert "contact sheet: page.html" in said.err and "contact sheet" not in said.out
