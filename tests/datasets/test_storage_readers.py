"""Files are read as documents and rows; a broken record fails alone."""

from __future__ import annotations

import gzip
import json
import os
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from storage_helpers import codes, documents, fill, rows_of

from clipmill.datasets import plan_shards, read_documents, read_rows, schema_of, whole_file
from clipmill.datasets.inputs import ReaderOptions
from clipmill.encoders.item import Uri
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.errors import DatasetError

# --- documents -------------------------------------------------------------------------------------------------------


def test_listed_files_may_be_local_and_uris_inside_files_are_untrusted(tmp_path):
    fill(tmp_path, "a.jpg", "empty.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "x.jsonl").write_text(json.dumps({"uri": str(tmp_path / "a.jpg"), "_trusted_uri": True}))
    found = documents(tmp_path)
    assert [os.path.basename(d.id) for d in found] == ["a.jpg", "empty.jpg", "x.jsonl:1"]
    assert [d.item().content.trusted for d in found] == [True, True, False]


def test_a_json_line_is_a_document_and_unknown_fields_are_tags(tmp_path):
    (tmp_path / "x.jsonl").write_text(
        '{"id": 7, "text": "a", "lang": "en", "tags": {"x": 1}, "matches": [{"text": "m"}, {"id": "n", "uri": "u"}]}'
    )
    (found,) = documents(tmp_path)
    assert (found.id, found.text, found.tags) == ("7", "a", {"x": 1, "lang": "en"})
    assert [(m.id, m.text, m.uri) for m in found.matches] == [("7@m[0]", "m", None), ("n", None, "u")]


BROKEN_LINES = {
    "cut": (b'{"text": "cut', "invalid JSON: Unterminated string"),
    "not UTF-8": (b'{"text": "\xff"}', "not UTF-8 at byte 10"),
    "list": (b"[1]", "holds a list, not an object"),
    "text is a number": (b'{"text": 5}', "'text' is not a string"),
    "matches is no list": (b'{"text": "a", "matches": 5}', "not a list of objects"),
    "deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "more than 64 levels deep"),
    "65 levels": (b'{"tags":' * 65 + b"1" + b"}" * 65, "more than 64 levels deep"),
    "deep NaN": (b'{"text": "b", "tags": {"a":' + b"[" * 500 + b"NaN" + b"]" * 500 + b"}}", "more than 64 levels"),
    "deep matches": (b'{"matches": [' * 350 + b"]}" * 350, "more than 64 levels deep"),
    "endless number": (b'{"n": ' + b"1" * 5000 + b"}", "limit"),
}


@pytest.mark.parametrize(("line", "message"), BROKEN_LINES.values(), ids=BROKEN_LINES)
def test_a_broken_line_fails_alone(tmp_path, line, message):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "before"}\n' + line + b'\n\n{"text": "after"}\n')
    found = documents(tmp_path)
    assert [d.text for d in found] == ["before", None, "after"]
    (failure,) = found[1].failures
    assert (str(failure.stage), str(failure.code), failure.row) == ("read", "malformed", f"{tmp_path}/x.jsonl:2")
    assert message in failure.message


def test_lines_of_the_maximum_depth_and_wide_lines_are_read(tmp_path):
    """Brackets inside strings and next to each other do not count as levels."""
    deep = '{"text": "a", "tags":' + '{"a":' * 62 + "[1]" + "}" * 62 + "}"
    wide = json.dumps({"text": "[" * 100, "tags": {"a": [[n] for n in range(100)]}})
    (tmp_path / "x.jsonl").write_text(f"{deep}\n{wide}\n")
    found = documents(tmp_path)
    assert codes(found) == [None, None]
    assert [d.text for d in found] == ["a", "[" * 100]


ROLES = {
    "uri and id of one field": ({"uri": "url", "id": "url"}, {"url": "u"}, ("u", None, "u", {})),
    "text and id of one field": ({"text": "caption", "id": "caption"}, {"caption": "c"}, ("c", "c", None, {})),
    "the uri, which is one already": ({"id": "uri"}, {"uri": "u", "x": 1}, ("u", None, "u", {"x": 1})),
    "the id, which is one already": ({"text": "id"}, {"id": "i"}, ("i", "i", None, {})),
    "two that change places": ({"text": "uri", "uri": "text"}, {"text": "u", "uri": "t"}, (None, "t", "u", {})),
    "a text that is a URI": ({"uri": "text"}, {"text": "u"}, (None, None, "u", {})),
    "nothing twice": ({"id": "key", "text": "caption"}, {"key": "k", "caption": "c"}, ("k", "c", None, {})),
}


@pytest.mark.parametrize(("names", "line", "expected"), ROLES.values(), ids=ROLES)
def test_one_field_may_be_content_and_id(tmp_path, names, line, expected):
    (tmp_path / "x.jsonl").write_text(json.dumps(line))
    (found,) = documents(tmp_path, **names)
    id = None if found.id == f"{tmp_path}/x.jsonl:1" else found.id
    assert (id, found.text, found.uri, found.tags) == expected
    assert found.failures == ()


