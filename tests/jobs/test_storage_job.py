"""Shards from their input to their files: each row comes out once, with its vector or with the reason why not."""

from __future__ import annotations

import dataclasses
import json
import uuid
from pathlib import Path

import fsspec
import job_options
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from storage_helpers import photograph, text_vector
from storage_jobs import do_job, run_job

from clipmill.datasets import finish_job, plan_shards, read_dataset, read_failures
from clipmill.datasets.dataset import read_job, read_manifests
from clipmill.encoders import EncoderSpec, read_provenance, unload_all
from clipmill.encoders.plans.embed_plan import Column
from clipmill.encoders.testing import fake_image_vector
from clipmill.errors import DatasetError, SpecError
from clipmill.jobs import embed_shard, start_job

SPEC = EncoderSpec("fake::dim=4", device="cpu")


# --- documents -------------------------------------------------------------------------------------------------------


def test_a_folder_of_photographs_with_bad_ones_between(tmp_path):
    """Good rows come out in order with their vectors, bad ones as failures, nothing twice and nothing lost."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, colour in enumerate(["red", "lime", "blue"]):
        (photos / f"{2 * number}.png").write_bytes(photograph(colour))
    (photos / "1.jpg").write_bytes(b"")
    (photos / "3.jpg").write_bytes(b"\xff\xd8 cut")
    out = str(tmp_path / "out")
    rows = run_job(out, photos, rows=2)
    assert [(Path(row["id"]).name, row["uri"] == row["id"], row["embedding"]) for row in rows] == [
        ("0.png", True, [4, 6, 255, 0]),
        ("2.png", True, [4, 6, 0, 255]),
        ("4.png", True, [4, 6, 0, 0]),
    ]
    failures = list(read_failures(out))
    assert [(Path(f["row"]).name, f["code"], f["uri"] == f["row"]) for f in failures] == [
        ("1.jpg", "empty", True),
        ("3.jpg", "undecodable", True),
    ]
    summary = finish_job(out)
    assert (summary.rows, summary.embedded, summary.failed) == (3, 3, {"empty": 1, "undecodable": 1})
    assert (summary.shards, summary.processes, summary.complete) == (3, 1, True)
    assert summary.resolved == [{"runtime": "fake", "precision": "fp32", "device": "cpu", "weights_sha256": None}]


def test_matches_are_embedded_and_a_bad_one_is_null_and_a_failure_with_its_place(tmp_path):
    line = {"id": "q", "text": "query", "matches": [{"text": "good"}, {"id": "bad", "uri": "/etc/hostname"}]}
    (tmp_path / "x.jsonl").write_text(json.dumps(line))
    out = str(tmp_path / "out")
    (row,) = run_job(out, tmp_path / "x.jsonl", access_paths="@r,m")
    assert row["embedding"] == text_vector("query")
    assert [(m["id"], m["embedding"]) for m in row["matches"]] == [("q@m[0]", text_vector("good")), ("bad", None)]
    (failure,) = read_failures(out)
    assert (failure["row"], failure["column"], failure["code"]) == ("q", "@m[1]", "forbidden_uri")
    assert (failure["id"], failure["uri"]) == ("bad", "/etc/hostname")


def test_failures_can_be_embedded_again(tmp_path):
    photo = tmp_path / "a.png"
    (tmp_path / "x.jsonl").write_text(json.dumps({"id": "p", "uri": str(photo), "lang": "en"}))
    spec = dataclasses.replace(SPEC, allow_local_files=True)
    assert run_job(str(tmp_path / "first"), tmp_path / "x.jsonl", spec=spec) == []
    photo.write_bytes(photograph())
    (row,) = run_job(str(tmp_path / "second"), tmp_path / "first" / "_failures" / "*.jsonl", spec=spec)
    assert (row["id"], row["embedding"], json.loads(row["tags"])) == ("p", [4, 6, 255, 0], {"lang": "en"})


def test_a_failure_without_content_keeps_its_reason_when_it_is_read(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": "a", "text": "fine"}\nno json\n')
    run_job(str(tmp_path / "first"), tmp_path / "x.jsonl")
    assert run_job(str(tmp_path / "second"), tmp_path / "first" / "_failures" / "*.jsonl") == []
    (first,), (second,) = (list(read_failures(str(tmp_path / name))) for name in ("first", "second"))
    assert (first["code"], second["code"]) == ("malformed", "malformed")
    assert first["message"] in second["message"] and "embed its source again" in second["message"]


def test_content_is_written_only_when_asked(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "image": [photograph()]}), tmp_path / "x.parquet")
    (row,) = run_job(str(tmp_path / "without"), tmp_path / "x.parquet")
    assert "blob" not in row
    (row,) = run_job(str(tmp_path / "with"), tmp_path / "x.parquet", keep_content=True)
    assert (row["blob"], row["tensor"], row["embedding"]) == (photograph(), None, [4, 6, 255, 0])


def test_tags_are_json_or_columns_of_a_declared_type(tmp_path):
    (tmp_path / "x.jsonl").write_text(
        '{"text": "a", "year": 1999, "x": [1]}\n{"text": "b", "year": "unknown"}\n{"text": "c"}'
    )
    rows = run_job(str(tmp_path / "out"), tmp_path / "x.jsonl", tags={"year": pa.int32()})
    assert [(row["year"], row["tags"] and json.loads(row["tags"])) for row in rows] == [
        (1999, {"x": [1]}),
        (None, {"year": "unknown"}),
        (None, None),
    ]


def test_a_cut_text_is_counted_and_flagged(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "word " * 100}) + '\n{"text": "short"}')
    out = str(tmp_path / "out")
    rows = run_job(out, tmp_path / "x.jsonl")
    assert [row["tags"] for row in rows] == ['{"truncated": true}', None]
    assert finish_job(out).truncated_texts == 1


BAD_LINES = {
    "cut": '{"text"',
    "empty": '{"text": ""}',
    "forbidden": '{"uri": "file:///etc/hostname"}',
    "surrogate": '{"text": "\\ud800"}',
    "deep": '{"text": "b", "tags": {"a": ' + "[" * 500 + "NaN" + "]" * 500 + "}}",
    "deep matches": '{"text": "b", "matches": [' * 350 + "]}" * 350,
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES)
def test_no_line_stops_the_others(tmp_path, bad):
    (tmp_path / "x.jsonl").write_text(f'{{"text": "a"}}\n{bad}\n{{"text": "b"}}')
    out = str(tmp_path / "out")
    rows = run_job(out, tmp_path / "x.jsonl")
    assert [rows[0]["text"], rows[-1]["text"]] == ["a", "b"]
    assert len(rows) + len(list(read_failures(out))) == 3


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path) -> Path:
    """Rows where everything goes well, the photograph fails, everything fails, and everything is null."""
    pq.write_table(
        pa.table(
            {
                "id": [1, 2, 3, 4],
                "caption": ["one", "two", "", None],
                "photo": [photograph(), b"junk", b"", None],
                "when": pa.array([1, 2, 3, 4], pa.timestamp("us")),
            }
        ),
        tmp_path / "x.parquet",
    )
    return tmp_path / "x.parquet"


def test_a_row_that_fails_in_part_keeps_what_was_made_and_one_without_vectors_is_a_failure_only(table, tmp_path):
    out = str(tmp_path / "out")
    rows = run_job(out, table, columns={"caption": "text", "photo": "image"}, drop=["photo"])
    assert [list(row) for row in rows] == [["id", "caption", "when", "caption_embedding", "photo_embedding"]] * 3
    assert [(row["id"], row["caption_embedding"], row["photo_embedding"]) for row in rows] == [
        (1, text_vector("one"), [4, 6, 255, 0]),
        (2, text_vector("two"), None),
        (4, None, None),
    ]
    assert [(f["row"], f["column"], f["code"], f["id"]) for f in read_failures(out)] == [
        ("2", "photo", "undecodable", "2"),
        ("3", "caption", "empty", "3"),
        ("3", "photo", "empty", "3"),
    ]
    summary = finish_job(out)
    assert (summary.rows, summary.embedded, summary.nulls) == (3, 3, 2)
    assert summary.failed == {"empty": 2, "undecodable": 1}


def test_columns_keep_their_types_and_say_where_their_vectors_come_from(table, tmp_path):
    out = str(tmp_path / "out")
    run_job(out, table, columns={"caption": Column("text", output="vec", truncated="cut")})
    schema = read_dataset(out).schema
    assert {field.name: field.type for field in schema} == {
        "id": pa.int64(),
        "caption": pa.string(),
        "photo": pa.binary(),
        "when": pa.timestamp("us"),
        "vec": pa.list_(pa.field("element", pa.float32())),
        "cut": pa.bool_(),
    }
    provenance = read_provenance(out)
    assert list(provenance) == ["vec"]
    assert (provenance["vec"]["model"], provenance["vec"]["dim"]) == ("fake::dim=4", 4)
    assert read_job(out)["provenance"] == provenance


def test_an_array_column_gives_arrays_of_vectors_and_a_path_reads_a_struct(tmp_path):
    pages = [{"words": ["a", "bb"]}, {"words": []}, {"words": None}, None]
    pq.write_table(
        pa.table({"page": pa.array(pages, pa.struct([("words", pa.list_(pa.string()))]))}), tmp_path / "x.pq"
    )
    rows = run_job(str(tmp_path / "out"), tmp_path / "x.pq", columns={"page.words": "text"})
    assert [row["page_words_embedding"] for row in rows] == [[text_vector("a"), text_vector("bb")], [], None, None]


def test_json_lines_keep_every_field_and_an_array_where_none_is_declared_fails_alone(tmp_path):
    lines = [
        {"id": "a", "caption": "one", "n": 1, "tags": {"x": 2}},
        {"caption": ["no", "arrays"]},
        {"caption": "two", "nested": {"y": [3]}},
        {"other": 1},
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = str(tmp_path / "out")
    rows = run_job(out, tmp_path / "x.jsonl", columns={"caption": "text"})
    assert [(row["id"], row["caption"], json.loads(row["tags"])) for row in rows] == [
        ("a", "one", {"x": 2, "n": 1}),
        (f"{tmp_path}/x.jsonl:3", "two", {"nested": {"y": [3]}}),
    ]
    assert [row["caption_embedding"] for row in rows] == [text_vector("one"), text_vector("two")]
    assert [(f["row"], f["code"]) for f in read_failures(out)] == [
        (f"{tmp_path}/x.jsonl:2", "malformed"),
        (f"{tmp_path}/x.jsonl:4", "missing_column"),
    ]


def test_a_value_that_does_not_fit_the_column_of_all_files_costs_its_row(tmp_path):
    """int64 and double become double, which 2^60 + 1 has no place in; its vectors are not counted as made."""
    numbers = pa.array([1, 2**60 + 1, 3, 2**60 + 1, 4], pa.int64())
    photos = [None, None, None, b"junk", b"junk"]
    captions = pa.array(["a", "b", None, "d", "e"])
    pq.write_table(
        pa.table({"id": list("abcde"), "n": numbers, "caption": captions, "photo": photos}), tmp_path / "a.pq"
    )
    pq.write_table(pa.table({"id": ["f"], "n": [0.5], "caption": ["f"]}), tmp_path / "b.pq")
    out = str(tmp_path / "out")
    rows = run_job(out, tmp_path / "*.pq", columns={"caption": "text", "photo": "image"}, rows=5)
    assert [(row["id"], row["n"], row["caption_embedding"]) for row in rows] == [
        ("a", 1.0, text_vector("a")),
        ("c", 3.0, None),
        ("e", 4.0, text_vector("e")),
        ("f", 0.5, text_vector("f")),
    ]
    failures = [(f["row"], f["id"], f["column"], f["code"]) for f in read_failures(out)]
    assert sorted(failures, key=str) == [
        ("b", "b", None, "malformed"),
        ("d", "d", "photo", "undecodable"),
        ("d", "d", None, "malformed"),
        ("e", "e", "photo", "undecodable"),
        ("f", "f", "photo", "missing_column"),
    ]
    assert all("column 'n' is double" in f["message"] for f in read_failures(out) if f["code"] == "malformed")
    summary = finish_job(out)
    assert (summary.input_rows, summary.failed_rows, summary.rows) == (6, 4, 4)
    assert (summary.embedded, summary.nulls) == (3, 3)  # null: the photo of a, both columns of c
    assert summary.failed == {"malformed": 2, "missing_column": 1, "undecodable": 2}


def test_a_document_that_does_not_fit_costs_itself(tmp_path):
    """float16 holds nothing beyond 65504, and the fake's second value is the code point."""
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n{"id": "big", "text": "\U0001f600"}\n{"text": "c"}')
    out = str(tmp_path / "out")
    rows = run_job(out, tmp_path / "x.jsonl", dtype="float16")
    assert [row["text"] for row in rows] == ["a", "c"]
    (failure,) = read_failures(out)
    assert (failure["row"], failure["code"], failure["text"]) == ("big", "malformed", "\U0001f600")
    assert "use float32" in failure["message"]
    assert (finish_job(out).embedded, finish_job(out).nulls) == (2, 0)


