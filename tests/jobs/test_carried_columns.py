"""Columns that only travel along arrive bit for bit, of every type that Parquet holds."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from carried_types import CARRIED, FAR, same
from storage_jobs import SPEC, do_job

from clipmill.datasets import read_dataset, read_failures
from clipmill.datasets.tables.scalars import holds_fine_times, printable
from clipmill.encoders import EncoderSpec, unload_all
from clipmill.encoders.plans.classify_plan import ClassifyPlan
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.encoders.plans.labels import LabelSet
from clipmill.encoders.plans.rank_plan import RankPlan
from clipmill.errors import SpecError

PLANS = {
    "embed": ColumnPlan.of({"caption": "text"}),
    "rank": RankPlan("caption", "candidates", "text", "text"),
    "classify": ClassifyPlan(ColumnPlan.of({"caption": "text"}), LabelSet(("a", "b"))),
}


def table(names: list[str]) -> pa.Table:
    rows = {"id": ["a", "b", "c", "d"], "caption": ["one", "", "three", "four"], "candidates": [["x", "y"]] * 4}
    return pa.table({**rows, **{f"column {number}": CARRIED[name] for number, name in enumerate(names)}})


@pytest.mark.parametrize("plan", PLANS)
def test_every_type_of_parquet_arrives_unchanged(tmp_path: Path, plan: str) -> None:
    """Of rows that succeed; the second has an empty caption, and fails."""
    given = table(list(CARRIED))
    pq.write_table(given, tmp_path / "in.parquet", row_group_size=3)
    read = pq.read_table(tmp_path / "in.parquet")
    do_job(str(tmp_path / "out"), tmp_path / "in.parquet", plan=PLANS[plan], spec=SPEC, rows=2)
    written = read_dataset(str(tmp_path / "out"))
    order = [written["id"].to_pylist().index(name) for name in "acd"]
    assert [failure["row"] for failure in read_failures(str(tmp_path / "out"))] == ["b"]
    for name in given.column_names:
        expected = pa.concat_arrays([read[name].slice(n, 1).combine_chunks() for n in (0, 2, 3)])
        found = pa.concat_arrays([written[name].slice(n, 1).combine_chunks() for n in order])
        assert found.type.equals(expected.type), (name, found.type)
        assert same(found, expected), name


def test_columns_that_a_file_lacks_and_a_hash_of_another_job_travel_too(tmp_path: Path) -> None:
    rows = {"id": ["a", "b"], "caption": ["one", "two"]}
    pq.write_table(pa.table({**rows, "content_hash": ["x", None], "a.b": [1, 2]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({**rows, "u": pa.array([uuid.UUID(int=1).bytes, None], pa.uuid())}), tmp_path / "2.parquet")
    do_job(str(tmp_path / "out"), tmp_path, plan=PLANS["embed"], spec=SPEC)
    written = read_dataset(str(tmp_path / "out"))
    found = {name: written[name].to_pylist() for name in ("content_hash", "a.b", "u")}
    assert found == {
        "content_hash": ["x", None, None, None],
        "a.b": [1, 2, None, None],
        "u": [None, None, uuid.UUID(int=1), None],
    }


LANCE_LACKS = {"decimal32(5, 2)", "decimal64(12, 1)", "list_view<item: int8>", "extension<arrow.json>"}


def test_lance_holds_every_type_unchanged_or_refuses_it_by_name(tmp_path: Path) -> None:
    """A thousand rows too: Lance takes no memory that is not aligned."""
    import lance

    for name in sorted(LANCE_LACKS):
        pq.write_table(table([name]), tmp_path / "in.parquet")
        with pytest.raises(SpecError, match=r"cannot hold .* the type of column 'column 0'") as refused:
            do_job(str(tmp_path / "refused"), tmp_path / "in.parquet", plan=PLANS["embed"], spec=SPEC, format="lance")
        assert "drop='column 0'" in str(refused.value) and not (tmp_path / "refused").exists()
    held = [name for name in CARRIED if name not in LANCE_LACKS]
    given = pa.concat_tables([table(held)] * 250)
    pq.write_table(given, tmp_path / "in.parquet")
    do_job(str(tmp_path / "out"), tmp_path / "in.parquet", plan=PLANS["embed"], spec=SPEC, format="lance")
    written = lance.dataset(str(tmp_path / "out" / "dataset.lance")).to_table()
    assert written.num_rows == 750  # a quarter of the captions is empty
    for number, name in enumerate(held):
        column = written[f"column {number}"].combine_chunks()
        expected = pa.concat_arrays([CARRIED[name].slice(n, 1) for n in (0, 2, 3)])
        for start in (0, 3 * 123):
            assert same(column.slice(start, 3), expected.cast(column.type)), name


def test_metadata_of_clip_retrieval_holds_every_type_but_bytes(tmp_path: Path) -> None:
    kinds = {name: array.type for name, array in CARRIED.items()}
    held = [name for name, kind in kinds.items() if not any(one in str(kind) for one in ("binary", "fixed_size_list"))]
    pq.write_table(table(held), tmp_path / "in.parquet")
    spec = EncoderSpec("fake::dim=4", device="cpu", normalize=True)
    do_job(str(tmp_path / "out"), tmp_path / "in.parquet", plan=PLANS["embed"], spec=spec, format="clip-retrieval")
    (file,) = (tmp_path / "out" / "metadata").glob("*.parquet")
    written = pq.read_table(file)
    for number, name in enumerate(held):
        expected = pa.concat_arrays([CARRIED[name].slice(n, 1) for n in (0, 2, 3)])
        assert same(written[f"column {number}"].combine_chunks(), expected), name


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("timestamp", ["1970-01-01T00:00:00", f"{-FAR} us since 1970-01-01", None]),
        ("date beyond Python's", [f"{10**9} days since 1970-01-01", "1970-01-01", None]),
        ("time in nanoseconds", ["00:00:00.000000001", "00:00:00.000000000", None]),
        ("map<string, int64>", [[], [["a", 1], ["a", 2]], None]),
        ("extension<arrow.uuid>", ["00000000-0000-0000-0000-000000000000", ..., None]),
    ],
)
def test_json_lines_have_texts_for_what_json_and_python_lack(tmp_path: Path, name: str, values: list) -> None:
    pq.write_table(table([name]), tmp_path / "in.parquet")
    do_job(str(tmp_path / "out"), tmp_path / "in.parquet", plan=PLANS["embed"], spec=SPEC, format="jsonl")
    (file,) = (tmp_path / "out").glob("*.jsonl")
    written = [json.loads(line)["column 0"] for line in file.read_text().splitlines()]
    assert [one for one, value in zip(written, values, strict=True) if value is not ...] == [
        value for value in values if value is not ...
    ]


FINE, LONG = pa.scalar(1, pa.time64("ns")), pa.scalar(2**62, pa.duration("s"))


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        (FINE, "00:00:00.000000001"),
        (pa.array([[1, None]], pa.list_(pa.time64("ns")))[0], ["00:00:00.000000001", None]),
        (pa.array([{"x": 1}], pa.struct([("x", pa.time64("ns"))]))[0], {"x": "00:00:00.000000001"}),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.time64("ns")))[0], [("a", "00:00:00.000000001")]),
        (LONG, f"{2**62} s"),
        (pa.scalar(FAR, pa.timestamp("us", "UTC")), f"{FAR} us since 1970-01-01 UTC"),
        (pa.scalar(None, pa.timestamp("us")), None),
        (pa.scalar({"a": [1.5]}), {"a": [1.5]}),
    ],
    ids=("time", "list", "struct", "map", "duration", "timestamp", "null", "plain"),
)
def test_values_that_python_lacks_are_texts_in_structs_too(scalar: pa.Scalar, value: object) -> None:
    assert printable(scalar) == value
    assert holds_fine_times(scalar.type) == ("time64[ns]" in str(scalar.type))


def teardown_module() -> None:
    unload_all()
