"""Listing inputs and cutting them into shards; the rows are the same however they are cut."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import uuid

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from storage_helpers import documents, fill, relative, rows_of

from clipmill.datasets import Shard, plan_shards, read_documents, read_rows
from clipmill.datasets.inputs import shards as shards_module
from clipmill.datasets.inputs.listing import list_inputs
from clipmill.errors import DatasetError

# --- listing ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_listed_recursively_without_hidden_files_and_markers(tmp_path):
    fill(tmp_path, "b.jpg", "a/c.png", "a/_DSC1.jpg", "noending", ".hidden", ".git/x.jpg", "a/.DS_Store")
    fill(tmp_path, "_SUCCESS", "_failures/part-0.jsonl", "t/_delta_log/0.json")
    assert relative(plan_shards([str(tmp_path)]), tmp_path) == ["a/_DSC1.jpg", "a/c.png", "b.jpg", "noending"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["top.jpg"]),
        ("**.jpg", ["a/b/deep.jpg", "a/mid.jpg", "top.jpg"]),
        ("**/*.jpg", ["a/b/deep.jpg", "a/mid.jpg", "top.jpg"]),
        ("a/**.jpg", ["a/b/deep.jpg", "a/mid.jpg"]),
        ("*/*.jpg", ["a/mid.jpg"]),
        ("a/[lm]i?.jpg", ["a/mid.jpg"]),
        ("a/[!x]id.*", ["a/mid.jpg", "a/mid.png"]),
        (".h/*", [".h/hidden.jpg"]),
    ],
)
def test_globs(tmp_path, pattern, expected):
    fill(tmp_path, "top.jpg", "a/mid.jpg", "a/mid.png", "a/b/deep.jpg", ".h/hidden.jpg", "a/.x.jpg")
    assert relative(plan_shards([f"{tmp_path}/{pattern}"]), tmp_path) == expected


def test_an_existing_file_is_not_treated_as_a_glob(tmp_path):
    fill(tmp_path, "a[1].jpg", "a1.jpg")
    assert relative(plan_shards([f"{tmp_path}/a[1].jpg"]), tmp_path) == ["a[1].jpg"]


def test_inputs_keep_their_order_without_duplicates(tmp_path):
    fill(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    assert relative(plan_shards([f"{tmp_path}/c.jpg", str(tmp_path)]), tmp_path) == ["c.jpg", "a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("given", "message"),
    [("missing", "no such file or folder"), ("*.gif", "matches no file"), ("empty", "holds no files")],
)
def test_an_input_without_files_is_an_error_with_its_name(tmp_path, given, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=f"{given.replace('*', '[*]')}.*{message}"):
        plan_shards([f"{tmp_path}/{given}"])


def test_links_are_followed_and_cycles_end(tmp_path):
    fill(tmp_path / "real", "x.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "up").symlink_to(tmp_path / "real")
    (tmp_path / "in" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert relative(plan_shards([str(tmp_path / "in")]), tmp_path / "in") == ["gone.jpg", "linked/x.jpg"]


def test_files_behind_fsspec_keep_their_urls():
    memory, name = fsspec.filesystem("memory"), uuid.uuid4().hex
    memory.pipe({f"/{name}/a/1.jpg": b"x", f"/{name}/2.jpg": b"", f"/{name}/t.jsonl": b'{"text": "hello"}\n'})
    shards = plan_shards([f"memory://{name}"])
    assert [shard.paths for shard in shards] == [
        (f"memory:///{name}/2.jpg", f"memory:///{name}/a/1.jpg"),
        (f"memory:///{name}/t.jsonl",),
    ]
    assert [d.text for d in read_documents(shards[1])] == ["hello"]
    assert [shard.paths for shard in plan_shards([f"memory://{name}/**.jpg"])] == [shards[0].paths]
    assert [listed.size for listed in list_inputs([f"memory://{name}"])] == [0, 1, 18]


def test_a_file_name_that_is_not_utf8_is_listed(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb") as file:
        file.write(b"x")
    (shard,) = plan_shards([str(tmp_path)])
    assert shard.paths == (f"{tmp_path}/\udcff.jpg",)


# --- planning --------------------------------------------------------------------------------------------------------


def test_shards_are_the_same_every_time_and_picklable(tmp_path):
    fill(tmp_path, *(f"{number}.jpg" for number in range(5)))
    shards = plan_shards([str(tmp_path)], rows_per_shard=2)
    assert [len(shard.paths) for shard in shards] == [2, 2, 1]
    assert plan_shards([str(tmp_path)], rows_per_shard=2) == shards
    assert pickle.loads(pickle.dumps(shards)) == shards
    assert [Shard.from_dict(json.loads(json.dumps(shard.as_dict()))) for shard in shards] == shards
    assert len({shard.name for shard in shards}) == 3


def test_a_changed_file_changes_the_fingerprint_and_not_the_name(tmp_path):
    fill(tmp_path, "a.jpg")
    (before,) = plan_shards([str(tmp_path)])
    (tmp_path / "a.jpg").write_bytes(b"longer")
    (after,) = plan_shards([str(tmp_path)])
    assert after.name == before.name
    assert after.fingerprint != before.fingerprint
    assert after.nbytes == 6


@pytest.mark.parametrize("every", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("end", ["", "\n"], ids=["without a last line break", "with one"])
def test_json_lines_are_the_same_however_they_are_cut(tmp_path, every, end):
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps({"text": f"ü{n}"}) for n in range(5)) + end)
    found = documents(tmp_path / "x.jsonl", rows=every)
    assert [d.text for d in found] == [f"ü{n}" for n in range(5)]
    assert [d.id for d in found] == [f"{tmp_path}/x.jsonl:{line}" for line in range(1, 6)]


@pytest.mark.parametrize("every", [1, 2, 3, 100])
def test_csv_is_the_same_however_it_is_cut(tmp_path, every):
    text = 'id,caption\n1,"with ""quotes"", and\na line break"\n2,plain\n\n3,\r\n4,"ü"\n'
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = rows_of(tmp_path / "x.csv", rows=every)
    assert [row.values for row in found] == [
        {"id": "1", "caption": 'with "quotes", and\na line break'},
        {"id": "2", "caption": "plain"},
        {"id": "3", "caption": None},
        {"id": "4", "caption": "ü"},
    ]
    assert [row.place.rpartition(":")[2] for row in found] == ["2", "4", "6", "7"]


@pytest.mark.parametrize("every", [1, 3, 4, 7, 100])
@pytest.mark.parametrize("group", [2, 5, 20])
def test_parquet_is_the_same_however_it_is_cut(tmp_path, every, group):
    pq.write_table(pa.table({"n": list(range(20))}), tmp_path / "x.parquet", row_group_size=group)
    shards = plan_shards([str(tmp_path / "x.parquet")], rows_per_shard=every)
    found = [row for shard in shards for row in read_rows(shard)]
    assert [row.values["n"] for row in found] == list(range(20))
    assert [row.place for row in found] == [f"{tmp_path}/x.parquet:{n}" for n in range(20)]
    assert all(shard.stop - shard.start <= max(every, group // 16 + 1) for shard in shards)


def test_one_large_row_group_is_the_work_of_many(tmp_path, monkeypatch):
    pq.write_table(pa.table({"n": list(range(2000))}), tmp_path / "x.parquet", row_group_size=2000)
    path = str(tmp_path / "x.parquet")
    assert [shard.stop - shard.start for shard in plan_shards([path], rows_per_shard=10)] == [32] * 62 + [16]
    monkeypatch.setattr(shards_module, "_READ_AGAIN_BYTES", 1000)
    assert len(plan_shards([path], rows_per_shard=10)) == 16


def test_a_compressed_file_is_one_shard(tmp_path):
    with gzip.open(tmp_path / "x.jsonl.gz", "wt") as file:
        file.write('{"text": "a"}\n{"text": "b"}\n')
    assert len(plan_shards([str(tmp_path)], rows_per_shard=1)) == 1
    assert [d.text for d in documents(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "words"),
    [('[\n{"text": "a"}\n]', r"JSON array.*jq -c '\.\[\]'"), ('{\n "text": "a"\n}', r"over many lines.*jq -c \. ")],
)
def test_other_json_is_refused_if_it_is_named_and_is_one_failure_in_a_folder(tmp_path, content, words):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DatasetError, match=words):
        plan_shards([str(tmp_path / "x.json")])
    assert len(documents(tmp_path)) == 1


def test_kind_overrides_the_extension(tmp_path):
    (tmp_path / "x.log").write_text('{"text": "a"}\n')
    (shard,) = plan_shards([str(tmp_path)], kind="jsonl")
    assert [d.text for d in read_documents(shard)] == ["a"]
    with pytest.raises(DatasetError) as refused:
        plan_shards([str(tmp_path)], kind="excel")
    assert refused.value.option == "kind"
