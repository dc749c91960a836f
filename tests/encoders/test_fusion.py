"""One weighted vector of several columns: bad options, arrays, files, provenance, and searches among such vectors."""

from __future__ import annotations

import json
import math
import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import run
from contract import captions, png, vector_of_png, vector_of_text
from vectors_contract import FUSE, WEIGHTS, fused

from clipmill.datasets import read_provenance, rows_schema
from clipmill.datasets.tables.provenance import differences, spec_of_provenance
from clipmill.encoders import EncoderSpec, Failure
from clipmill.encoders.plans.embed_plan import Column, ColumnPlan
from clipmill.encoders.plans.fusion import Fusion
from clipmill.errors import SpecError

SPEC = EncoderSpec("fake::dim=8")
BOTH = {"caption": "text", "photo": "image"}
ROWS = pa.schema([("id", pa.string()), ("caption", pa.string()), ("photo", pa.binary())])


@pytest.mark.parametrize(
    ("fuse", "message"),
    [
        ("embedding", "must be a mapping such as"),
        ({1: WEIGHTS}, "must be a mapping such as"),
        ({"": WEIGHTS}, "must be a mapping such as"),
        ({"embedding": ["photo", "caption"]}, "needs the weights of two or more columns"),
        ({"embedding": {"photo": 1}}, "needs the weights of two or more columns"),
        (
            {"embedding": {"photo": 1, "title": 1}},
            "'title' is not embedded; the embedded columns are 'caption', 'photo'",
        ),
        ({"embedding": {"photo": math.nan, "caption": 1}}, "the weight of 'photo' is nan, not a finite number"),
        ({"embedding": {"photo": 1, "caption": math.inf}}, "the weight of 'caption' is inf, not a finite number"),
        ({"embedding": {"photo": "0.7", "caption": 1}}, "the weight of 'photo' is '0.7', not a finite number"),
        ({"embedding": {"photo": True, "caption": 1}}, "the weight of 'photo' is True, not a finite number"),
        ({"embedding": {"photo": 0, "caption": 0.0}}, "has no weight other than 0"),
        ({"photo": WEIGHTS}, "'photo' is an embedded column"),
        ({"embedding": {"photo": 10**400, "caption": 1}}, "the weight of 'photo' is 10+, not a finite number"),
        ({"embedding": {"photo": Fraction(10**400), "caption": 1}}, "not a finite number"),
    ],
    ids=str,
)
def test_invalid_weights_are_refused(fuse: object, message: str) -> None:
    with pytest.raises(SpecError, match=message) as refused:
        ColumnPlan.of(BOTH, spec=SPEC, fuse=fuse)  # type: ignore[arg-type]
    assert refused.value.option == "fuse"


def test_names_are_not_taken_twice() -> None:
    for name in ("caption_embedding", "cut"):
        columns = {"caption": Column("text", truncated="cut"), "photo": "image"}
        with pytest.raises(SpecError, match="two output columns have the same name"):
            ColumnPlan.of(columns, fuse={name: WEIGHTS})
    # a name that a part would have had is free
    (column,) = ColumnPlan.of(BOTH, fuse={"caption_embedding": WEIGHTS}, keep_parts=False).added
    assert column.name == "caption_embedding"
    with pytest.raises(SpecError, match="column 'embedding' exists already"):
        rows_schema(ROWS.append(pa.field("embedding", pa.string())), ColumnPlan.of(BOTH, fuse=FUSE), SPEC)


def test_parts_are_kept_where_nothing_is_fused() -> None:
    with pytest.raises(SpecError, match="has no effect without fuse") as refused:
        ColumnPlan.of(BOTH, keep_parts=False)
    assert refused.value.option == "keep_parts"


def test_a_column_of_arrays_is_no_part() -> None:
    """Where the types are known, it is refused before anything runs; else a row with an array fails."""
    plan = ColumnPlan.of({"captions": "text", "photo": "image"}, fuse={"embedding": {"captions": 1, "photo": 1}})
    arrays = pa.schema([("id", pa.string()), ("captions", pa.list_(pa.string())), ("photo", pa.binary())])
    with pytest.raises(SpecError, match="column 'captions' holds arrays") as refused:
        rows_schema(arrays, plan, SPEC)
    assert refused.value.option == "fuse"
    vector = np.ones(4, np.float32)
    failure = Fusion("embedding", {"captions": 1, "photo": 1}).vector({"captions": [vector, vector], "photo": vector})
    assert isinstance(failure, Failure)
    assert (failure.column, str(failure.code)) == ("captions", "unsupported")


def test_a_part_of_zeros_has_no_direction() -> None:
    fusion = Fusion("embedding", WEIGHTS)
    failure = fusion.vector({"photo": np.zeros(4, np.float32), "caption": np.ones(4, np.float32)})
    assert isinstance(failure, Failure)
    assert (failure.column, str(failure.code)) == ("photo", "out_of_range")
    assert fusion.vector({"photo": np.zeros(4, np.float32), "caption": None}) is None


