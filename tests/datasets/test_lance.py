"""Lance: shards write fragments, which are committed as one dataset when all are finished."""

from __future__ import annotations

import json
from pathlib import Path

import job_options
import lance
import numpy as np
import pyarrow as pa
import pytest
from cli_helpers import run
from tar_files import SPEC, embed, members, picture, picture_vector, write_tar

from clipmill.datasets import finish_job, plan_shards, read_dataset, read_failures
from clipmill.encoders import EncoderSpec, read_provenance
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import DatasetError, MissingExtraError, SpecError
from clipmill.jobs import embed_shard, start_job

BOTH = {"columns": {"image": "image", "text": "text"}, "drop": ["image"]}


def opened(directory: Path) -> lance.LanceDataset:
    return lance.dataset(str(directory / "dataset.lance"))


def by_id(directory: Path) -> dict[str, dict]:
    rows = opened(directory).to_table().to_pylist()
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_a_dataset_has_the_rows_of_all_shards_with_vectors_of_a_fixed_size(tmp_path):
    write_tar(tmp_path / "x.tar", members(range(5)))
    summary = embed(tmp_path / "out", tmp_path / "x.tar", rows=2, format="lance", **BOTH)
    assert (summary.rows, summary.shards, summary.complete) == (5, 3, True)
    dataset = opened(tmp_path / "out")
    assert dataset.schema.field("image_embedding").type == pa.list_(pa.float32(), 4)
    assert len(dataset.get_fragments()) == 3
    assert dataset.to_table().column("id").to_pylist() == [f"{n:09d}" for n in range(5)]
    for number, row in enumerate(by_id(tmp_path / "out").values()):
        assert row["image_embedding"] == picture_vector(number)
        assert row["text_embedding"] == fake_text_vector(f"picture {number}", 4).tolist()
        assert json.loads(row["tags"])["caption"] == f"picture {number}"


def test_provenance_is_in_the_schema(tmp_path):
    write_tar(tmp_path / "x.tar", members([0]))
    embed(tmp_path / "out", tmp_path / "x.tar", format="lance")
    assert read_provenance(opened(tmp_path / "out").schema)["embedding"]["model"] == SPEC.model


def test_its_vector_search_finds_what_is_nearest(tmp_path):
    write_tar(tmp_path / "x.tar", members(range(30)))
    embed(tmp_path / "out", tmp_path / "x.tar", rows=7, format="lance")
    wanted = np.array(picture_vector(17), np.float32)
    found = opened(tmp_path / "out").to_table(nearest={"column": "embedding", "q": wanted, "k": 3})
    assert found.column("id").to_pylist()[0] == "000000017"
    assert set(found.column("id").to_pylist()) == {"000000016", "000000017", "000000018"}


