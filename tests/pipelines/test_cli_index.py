"""`clipmill index`: what it prints, and what it refuses."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
from cli_helpers import run, run_example
from index_helpers import DIM, clustered, write_dataset
from places import DOCS

from clipmill.indexes import open_index

VECTORS = clustered(1200)


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "data", list(VECTORS))


def cells(said: str) -> dict[str, str]:
    """Return the rows of a table of two columns."""
    rows = [re.split(r"  +", line.strip(), maxsplit=1) for line in said.splitlines() if line.strip()]
    return {name: value for name, value in (row for row in rows if len(row) == 2)}


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
    said = cells(capsys.readouterr().out)
    assert said["added"] == "200 rows" and said["left out, there already"] == "100"
    assert said["rows now"] == "1,400 of 16 values" and "without a vector" not in said
    assert open_index(str(tmp_path / "index")).manifest.rows == 1400
    assert run("index", more, "--add-to", tmp_path / "index", "--skip-existing") == 0
    said = cells(capsys.readouterr().out)
    assert said["added"] == "nothing: the index is as it was" and said["left out, there already"] == "300"
    assert "recall@10" not in said and said["rows now"] == "1,400 of 16 values"


def test_what_one_adding_came_to_is_said_and_not_the_sum(tmp_path, dataset, capsys):
    """Nulls and failures of this run; rows without an id are added again, and that is said."""
    assert run("index", dataset, "-o", tmp_path / "index") == 0
    vectors = [None, np.zeros(DIM, np.float32), *clustered(10, seed=2)]
    for _ in range(2):
        more = write_dataset(tmp_path / "more", vectors, ids=[None] * 12)
        capsys.readouterr()
        assert run("index", more, "--add-to", tmp_path / "index", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["added"] == {"rows": 10, "skipped": 0, "nulls": 1, "failed": {"zero": 1}, "unnamed": 12}
    assert (said["rows"], said["nulls"], said["failed"]["zero"]) == (1220, 2, 2)
    one = write_dataset(tmp_path / "one", [VECTORS[0]], ids=[None])
    assert run("index", one, "--add-to", tmp_path / "index") == 0
    told = cells(capsys.readouterr().out)
    assert (told["added"], told["without an id"]) == ("1 row", "1, added whether there already or not")
    assert told["ids"] == "21 rows without one"
    assert not {"without a vector", "failed: zero"} & set(told)


def test_ids_that_stand_twice_are_said(tmp_path, dataset, capsys):
    assert run("index", dataset, dataset, "-o", tmp_path / "index") == 0
    assert cells(capsys.readouterr().out)["ids"] == "1,200 rows with that of another"


def test_a_dry_run_says_what_would_be_added_and_adds_nothing(tmp_path, dataset, capsys):
    assert run("index", dataset, "-o", tmp_path / "index") == 0
    more = write_dataset(
        tmp_path / "more", list(clustered(300, seed=1)), ids=[None, *(f"r{n}" for n in range(1101, 1400))]
    )
    before = (tmp_path / "index" / "_index.json").read_bytes()
    capsys.readouterr()
    given = ("index", more, "--add-to", tmp_path / "index", "--dry-run")
    assert run(*given) == 2
    assert "99 of 300 rows have an id that is in the index" in capsys.readouterr().err
    assert run(*given, "--skip-existing") == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(f"201 rows would be added to the 1,200 rows of {tmp_path / 'index'}; ")
    assert others == [
        "99 rows would be left out: their ids are there already",
        "1 row without an id would be added, there already or not",
    ]
    assert run(*given, "--skip-existing", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"rows": 201, "skipped": 99, "nulls": 0, "failed": {}, "unnamed": 1, "index_rows": 1200}
    assert (tmp_path / "index" / "_index.json").read_bytes() == before
    assert sorted(os.listdir(tmp_path / "index")) == ["_index.json", "keys", "vectors"]


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
        (("DATA", "-o", "X", "--add-to", "Y"), "--output has no effect with --add-to"),
        (("DATA", "--add-to", "Y", "--factory", "Flat"), "--factory has no effect with --add-to"),
        (("DATA", "-o", "X", "--skip-existing"), "--skip-existing has no effect without --add-to"),
        (("DATA", "-o", "X", "--max-memory", "much"), "'much' is not a size; give one such as 2GB"),
        (("DATA", "-o", "X", "--max-memory", "1MB"), "max_memory 1.0 MB is not enough"),
        (("DATA", "-o", "X", "--factory", "Flat", "--max-memory", "200MB"), "max_memory 200.0 MB is not enough"),
        (("DATA", "-o", "X", "--target-recall", "2"), "--target-recall 2.0 must be above 0 and at most 1"),
        (("DATA", "-o", "X", "--factory", "Foo"), "--factory 'Foo' makes no index of 16 values: could not parse"),
        (("DATA", "-o", "X", "--factory", "PQ5"), "values: The dimension of the vector (d) should be a multiple"),
        (
            ("DATA", "-o", "X", "--factory", "IVF4,Foo"),
            "Foo in IVF4,Foo; give one such as 'Flat' (exact), 'HNSW32,SQ8'",
        ),
        (("DATA", "-o", "X", "--master", "local[2]"), "--master is an option of --engine spark"),
        (("DATA", "-o", "X", "--engine", "spark", "--conf", "a"), "--conf 'a' is not of the form KEY=VALUE"),
        (("DATA", "-o", "X", "--runner=FnApiRunner"), "no such option: --runner"),
        (("DATA", "-o", "X", "--engine", "beam", "--runer=FnApiRunner"), "did you mean --runner?"),
        (("DATA", "-o", "X", "--column", "photo"), "has no column 'photo'"),
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


def test_python_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "indexes.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    run_example(block)
    assert capsys.readouterr().out.startswith("['a red ")


def test_the_command_runs_on_beam(tmp_path, dataset):
    given = ("--engine", "beam", "--direct_num_workers=2", "--rows-per-shard", "500")
    assert run("index", dataset, "-o", tmp_path / "index", *given) == 0
    assert open_index(str(tmp_path / "index")).manifest.rows == 1200
    assert len(open_index(str(tmp_path / "index")).manifest.segments) > 1


@pytest.mark.parametrize(
    "command", ["push {} --to lancedb:///tmp/x", "index {} -o {}", "report {} -o {}.html", "summary {}", "search {} x"]
)
def test_a_file_that_is_yet_to_be_embedded_is_told_so(tmp_path, capsys, command: str) -> None:
    given = tmp_path / "captions.jsonl"
    given.write_text('{"id": "a", "text": "a red circle"}\n')
    assert run(*command.format(given, tmp_path / "out").split()) in (1, 2)
    said = capsys.readouterr().err
    assert f"{given} is no Parquet file, and so holds no vectors" in said and "clipmill embed" in said