def test_one_column_of_a_table_may_be_content_and_id(tmp_path):
    (tmp_path / "x.csv").write_text("url,n\nu,1\n")
    (found,) = documents(tmp_path, uri="url", id="url")
    assert (found.id, found.uri, found.tags) == ("u", "u", {})


def test_a_line_of_any_length_fails_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("clipmill.datasets.inputs.lines.MAX_RECORD_BYTES", 100)
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "a"}\n{"text": "' + b"b" * 500 + b'"}\n{"text": "c"}')
    found = documents(tmp_path)
    assert [d.text for d in found] == ["a", None, "c"]
    assert "longer than 100 bytes" in found[1].failures[0].message
    assert [d.id.rpartition(":")[2] for d in found] == ["1", "2", "3"]


def test_a_truncated_gzip_file_yields_its_readable_lines_and_one_failure(tmp_path):
    lines = "".join(json.dumps({"text": f"{n} {uuid.uuid4()}"}) + "\n" for n in range(2000)).encode()
    packed = gzip.compress(lines)
    (tmp_path / "x.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    found = documents(tmp_path)
    assert 0 < len(found) - 1 < 2000
    assert codes(found)[-1] == "malformed"
    assert set(codes(found)[:-1]) == {None}


def test_an_unclosed_quote_loses_only_its_line(tmp_path):
    (tmp_path / "x.csv").write_text('id,text\n1,good\n2,"open\n3,fine\n4,fine too\n')
    found = documents(tmp_path)
    assert [d.text for d in found] == ["good", None, "fine", "fine too"]
    assert found[1].failures[0].message == "a quote is not closed"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2,too,many", "3 fields, but the header has 2"),
        ("2", "1 fields, but the header has 2"),
        ('2,"a"b', "expected after"),
    ],
)
def test_a_broken_csv_record_fails_alone(tmp_path, line, message):
    (tmp_path / "x.csv").write_text(f"id,text\n1,a\n{line}\n3,c\n")
    found = documents(tmp_path)
    assert [d.text for d in found] == ["a", None, "c"]
    assert message in found[1].failures[0].message


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_utf16_is_one_failure(tmp_path, name):
    (tmp_path / name).write_text('id,text\n1,"a"\n', encoding="utf-16")
    (found,) = documents(tmp_path / name)
    assert "UTF-16; convert it to UTF-8" in found.failures[0].message


def test_tabs_separate_tsv(tmp_path):
    (tmp_path / "x.tsv").write_text("key\tcaption\n1\ta, b\n")
    assert [(d.id, d.text) for d in documents(tmp_path)] == [("1", "a, b")]


def test_columns_are_found_by_default_names_or_by_options(tmp_path):
    table = pa.table({"key": ["k", None], "caption": ["c", None], "image": [b"i", b"j"], "label": [1, 2]})
    pq.write_table(table, tmp_path / "x.parquet")
    found = documents(tmp_path)
    assert [(d.id, d.text, d.blob) for d in found] == [("k", "c", b"i"), (f"{tmp_path}/x.parquet:1", None, b"j")]
    found = documents(tmp_path, image="image", tags=["label"])
    assert [(d.text, d.blob, d.tags) for d in found] == [(None, b"i", {"label": 1}), (None, b"j", {"label": 2})]


def test_a_struct_of_bytes_and_path_is_an_image_and_its_path_is_untrusted(tmp_path):
    images = [{"bytes": b"i", "path": None}, {"bytes": None, "path": "/etc/hostname"}, None]
    pq.write_table(pa.table({"page": [{"image": image} for image in images]}), tmp_path / "x.parquet")
    found = documents(tmp_path, image="page.image")
    assert [(d.blob, d.uri, d._trusted_uri) for d in found] == [
        (b"i", None, False),
        (None, "/etc/hostname", False),
        (None, None, False),
    ]


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_a_missing_column_is_a_failure_that_lists_the_existing_columns(tmp_path, name):
    if name == "x.csv":
        (tmp_path / name).write_text("a,b\n1,2\n")
    else:
        pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / name)
    (found,) = documents(tmp_path, text="caption")
    assert str(found.failures[0].code) == "missing_column"
    assert "no column 'caption'; it has 'a', 'b'" in found.failures[0].message


def test_a_value_of_the_wrong_type_fails_alone(tmp_path):
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "x.parquet")
    assert codes(documents(tmp_path)) == ["unsupported", "unsupported"]


def test_parquet_with_a_string_that_is_not_utf8_loses_that_row(tmp_path):
    data = pa.array([b"good", b"\xff", b"fine"], pa.binary())
    table = pa.table({"text": pa.Array.from_buffers(pa.string(), 3, data.buffers())})
    pq.write_table(table, tmp_path / "x.parquet")
    found = documents(tmp_path)
    assert [d.text for d in found] == ["good", None, "fine"]
    assert codes(found) == [None, "malformed", None]


