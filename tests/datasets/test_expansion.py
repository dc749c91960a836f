"""Inputs that take much more memory than they have bytes: the row fails as `too_large`, and its neighbours are read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tar_files import tar_bytes

from clipmill.datasets.inputs import SourceRow, plan_shards, read_rows
from clipmill.datasets.inputs import lines as lines_module
from clipmill.datasets.inputs import samples as samples_module
from clipmill.files import parquet_pages


def rows_of(path: Path, *, rows: int = 1024, **options: Any) -> list[SourceRow]:
    return [row for shard in plan_shards([str(path)], rows_per_shard=rows) for row in read_rows(shard, **options)]


def codes(rows: list[SourceRow]) -> list[str | None]:
    return [None if row.failure is None else str(row.failure.code) for row in rows]


# --- Parquet ---------------------------------------------------------------------------------------------------------


def test_a_row_group_whose_pages_expand_fails_and_its_neighbours_are_read(monkeypatch, tmp_path):
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 2**20)
    texts = ["a"] * 4 + ["x" * 2**19] * 4 + ["b"] * 4
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": texts}), path, compression="zstd", use_dictionary=False, row_group_size=4)
    found = rows_of(path)
    assert codes(found) == [None] * 4 + ["too_large"] + [None] * 4
    assert found[4].failure.message.startswith("rows 4 to 7: ") and "'text'" in found[4].failure.message
    assert [row.place.rpartition(":")[2] for row in found] == ["0", "1", "2", "3", "4", "8", "9", "10", "11"]


def test_other_columns_of_that_row_group_are_read(monkeypatch, tmp_path):
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 2**20)
    path = tmp_path / "x.parquet"
    table = pa.table({"id": ["1", "2"], "text": ["x" * 2**20] * 2})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    assert [row.values for row in rows_of_columns(path, ["id"])] == [{"id": "1"}, {"id": "2"}]


def rows_of_columns(path: Path, columns: list[str]) -> list[SourceRow]:
    return [row for shard in plan_shards([str(path)]) for row in read_rows(shard, choose=lambda _: columns)]


@pytest.mark.parametrize("rows", [1024, 50])
def test_a_long_value_that_all_rows_repeat_is_read_a_few_rows_at_a_time(tmp_path, rows):
    """64 rows at once would take 256 MiB; the file has 2 kB."""
    path, text = tmp_path / "x.parquet", "x" * (4 * 2**20)
    pq.write_table(pa.table({"id": list(range(100)), "text": [text] * 100}), path, compression="zstd")
    assert path.stat().st_size < 3000
    before, most, ids = pa.total_allocated_bytes(), 0, []
    for shard in plan_shards([str(path)], rows_per_shard=rows):
        for row in read_rows(shard):
            most = max(most, pa.total_allocated_bytes() - before)
            ids.append(row.values["id"])
            assert row.failure is None and row.values["text"] == text
    assert ids == list(range(100))
    assert most < 160 * 2**20


def test_a_row_whose_lists_hold_too_many_values_fails_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(lines_module, "MAX_RECORD_VALUES", 1000)
    path = tmp_path / "x.parquet"
    lists = [[1], [0] * 1001, None, [2] * 1000]
    pq.write_table(pa.table({"a": lists, "b": [{"c": [[1]]}] * 4, "m": pa.array([[("a", 1)]] * 4, MAP)}), path)
    assert codes(rows_of(path)) == [None, "too_large", None, "too_large"]  # with those of the other columns
    pq.write_table(pa.table({"a": lists}), path)
    found = rows_of(path)
    assert codes(found) == [None, "too_large", None, None]
    assert [row.values.get("a") for row in found] == [[1], None, None, [2] * 1000]


MAP = pa.map_(pa.string(), pa.int64())


# --- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [[[]] * 400, [{}] * 400, [0] * 1200, {str(number): 0 for number in range(1200)}, [{"a": 0}] * 400],
    ids=["arrays", "objects", "numbers", "fields", "nested"],
)
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_a_line_of_too_many_values_fails_alone(monkeypatch, tmp_path, value, ending):
    monkeypatch.setattr(lines_module, "MAX_RECORD_VALUES", 1000)
    lines = [{"text": "a"}, {"text": "b", "more": value}, {"text": "c,{[" * 80}]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (tmp_path / f"x.{ending}").write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    found = rows_of(tmp_path / f"x.{ending}")
    assert codes(found) == [None, "too_large", None]
    assert "may have 1,000" in found[1].failure.message
    assert [row.values.get("text", "")[:1] for row in found] == ["a", "", "c"]


@pytest.mark.parametrize(("name", "delimiter"), [("x.csv", ","), ("x.tsv", "\t")])
def test_a_csv_record_of_too_many_fields_or_lines_fails_alone(monkeypatch, tmp_path, name, delimiter):
    monkeypatch.setattr(lines_module, "MAX_RECORD_VALUES", 1000)
    monkeypatch.setattr(lines_module, "MAX_RECORD_LINES", 10)
    (tmp_path / name).write_text(
        "text\na\n" + delimiter * 1001 + '\nb\n"' + "\n" * 9 + '"\nc\n"' + "\n" * 10 + '"\nd\n'
    )
    found = rows_of(tmp_path / name)
    assert codes(found)[:5] == [None, "too_large", None, None, None]
    assert [row.values.get("text") for row in found][:5] == ["a", None, "b", "\n" * 9, "c"]
    assert codes(found)[5] == "too_large" and "more than 10 lines" in found[5].failure.message


def test_a_line_that_is_too_long_is_too_large(monkeypatch, tmp_path):
    monkeypatch.setattr(lines_module, "MAX_RECORD_BYTES", 100)
    for name, start in (("x.jsonl", b""), ("x.csv", b"text\n")):
        (tmp_path / name).write_bytes(start + b"1" * 500 + b"\n")
        assert codes(rows_of(tmp_path / name)) == ["too_large"]


# --- samples ---------------------------------------------------------------------------------------------------------


def test_the_files_of_a_sample_have_a_limit_together(tmp_path):
    members = [
        ("a.jpg", b"1" * 100),
        ("b.jpg", b"2" * 100),
        ("b.wav", b"3" * 100),
        ("c.jpg", b"4" * 100),
        ("c.wav", b"5" * 100),
        ("c.txt", b"6"),
        ("d.txt", b"7"),
    ]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    found = rows_of(tmp_path / "x.tar", max_file_bytes=100)
    assert codes(found) == [None, None, "too_large", None]
    assert "'c.txt'" in found[2].failure.message and "2 times max_fetch_bytes" in found[2].failure.message
    assert [row.values["key"] for row in found] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("rows", [1, 1024])
def test_a_sample_of_too_many_files_is_one_row_that_fails(monkeypatch, tmp_path, rows):
    monkeypatch.setattr(samples_module, "MAX_SAMPLE_FILES", 5)
    endings = ["jpg", *(f"x{number}" for number in range(7)), "jpg", "x0"]
    members = [("a.txt", b"1"), *((f"b.{ending}", b"2") for ending in endings), ("c.txt", b"3")]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    found = rows_of(tmp_path / "x.tar", rows=rows)
    assert codes(found) == [None, "too_large", None]
    assert [row.values["key"] for row in found] == ["a", "b", "c"]


@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_metadata_of_too_many_values_is_too_large(monkeypatch, tmp_path, kind):
    monkeypatch.setattr(lines_module, "MAX_RECORD_VALUES", 1000)
    files = [("a.png", b"1"), ("a.json", json.dumps({"a": [0] * 1001}).encode()), ("b.png", b"2"), ("b.json", b"{}")]
    if kind == "tar":
        (tmp_path / "x.tar").write_bytes(tar_bytes(files))
    else:
        for name, content in files:
            (tmp_path / name).write_bytes(content)
    assert codes(rows_of(tmp_path / "x.tar" if kind == "tar" else tmp_path)) == ["too_large", None]


def test_few_captions_are_in_memory_at_a_time(monkeypatch, tmp_path):
    opened = []
    usual = samples_module._small_file

    def noted(path: str, most: int) -> bytes:
        opened.append(path)
        return usual(path, most)

    monkeypatch.setattr(samples_module, "_small_file", noted)
    for number in range(100):
        (tmp_path / f"{number:03d}.png").write_bytes(b"1")
        (tmp_path / f"{number:03d}.txt").write_text(f"caption {number}")
    (shard,) = plan_shards([str(tmp_path)])
    captions = []
    for number, row in enumerate(read_rows(shard)):
        captions.append(row.values["text"])
        assert len(opened) <= number + samples_module._FILES_AHEAD
    assert captions == [f"caption {number}" for number in range(100)]


def test_extended_headers_that_describe_no_file_end_an_archive(tmp_path):
    import tarfile

    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 2**19
    record = b"%d a=%s\n" % (2**19, b"b" * (2**19 - 10))
    piece = header.tobuf() + record
    assert len(record) == 2**19
    (tmp_path / "x.tar").write_bytes(piece * 3 + tar_bytes([("a.txt", b"1")]))
    found = rows_of(tmp_path / "x.tar")
    assert codes(found) == ["malformed"] and "describe no file" in found[0].failure.message
