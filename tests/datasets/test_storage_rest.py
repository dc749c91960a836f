"""The column of undeclared fields exists for JSON lines only, and is read back as an ordinary column."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from storage_jobs import run_job

from clipmill.errors import SpecError


@pytest.mark.parametrize("old_mark", [None, b"1"])
def test_a_dataset_made_of_json_lines_is_a_table_like_any_other(tmp_path, old_mark):
    """Its `tags` are a column of strings, which does not take undeclared fields."""
    (tmp_path / "x.jsonl").write_text(json.dumps({"id": "a", "caption": "one", "lang": "en", "left": "out"}))
    out = str(tmp_path / "out")
    run_job(out, tmp_path / "x.jsonl", columns={"caption": "text"}, drop=["left"])
    table = pq.read_table(out).drop_columns("caption_embedding")
    tags = table.schema.get_field_index("tags")
    mark = table.schema.field(tags).metadata if old_mark is None else {b"clipmill.rest": old_mark}
    assert b"clipmill.rest" in mark
    table = table.cast(table.schema.set(tags, table.schema.field(tags).with_metadata(mark)))
    pq.write_table(table, tmp_path / "x.parquet")
    again = run_job(str(tmp_path / "again"), tmp_path / "x.parquet", columns={"caption": "text"})
    assert [(row["caption"], row["tags"]) for row in again] == [("one", '{"lang": "en"}')]
    with pytest.raises(SpecError, match="there is no column 'captoin'"):
        run_job(str(tmp_path / "misspelt"), tmp_path / "x.parquet", columns={"captoin": "text"})


@pytest.mark.parametrize("names", [["a.parquet", "b.jsonl"], ["a.jsonl", "b.parquet"]])
def test_undeclared_fields_are_kept_beside_a_table_that_has_tags(tmp_path, names):
    lines, parquet = sorted(names, key=lambda name: "parquet" in name)
    pq.write_table(pa.table({"id": ["t"], "caption": ["two"], "tags": ["mine"]}), tmp_path / parquet)
    (tmp_path / lines).write_text(json.dumps({"id": "j", "caption": "one", "lang": "en"}))
    rows = run_job(str(tmp_path / "out"), *(tmp_path / name for name in names), columns={"caption": "text"})
    assert {row["id"]: json.loads(row["tags"]) for row in rows} == {"t": {"tags": "mine"}, "j": {"lang": "en"}}