def test_a_damaged_row_group_fails_alone(tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"text": [f"{n} {uuid.uuid4()}" for n in range(300)]})
    pq.write_table(table, path, row_group_size=100, compression="zstd", use_dictionary=False)
    column = pq.read_metadata(path).row_group(1).column(0)
    content = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    content[middle - 200 : middle + 200] = b"\x00" * 400
    path.write_bytes(content)
    found = documents(path)
    assert [d.text for d in found if not d.failures] == table["text"].to_pylist()[:100] + table["text"].to_pylist()[
        200:
    ]
    (failure,) = [d.failures[0] for d in found if d.failures]
    assert (str(failure.code), failure.row) == ("malformed", f"{path}:100")
    assert "rows 100 to 199" in failure.message


@pytest.mark.parametrize("content", [b"", b"PAR1 is no footer", b"PAR1"], ids=["empty", "junk", "cut"])
def test_an_unreadable_parquet_file_is_one_failure_and_the_next_is_read(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    pq.write_table(pa.table({"text": ["fine"]}), tmp_path / "b.parquet")
    found = documents(tmp_path)
    assert codes(found) == ["malformed", None]
    assert found[0].id == f"{tmp_path}/a.parquet"
    assert found[1].text == "fine"


def test_a_file_that_was_deleted_after_planning_is_a_failure(tmp_path):
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert codes(list(read_documents(whole_file(str(tmp_path / name))))) == ["not_found"]


def test_failures_are_read_as_documents_to_retry(tmp_path):
    record = {
        "row": "a", "column": None, "stage": "fetch", "code": "fetch_failed", "message": "…", "transient": True,
        "id": "a", "uri": "https://example.com/a.jpg", "tags": {"x": 1},
    }  # fmt: skip
    (tmp_path / "failures.jsonl").write_text(json.dumps(record) + "\n")
    (found,) = documents(tmp_path)
    assert (found.id, found.uri, found.tags) == ("a", "https://example.com/a.jpg", {"x": 1})


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "id_column", "expected"),
    [
        ([b"\x01", b"\x02"], None, ["01", "02"]),
        ([0, 1], None, ["0", "1"]),
        ([{"n": "a"}, {"n": "b"}], "id.n", ["a", "b"]),
    ],
    ids=["bytes", "numbers", "inside a struct"],
)
def test_a_row_that_fails_has_its_id_as_the_others_have(tmp_path, ids, id_column, expected):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": ids, "url": pa.array([b"no", None], pa.binary()), "text": ["a", "b"]}), path)
    reader = ReaderOptions(id=id_column, uri="url", text="text")
    found = [document for shard in plan_shards([str(path)]) for document in read_documents(shard, reader)]
    assert [document.id for document in found] == expected
    assert [len(document.failures) for document in found] == [1, 0]


def test_rows_have_all_columns_and_broken_ones_a_failure(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": {"b": 1}}\n{"a"\n{"c": [2]}\n')
    found = rows_of(tmp_path)
    assert [row.values for row in found] == [{"a": {"b": 1}}, {}, {"c": [2]}]
    assert [row.failure and row.failure.row for row in found] == [None, f"{tmp_path}/x.jsonl:2", None]


def test_files_are_rows_with_their_paths(tmp_path):
    """No column of the output holds their bytes; the path locates them."""
    fill(tmp_path, "a.jpg")
    shards = plan_shards([str(tmp_path)])
    path = str(tmp_path / "a.jpg")
    place = Uri(path, trusted=True)
    values = {"key": path, "image": place, "audio": place, "text": None, "tags": {}}
    assert list(read_rows(shards[0])) == [(path, values, None, None)]
    assert schema_of(shards).names == ["key", "text", "tags"]


def test_one_schema_for_all_files(tmp_path):
    pq.write_table(pa.table({"id": pa.array([1], pa.int32()), "text": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": pa.array([1], pa.int64()), "more": [1.5]}), tmp_path / "b.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"junk")
    schema = schema_of(plan_shards([str(tmp_path)]))
    assert {field.name: field.type for field in schema} == {
        "id": pa.int64(),
        "text": pa.string(),
        "more": pa.float64(),
    }


def test_json_lines_declare_what_is_embedded_and_nothing_is_inferred(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"caption": "a", "n": 1}\n')
    (tmp_path / "b.jsonl").write_text('{"caption": "a", "n": "text", "more": null}\n')
    plan = ColumnPlan.of({"caption": "text", "page.photo": "image"})
    for name in ("a.jsonl", "b.jsonl"):
        schema = schema_of(plan_shards([str(tmp_path / name)]), plan)
        assert {field.name: field.type for field in schema} == {
            "id": pa.string(),
            "caption": pa.string(),
            "tags": pa.string(),
        }


def test_columns_with_the_same_name_and_incompatible_types_are_refused(tmp_path):
    pq.write_table(pa.table({"x": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": [{"y": 1}]}), tmp_path / "b.parquet")
    with pytest.raises(DatasetError, match="different types"):
        schema_of(plan_shards([str(tmp_path)]))
