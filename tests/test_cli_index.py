"""`clipmill index`: what it prints, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import run
from index_helpers import DIM, clustered, write_dataset

from clipmill.encoders.index import open_index

VECTORS = clustered(1200)


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "data", list(VECTORS))


def test_an_index_is_planned_built_and_described(tmp_path, dataset, capsys):
    assert run("index", dataset, "--output", tmp_path / "index") == 0
    out, err = capsys.readouterr()
    assert "Plan: exact (Flat): 1,200 rows of 16 values" in err
    assert "few enough to compare a query with all of them" in err
    assert "recall@10" in out
    assert "1.0000 of exact search" in out
    assert open_index(str(tmp_path / "index")).manifest.rows == 1200


def test_json_is_the_manifest(tmp_path, dataset, capsys):
    given = ("--factory", "IVF16,SQ8", "--target-recall", "0.9", "--queries", "50", "--json")
    assert run("index", dataset, "-o", tmp_path / "index", *given) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["kind"], said["factory"], said["recall"]["queries"]) == ("custom", "IVF16,SQ8", 50)
    assert said["recall"]["recall"] >= said["recall"]["target"] == 0.9


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path, dataset, capsys):
    assert run("index", dataset, "-o", tmp_path / "index", "--dry-run") == 0
    assert capsys.readouterr().out.startswith("exact (Flat): 1,200 rows of 16 values\n")
    assert run("index", dataset, "-o", tmp_path / "index", "--dry-run", "--json", "--max-memory", "1GB") == 0
    assert json.loads(capsys.readouterr().out)["max_memory_bytes"] == 10**9
    assert not (tmp_path / "index").exists()


def test_rows_are_added(tmp_path, dataset, capsys):
    assert run("index", dataset, "-o", tmp_path / "index") == 0
    more = write_dataset(tmp_path / "more", list(clustered(300, seed=1)), first=1100)
    assert run("index", more, "--add-to", tmp_path / "index") == 2
    assert "100 of 300 rows have an id that is in the index" in capsys.readouterr().err
    assert run("index", more, "--add-to", tmp_path / "index", "--skip-existing") == 0
    assert "left out, there already  100" in capsys.readouterr().out
    assert open_index(str(tmp_path / "index")).manifest.rows == 1400


def test_a_recall_that_is_not_reached_is_a_warning(tmp_path, capsys):
    vectors = list(np.random.default_rng(0).standard_normal((6000, DIM)).astype(np.float32))
    dataset = write_dataset(tmp_path / "noise", vectors)
    given = ("--factory", "PQ1", "--target-recall", "1", "--queries", "50")
    assert run("index", dataset, "-o", tmp_path / "index", *given) == 0
    assert "--target-recall 1.0 was not reached with any parameters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "nothing to index: give a DATASET"),
        (("DATA",), "give --output DIR for a new index, or --add-to DIR"),
        (("DATA", "-o", "X", "--add-to", "Y"), "--output says nothing beside --add-to"),
        (("DATA", "--add-to", "Y", "--factory", "Flat"), "--factory says nothing beside --add-to"),
        (("DATA", "-o", "X", "--skip-existing"), "--skip-existing says nothing without --add-to"),
        (("DATA", "-o", "X", "--max-memory", "much"), "'much' is no size such as 2GB"),
        (("DATA", "-o", "X", "--max-memory", "1MB"), "max_memory 1 MB is not enough"),
        (("DATA", "-o", "X", "--factory", "Flat", "--max-memory", "200MB"), "max_memory 200 MB is not enough"),
        (("DATA", "-o", "X", "--target-recall", "2"), "--target-recall 2.0 is not above 0 and at most 1"),
        (("DATA", "-o", "X", "--factory", "Foo"), "could not parse index string Foo"),
        (("DATA", "-o", "X", "--master", "local[2]"), "--master is an option of --engine spark"),
        (("DATA", "-o", "X", "--runner=FnApiRunner"), "no such option: --runner"),
        (("DATA", "-o", "X", "--engine", "beam", "--runer=FnApiRunner"), "did you mean --runner?"),
        (("DATA", "-o", "X", "--column-name", "photo"), "has no column 'photo'"),
        (("NOWHERE", "-o", "X"), "no such file or directory"),
        (("DATA", "--add-to", "NOWHERE"), "is no index of clipmill"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_done(tmp_path, dataset, monkeypatch, capsys, given, message):
    monkeypatch.chdir(tmp_path)
    assert run("index", *(str(dataset) if one == "DATA" else one for one in given)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "X").exists()


def test_an_index_that_is_there_is_refused_with_the_way_out(tmp_path, dataset, capsys):
    assert run("index", dataset, "-o", tmp_path / "index") == 0
    capsys.readouterr()
    assert run("index", dataset, "-o", tmp_path / "index") == 2
    assert "replace it with --overwrite, or add rows to it with --add-to" in capsys.readouterr().err
    assert run("index", dataset, "-o", tmp_path / "index", "--overwrite") == 0


def test_python_of_the_page_runs(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "index.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("['a red "), done.stderr


def test_the_command_runs_on_beam(tmp_path, dataset):
    given = ("--engine", "beam", "--direct_num_workers=2", "--rows-per-shard", "500")
    assert run("index", dataset, "-o", tmp_path / "index", *given) == 0
    assert open_index(str(tmp_path / "index")).manifest.rows == 1200
    assert len(open_index(str(tmp_path / "index")).manifest.segments) > 1