def test_a_misfit_ends_a_job_that_is_to_end_at_its_first_failure(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n{"id": "big", "text": "\U0001f600"}')
    with pytest.raises(DatasetError, match="big: malformed at read"):
        run_job(str(tmp_path / "out"), tmp_path / "x.jsonl", dtype="float16", fail_fast=True)


def test_a_date_that_python_cannot_hold_stops_nothing(tmp_path):
    times = pa.array([0, 10**18, 1], pa.timestamp("us"))  # the year 33658 between two of 1970
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": ["a", "b", "c"], "when": times}), tmp_path / "x.parquet")
    rows = run_job(str(tmp_path / "documents"), tmp_path / "x.parquet")
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    do_job(str(tmp_path / "rows"), tmp_path / "x.parquet", columns={"text": "text"})
    written = read_dataset(str(tmp_path / "rows"))
    assert written["when"].combine_chunks().equals(times) and list(read_failures(str(tmp_path / "rows"))) == []
    pq.write_table(pa.table({"id": times, "text": ["a", "b", "c"]}), tmp_path / "key.parquet")
    do_job(str(tmp_path / "keys"), tmp_path / "key.parquet", columns={"text": "text"})
    assert read_dataset(str(tmp_path / "keys"))["id"].combine_chunks().equals(times)
    assert list(read_failures(str(tmp_path / "keys"))) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"columns": {"nothing": "text"}}, SpecError, "no column 'nothing'"),
        ({"columns": {"caption": Column("text", output="id")}}, SpecError, "'id' exists already"),
        ({"columns": {"caption": "text"}, "drop": ["x"]}, SpecError, "drop names 'x'"),
        ({"columns": {"caption": "audio"}}, SpecError, "embeds image and text only"),
        ({"columns": {"caption": "text"}, "tags": ["photo"]}, SpecError, "for documents"),
        ({"drop": ["id"]}, SpecError, "without columns"),
        ({"reader": {"text": "nothing"}}, DatasetError, "no column 'nothing'"),
        ({"reader": {"texts": "caption"}}, TypeError, "texts"),
        ({"access_paths": "m"}, ValueError, "access_paths='m'"),
    ],
    ids=lambda value: "" if isinstance(value, type) else None,
)
def test_what_cannot_work_fails_before_anything_runs(table, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        job_options.plan(SPEC, str(tmp_path / "out"), plan_shards([str(table)]), **options)


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_a_manifest_says_what_a_shard_is_and_what_became_of_it(table, tmp_path):
    out = str(tmp_path / "out")
    unload_all()  # else the vectors may be known from another test, and nothing is encoded
    run_job(out, table, columns={"caption": "text"})
    (manifest,) = read_manifests(out)
    (shard,) = plan_shards([str(table)])
    assert manifest["shard"] == shard.identity()
    assert manifest["shard"]["fingerprint"]
    assert (manifest["input_rows"], manifest["rows"], manifest["failed_rows"]) == (4, 3, 1)
    assert manifest["first_row_at"] <= manifest["last_row_at"]
    assert manifest["loads"] >= 1
    assert manifest["batch_rows"] == {"2": 1}


def test_doing_a_shard_again_gives_the_same_files(table, tmp_path):
    out, shards = str(tmp_path / "out"), plan_shards([str(table)])
    job = job_options.plan(SPEC, out, shards, columns={"caption": "text"})
    start_job(job, shards)
    embed_shard(shards[0], job)
    before = read_dataset(out)
    embed_shard(shards[0], job)
    assert read_dataset(out).equals(before)
    assert len(list(read_failures(out))) == 1


def test_fail_fast_ends_at_the_first_failure_and_leaves_no_part(table, tmp_path):
    out, shards = str(tmp_path / "out"), plan_shards([str(table)])
    job = job_options.plan(SPEC, out, shards, columns={"photo": "image"}, fail_fast=True)
    start_job(job, shards)
    with pytest.raises(DatasetError, match="2: undecodable at decode"):
        embed_shard(shards[0], job)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"_attempts", "_job.json", "_plan.json", "_plan"}
    assert list((tmp_path / "out" / "_attempts").iterdir()) == []


