"""The files examples/spark_*.py run as they stand there, and embed what they say."""

from __future__ import annotations

import json
import runpy
import sys

import pytest
from PIL import Image, ImageDraw
from places import ROOT
from pyspark.errors import ParseException
from pyspark.sql import functions as F

EXAMPLES = ROOT / "examples"


@pytest.fixture
def run(spark, monkeypatch, capsys):
    """Run an example in the session of the tests; return the lines that it prints."""

    def run_file(name: str, *arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run_file


def test_ml_pipeline(run):
    assert run("spark_ml_pipeline.py") == [
        "embedded a 96 circle",
        "embedded b 96 star",
        "failed c empty the text is empty",
    ]


def test_streaming(run, tmp_path):
    """The second run embeds what is new alone."""
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    rows = [{"id": "a", "caption": "a red circle"}, {"id": "b", "caption": ""}]
    (source / "1.json").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert run("spark_streaming.py", str(source), str(output)) == ["vectors 1", "failures 1"]
    (source / "2.json").write_text(json.dumps({"id": "c", "caption": "a blue star"}) + "\n", encoding="utf-8")
    assert run("spark_streaming.py", str(source), str(output)) == ["vectors 2", "failures 1"]
    assert {path.name for path in (output / "vectors").iterdir()} == {"batch=0", "batch=1"}


def test_vector_search(run, tmp_path):
    draw = {"circle.png": ("red", "ellipse"), "square.png": ("blue", "rectangle")}
    for name, (colour, shape) in draw.items():
        image = Image.new("RGB", (64, 64), "white")
        getattr(ImageDraw.Draw(image), shape)((8, 8, 56, 56), fill=colour)
        image.save(tmp_path / name)
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    if not hasattr(F, "vector_norm"):  # before Spark 4.2, SQL has no such join
        with pytest.raises(ParseException, match="nearest"):
            run("spark_vector_search.py", str(tmp_path), "a red circle")
        return
    failed, first, second = run("spark_vector_search.py", str(tmp_path), "a red circle")
    assert failed == "failed damaged.png undecodable"
    assert first.startswith("found circle.png 0.") and second.startswith("found square.png ")