def test_null_vectors_failures_and_a_shard_without_rows(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.png", b"broken"), ("b.png", picture(1)), ("c.txt", b"picture 3")])
    embed(tmp_path / "out", tmp_path / "x.tar", rows=1, format="lance", **BOTH)
    found = by_id(tmp_path / "out")
    assert {name: (row["image_embedding"], row["text_embedding"]) for name, row in found.items()} == {
        "b": (picture_vector(1), None),
        "c": (None, fake_text_vector("picture 3", 4).tolist()),
    }
    assert [failure["row"] for failure in read_failures(str(tmp_path / "out"))] == ["a"]
    assert len(opened(tmp_path / "out").get_fragments()) == 2


def test_a_job_without_rows_makes_an_empty_dataset(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.png", b"broken")])
    embed(tmp_path / "out", tmp_path / "x.tar", format="lance")
    assert opened(tmp_path / "out").count_rows() == 0


def test_float16_vectors(tmp_path):
    write_tar(tmp_path / "x.tar", members([3]))
    embed(tmp_path / "out", tmp_path / "x.tar", format="lance", dtype="float16")
    assert opened(tmp_path / "out").schema.field("embedding").type == pa.list_(pa.float16(), 4)
    assert by_id(tmp_path / "out")["000000003"]["embedding"] == picture_vector(3)


def test_arrays_and_matches_have_vectors_of_a_fixed_size_inside(tmp_path):
    line = {"id": "q", "text": "query", "matches": [{"id": "m", "text": "one"}]}
    (tmp_path / "x.jsonl").write_text(json.dumps(line))
    embed(tmp_path / "out", tmp_path / "x.jsonl", format="lance", access_paths="@r,m")
    (row,) = by_id(tmp_path / "out").values()
    assert row["embedding"] == fake_text_vector("query", 4).tolist()
    assert row["matches"][0]["embedding"] == fake_text_vector("one", 4).tolist()


def test_readers_see_nothing_before_the_commit_and_repeating_it_changes_nothing(tmp_path):
    write_tar(tmp_path / "x.tar", members(range(4)))
    shards = plan_shards([str(tmp_path / "x.tar")], rows_per_shard=2)
    job = job_options.plan(SPEC, str(tmp_path / "out"), shards, format="lance")
    start_job(job, shards)
    embed_shard(shards[0], job)
    with pytest.raises(ValueError, match="not found"):
        opened(tmp_path / "out")
    with pytest.raises(DatasetError, match="1 of 2 shards are missing"):
        finish_job(job.directory)
    embed_shard(shards[1], job)
    for _ in range(2):
        finish_job(job.directory)
        assert opened(tmp_path / "out").count_rows() == 4


def test_a_missing_fragment_is_an_error(tmp_path):
    write_tar(tmp_path / "x.tar", members(range(2)))
    embed(tmp_path / "out", tmp_path / "x.tar", format="lance")
    next((tmp_path / "out" / "dataset.lance" / "data").iterdir()).unlink()
    with pytest.raises(DatasetError, match=r"dataset\.lance/data/.* has 0 bytes"):
        finish_job(str(tmp_path / "out"))


def test_the_command_writes_overwrites_and_resumes_it_on_both_engines(tmp_path, spark):
    write_tar(tmp_path / "in" / "00000.tar", members(range(5)))
    options = ["--model", "fake::dim=4", "--rows-per-shard", "2", "--format", "lance"]
    for engine in ("beam", "spark"):
        assert run("embed", tmp_path / "in", "--output", tmp_path / engine, "--engine", engine, *options) == 0
    assert run("embed", tmp_path / "in", "--output", tmp_path / "beam", "--overwrite", *options) == 0
    next((tmp_path / "beam" / "dataset.lance" / "data").iterdir()).unlink()
    write_tar(tmp_path / "in" / "00001.tar", members(range(5, 7)))
    for engine in ("beam", "spark"):
        assert run("embed", tmp_path / "in", "--output", tmp_path / engine, "--resume", *options) == 0
        found = by_id(tmp_path / engine)
        assert {name: row["embedding"] for name, row in found.items()} == {
            f"{n:09d}": picture_vector(n) for n in range(7)
        }
        named = {file.path for one in opened(tmp_path / engine).get_fragments() for file in one.data_files()}
        assert named == {path.name for path in (tmp_path / engine / "dataset.lance" / "data").iterdir()}


def test_reading_it_as_parquet_says_where_the_rows_are(tmp_path):
    write_tar(tmp_path / "x.tar", members([0]))
    embed(tmp_path / "out", tmp_path / "x.tar", format="lance")
    with pytest.raises(DatasetError, match=r"its rows are in dataset\.lance"):
        read_dataset(str(tmp_path / "out"))


def test_unsupported_directories_are_refused(tmp_path):
    write_tar(tmp_path / "x.tar", members([0]))
    shards = plan_shards([str(tmp_path / "x.tar")])
    with pytest.raises(SpecError, match="only to local directories, az://"):
        job_options.plan(SPEC, "memory://out", shards, format="lance")


def test_without_the_library_the_job_does_not_start(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lance", None)
    write_tar(tmp_path / "x.tar", members([0]))
    with pytest.raises(MissingExtraError, match=r"clipmill\[lance\]"):
        job_options.plan(
            EncoderSpec("fake::dim=4"), str(tmp_path / "out"), plan_shards([str(tmp_path / "x.tar")]), format="lance"
        )