def test_the_input_is_never_overwritten(table):
    shards = plan_shards([str(table)])
    job = job_options.plan(SPEC, str(table.parent), shards, columns={"caption": "text"})
    with pytest.raises(DatasetError, match="lies in the output directory"):
        start_job(job, shards, overwrite=True)
    assert table.exists()


def test_input_and_output_may_be_behind_fsspec():
    bucket = f"memory://{uuid.uuid4().hex}"
    memory = fsspec.filesystem("memory")
    memory.pipe(f"{bucket}/in/a.png", photograph())
    memory.pipe(f"{bucket}/in/b.jsonl", b'{"text": "b"}\n{')
    rows = run_job(f"{bucket}/out", f"{bucket}/in")
    assert [row["embedding"] for row in rows] == [[4, 6, 255, 0], text_vector("b")]
    assert [failure["code"] for failure in read_failures(f"{bucket}/out")] == ["malformed"]


def test_vectors_equal_the_encoders_own(tmp_path):
    """What stands in the file is what the encoder computes, to the bit."""
    (tmp_path / "a.png").write_bytes(photograph("navy", (9, 5)))
    (row,) = run_job(str(tmp_path / "out"), tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert np.array_equal(np.array(row["embedding"], np.float32), fake_image_vector(pixels, 4))
