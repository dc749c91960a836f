"""The files examples/beam_*.py run as they stand there, and embed what they say."""

from __future__ import annotations

import runpy
import sys

import pytest
from beam_helpers import LOCAL
from places import ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run an example on the local runner; return the lines that it prints, sorted."""

    def run_file(name: str) -> list[str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *LOCAL])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return sorted(capsys.readouterr().out.splitlines())

    return run_file


def test_run_inference(run):
    embedded, failed = run("beam_run_inference.py")
    assert embedded == "embedded a (96,)"
    assert failed.startswith("failed b undecodable at decode")


def test_ml_transform(run):
    lines = run("beam_ml_transform.py")
    assert lines[1:] == ["first a 96", "first b 96", "second q 96"]
    assert lines[0].startswith("failed r ") and "empty" in lines[0]


def test_vector_database(run):
    lines = run("beam_vector_database.py")
    assert lines[0] == "failed 3 empty at tokenize: the text is empty"
    assert lines[2] == "found 2 a blue star 1.0" and lines[1].startswith("found 1 a red circle 0.")
