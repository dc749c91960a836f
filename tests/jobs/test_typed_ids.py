"""Ids and tags of every type: readable texts in failures, by which a second try and `skip_existing` find the rows."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from carried_types import CARRIED
from existing_contract import Nights, embed_here
from storage_jobs import SPEC, do_job, run_job

from clipmill.datasets import read_dataset, read_failures
from clipmill.datasets.tables.schemas import documents_batch, documents_schema
from clipmill.encoders import Document
from clipmill.errors import DatasetError

TEXTS = {
    "bool": ["true", "false"],
    "uint64": ["0", "18446744073709551615"],
    "binary": [None, "00ff"],
    "date32[day]": ["0001-01-01", "9999-12-31"],
    "date beyond Python's": ["1000000000 days since 1970-01-01", "-100000000 days since 1970-01-01"],
    "time32[ms]": ["00:00:00", "23:59:59.999000"],
    "time in nanoseconds": ["00:00:00.000000001", "23:59:59.999999999"],
    "timestamp": ["1970-01-01T00:00:00", "1000000000000000000 us since 1970-01-01"],
    "timestamp with zone": ["1970-01-01T01:00:00+01:00", "1000000000000000000 us since 1970-01-01 UTC"],
    "nanoseconds": ["1970-01-01T00:00:00.000000001", "1969-12-31T23:59:59.999999999"],
    "duration": ["0.000000001 s", "-0.000000001 s"],
    "decimal32(5, 2)": ["1.50", "-999.99"],
    "extension<arrow.uuid>": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "list<item: int32>": ["[]", "[1, null]"],
    "struct<a: int8, b: list<item: string>>": ['{"a": 1, "b": ["x"]}', '{"a": null, "b": null}'],
    "map<string, int64>": ["[]", '[["k", null]]'],
    "dictionary": ["a", "b"],
    "null": [None, None],
}
"""The texts of the first two values of some columns; None for a missing id."""


@pytest.mark.parametrize("name", TEXTS)
def test_ids_of_every_type_are_readable_and_find_their_rows(tmp_path: Path, name: str) -> None:
    """In failures of rows and of documents, in the second try of both, and in `skip_existing`."""
    ids = CARRIED[name].slice(0, 2)
    pq.write_table(pa.table({"id": ids, "caption": ["one", ""]}), tmp_path / "in.parquet")
    nights = Nights(tmp_path, embed_here)
    nights.run("rows", tmp_path / "in.parquet", columns={"caption": "text"})
    nights.run("documents", tmp_path / "in.parquet", reader={"text": "caption", "id": "id"})
    (of_row,), (of_document,) = (list(read_failures(nights.directory(one))) for one in ("rows", "documents"))
    place = f"{tmp_path / 'in.parquet'}:"
    texts = TEXTS[name]
    first, second = (text or f"{place}{number}" for number, text in enumerate(texts))
    assert (of_row["row"], of_row.get("id") or second) == (second, second)
    assert (of_document["row"], of_document["id"]) == (second, second)
    assert nights.keys("documents") == [first]

    # the line of a failure is input again, under the same id
    line = tmp_path / "again.jsonl"
    line.write_text(json.dumps({**of_document, "text": "two"}) + "\n")
    assert run_job(str(tmp_path / "second"), line)[0]["id"] == second
    options: dict = {"reader": {"text": "caption", "id": "id"}}
    assert nights.run("new documents", tmp_path / "in.parquet", skip=("documents",), **options).skipped == 1
    found = nights.run("new rows", tmp_path / "in.parquet", skip=("rows",), columns={"caption": "text"})
    assert found.skipped == (first == texts[0])  # a row without an id is embedded again


# --- tags ------------------------------------------------------------------------------------------------------------


def written(tags: dict) -> str | None:
    schema = documents_schema(SPEC)
    (text,) = documents_batch([Document(id="a", tags=tags)], schema, 4)["tags"].to_pylist()
    return text


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ({}, None),
        ({"n": np.int64(7), "f": np.float32(0.5), "b": np.bool_(True)}, '{"n": 7, "f": 0.5, "b": true}'),
        ({"a": np.arange(3), "s": {"x"}, "t": (1, None)}, '{"a": [0, 1, 2], "s": ["x"], "t": [1, null]}'),
        ({"nan": float("nan"), "day": datetime.date(2026, 1, 2)}, '{"nan": null, "day": "2026-01-02"}'),
        ({1: {2.5: {True: None}}}, '{"1": {"2.5": {"true": null}}}'),
        ({"big": 2**100}, f'{{"big": {2**100}}}'),
    ],
    ids=["none", "numpy", "lists", "missing", "keys", "integer"],
)
def test_tags_are_written_as_json(tags: dict, text: str | None) -> None:
    assert written(tags) == text


@pytest.mark.parametrize(
    "value",
    [b"x", [b"x"], {"y": object()}, 1j, np.array([b"x"]), {1: 0, "1": 0}, 10**5000],
    ids=lambda one: type(one).__name__,
)
def test_tags_that_json_cannot_hold_are_refused_by_name(value: object) -> None:
    with pytest.raises(DatasetError, match=r"^the tag 'x': .*; convert it, give its column a type, or leave it out$"):
        written({"x": value})


def test_a_declared_tag_has_its_type_unless_its_value_does_not_fit() -> None:
    schema = documents_schema(SPEC, tags={"x": pa.binary(), "n": pa.int64()})
    batch = documents_batch(
        [Document(id="a", tags={"x": b"\0", "n": 1.5}), Document(id="b", tags={"n": 2.0})], schema, 4
    )
    assert batch["x"].to_pylist() == [b"\0", None] and batch["n"].to_pylist() == [None, 2]
    assert batch["tags"].to_pylist() == ['{"n": 1.5}', None]


@pytest.mark.parametrize("name", ["binary", "fixed_size_binary[3]", "struct"])
def test_a_column_of_bytes_is_no_tag(tmp_path: Path, name: str) -> None:
    column = CARRIED.get(name, pa.array([{"a": [b"x"]}] * 4))
    pq.write_table(pa.table({"caption": ["one"] * 4, "x": column}), tmp_path / "in.parquet")
    with pytest.raises(DatasetError, match=r"column 'x' is .*, and tags are JSON, which has no bytes"):
        do_job(str(tmp_path / "out"), tmp_path / "in.parquet", reader={"text": "caption"}, tags=["x"])
    do_job(str(tmp_path / "declared"), tmp_path / "in.parquet", reader={"text": "caption"}, tags={"x": column.type})
    assert read_dataset(str(tmp_path / "declared"))["x"].to_pylist() == column.to_pylist()