@pytest.mark.parametrize("length", [1e-30, 1.0, 1e30])
def test_lengths_of_parts_do_not_matter(length: float) -> None:
    """Also where their squares do not fit into float32."""
    rng = np.random.default_rng(0)
    parts = {name: (rng.standard_normal(16) * length).astype(np.float32) for name in WEIGHTS}
    found = Fusion("embedding", WEIGHTS).vector(parts)
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    np.testing.assert_allclose(found, fused(WEIGHTS, parts), rtol=0, atol=1e-7)


def test_the_plan_says_what_is_fused_and_pickles() -> None:
    plain, plan = ColumnPlan.of(BOTH), ColumnPlan.of(BOTH, fuse=FUSE)
    assert "fuse" not in plain.description()  # as in datasets of earlier versions
    assert plan.description()["fuse"] == FUSE
    assert pickle.loads(pickle.dumps(plan)) == plan


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [row | {"photo": png(2, n + 1, (n, 7, 90))} for n, row in enumerate(captions(5))]
    rows[3]["photo"] = None
    pq.write_table(pa.Table.from_pylist(rows, ROWS), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def embed(table: Path, output: Path, *more: object) -> int:
    columns = ("--column", "caption=text", "--column", "photo=image")
    return run("embed", table, "-o", output, "--model", "fake::dim=8", *columns, *more)


def test_the_command_line_fuses_and_queries_find_such_vectors(table: Path, tmp_path: Path, capsys) -> None:
    fuse = ("--fuse", "embedding=photo:0.7,caption:0.3", "--no-keep-parts")
    assert embed(table, tmp_path / "out", *fuse) == 0
    found = pq.read_table(tmp_path / "out").to_pylist()
    assert found[0].keys() == {"id", "caption", "photo", "embedding"}
    by_id = {row["id"]: row["embedding"] for row in found}
    assert by_id["row-3"] is None
    parts = {"caption": vector_of_text(captions(5)[1]["caption"]), "photo": vector_of_png(2, 2, (1, 7, 90))}
    np.testing.assert_allclose(by_id["row-1"], fused(WEIGHTS, parts), rtol=0, atol=1e-7)
    provenance = read_provenance(str(tmp_path / "out"))["embedding"]
    assert (provenance["fused"], provenance["normalize"], provenance["modality"]) == (WEIGHTS, True, "auto")
    assert spec_of_provenance(provenance).model == "fake::dim=8"
    assert differences(provenance, provenance | {"fused": {"photo": 0.5, "caption": 0.5}}) == ["fused"]
    capsys.readouterr()
    assert run("search", tmp_path / "out", "some words", "--top-k", "4") == 0
    assert "row-1" in capsys.readouterr().out


def test_other_weights_are_another_job(table: Path, tmp_path: Path, capsys) -> None:
    assert embed(table, tmp_path / "out", "--fuse", "embedding=photo:0.7,caption:0.3") == 0
    assert embed(table, tmp_path / "out", "--fuse", "embedding=photo:0.7,caption:0.3", "--resume") == 0
    assert embed(table, tmp_path / "out", "--fuse", "embedding=photo:0.6,caption:0.4", "--resume") == 2
    assert "fuse was" in capsys.readouterr().err.replace("--", "")
    assert (
        embed(table, tmp_path / "new", "--fuse", "embedding=photo:1,caption:1", "--skip-existing", tmp_path / "out")
        == 2
    )
    assert "fused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["embedding"], "is not of the form NAME=COLUMN:WEIGHT"),
        (["embedding=photo,caption"], "is not of the form NAME=COLUMN:WEIGHT"),
        (["embedding=photo:much,caption:1"], "is not of the form NAME=COLUMN:WEIGHT"),
        (["=photo:1,caption:1"], "is not of the form NAME=COLUMN:WEIGHT"),
        (["embedding=photo:1,photo:2"], "names 'photo' twice"),
        (["embedding=photo:1,caption:1"] * 2, "gives 'embedding' twice"),
        (["embedding=photo:1,title:1"], "'title' is not embedded"),
    ],
    ids=str,
)
def test_slips_in_the_flag_are_named(given: list[str], message: str, table: Path, tmp_path: Path, capsys) -> None:
    assert embed(table, tmp_path / "out", *(word for one in given for word in ("--fuse", one))) == 2
    assert message in capsys.readouterr().err


def test_documents_are_not_fused(tmp_path: Path, capsys) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "a", "text": "one"}) + "\n")
    for more in (("--fuse", "embedding=photo:1,caption:1"), ("--no-keep-parts",)):
        assert run("embed", tmp_path / "rows.jsonl", "-o", tmp_path / "out", "--model", "fake::dim=8", *more) == 2
        assert f"{more[0].replace('no-', '')} is for rows" in capsys.readouterr().err
