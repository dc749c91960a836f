"""Folders and tables as img2dataset writes them, and the commands of the page on formats."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import run
from places import DOCS
from tar_files import (
    about,
    codes,
    embed,
    members,
    picture,
    picture_vector,
    rows_of,
    text_vector,
    write_beside,
    write_tar,
)

from clipmill.datasets import plan_shards, read_dataset, read_documents, summarise
from clipmill.datasets.inputs import samples

# --- images with sidecar files ---------------------------------------------------------------------------------------


@pytest.fixture
def img2dataset_files(tmp_path) -> Path:
    """A folder in img2dataset's `files` format: samples in folders, and its own records next to the folders."""
    root = tmp_path / "in"
    for shard in range(2):
        write_beside(root / f"{shard:05d}", members(range(3 * shard, 3 * shard + 3)))
        (root / f"{shard:05d}.parquet").write_bytes(b"records")
        (root / f"{shard:05d}_stats.json").write_text('{\n "count": 3\n}')
    return root


def test_a_folder_of_img2dataset_keeps_captions_and_metadata(tmp_path, img2dataset_files):
    embed(tmp_path / "out", img2dataset_files, rows=4)
    found = rows_of(tmp_path / "out")
    assert list(found) == [str(img2dataset_files / f"{n // 3:05d}" / f"{n:09d}.png") for n in range(6)]
    assert [json.loads(row["tags"]) for row in found.values()] == [about(n) for n in range(6)]
    assert [row["embedding"] for row in found.values()] == [picture_vector(n) for n in range(6)]


@pytest.mark.parametrize(
    ("error", "code", "transient"),
    [
        (RuntimeError("503: try later"), "fetch_failed", True),  # as drivers of object stores raise their own
        (PermissionError(13, "Permission denied"), "fetch_failed", False),
        (FileNotFoundError(2, "No such file"), "not_found", False),
    ],
    ids=repr,
)
def test_a_caption_that_cannot_be_read_fails_its_image_alone(tmp_path, monkeypatch, error, code, transient):
    write_beside(tmp_path / "in", members(range(4)))
    (shard,) = plan_shards([str(tmp_path / "in")])
    opened = samples.open_input

    def open_input(path: str) -> Any:
        if path.endswith("000000001.txt"):
            raise error
        return opened(path)

    monkeypatch.setattr(samples, "open_input", open_input)
    found = list(read_documents(shard))
    assert [document.id for document in found] == list(shard.paths)
    assert [len(document.failures) for document in found] == [0, 1, 0, 0]
    (failure,) = found[1].failures
    assert (failure.code, failure.transient, failure.row) == (code, transient, shard.paths[1])
    assert "000000001.txt" in failure.message


def test_a_folder_can_be_read_as_rows(tmp_path, img2dataset_files):
    embed(tmp_path / "out", img2dataset_files, rows=4, columns={"image": "image", "text": "text"})
    found = read_dataset(str(tmp_path / "out"))
    assert found.schema.names == ["id", "text", "tags", "image_embedding", "text_embedding"]
    assert found.column("image_embedding").to_pylist() == [picture_vector(n) for n in range(6)]
    assert found.column("text_embedding").to_pylist() == [text_vector(n) for n in range(6)]


def test_img2datasets_records_of_tars_and_tables_are_not_inputs(tmp_path):
    write_tar(tmp_path / "in" / "00000.tar", members([0]))
    (tmp_path / "in" / "00000.parquet").write_bytes(b"records")
    (tmp_path / "in" / "00000_stats.json").write_text("{\n}")
    pq.write_table(pa.table({"jpg": [b""]}), tmp_path / "in" / "00001.parquet")
    (tmp_path / "in" / "00001_stats.json").write_text("{\n}")
    found = [Path(shard.paths[0]).name for shard in plan_shards([str(tmp_path / "in")])]
    assert found == ["00000.tar", "00001.parquet"]
    named = plan_shards([str(tmp_path / "in" / "00000.parquet")])
    assert [Path(shard.paths[0]).name for shard in named] == ["00000.parquet"]


def test_txt_and_json_files_without_an_image_are_inputs(tmp_path):
    write_beside(tmp_path / "in", [("a.png", picture(0)), ("b.json", b'{"text": "x"}'), ("c.txt", b"alone")])
    paths = {path for shard in plan_shards([str(tmp_path / "in")]) for path in shard.paths}
    assert {Path(path).name for path in paths} == {"a.png", "b.json", "c.txt"}


def test_a_caption_that_changes_changes_the_shard(tmp_path):
    write_beside(tmp_path / "in", members([0]))
    (before,) = plan_shards([str(tmp_path / "in")])
    (tmp_path / "in" / "000000000.txt").write_text("another one")
    (after,) = plan_shards([str(tmp_path / "in")])
    assert (before.name, before.paths, before.beside) == (after.name, after.paths, after.beside)
    assert before.fingerprint != after.fingerprint
    assert type(before).from_dict(json.loads(json.dumps(before.as_dict()))) == before


def test_broken_or_missing_metadata_fails_only_its_image(tmp_path):
    write_beside(tmp_path / "in", members(range(3)))
    (tmp_path / "in" / "000000001.json").write_text("{")
    shards = plan_shards([str(tmp_path / "in")])
    (tmp_path / "in" / "000000002.txt").unlink()
    found = [document for shard in shards for document in read_documents(shard)]
    assert [[str(failure.code) for failure in document.failures] for document in found] == [
        [],
        ["malformed"],
        ["not_found"],
    ]
    assert [document.uri for document in found] == [document.id for document in found]


# --- Parquet as img2dataset writes it --------------------------------------------------------------------------------


def test_parquet_of_img2dataset_with_a_row_that_was_not_downloaded(tmp_path):
    table = {
        "key": ["000000000", "000000001"],
        "jpg": [picture(0), None],
        "txt": ["picture 0", None],
        "caption": ["picture 0", "picture 1"],
        "url": ["u0", "u1"],
        "status": ["success", "failed_to_download"],
        "width": pa.array([5, None], pa.int32()),
    }
    pq.write_table(pa.table(table), tmp_path / "00000.parquet")
    summary = embed(
        tmp_path / "rows", tmp_path / "00000.parquet", columns={"jpg": "image", "txt": "text"}, drop=["jpg"]
    )
    assert (summary.rows, summary.failed, summary.nulls) == (2, {}, 2)
    found = read_dataset(str(tmp_path / "rows")).to_pylist()
    assert [row["jpg_embedding"] for row in found] == [picture_vector(0), None]
    assert [(row["key"], row["url"], row["status"], row["width"]) for row in found] == [
        ("000000000", "u0", "success", 5),
        ("000000001", "u1", "failed_to_download", None),
    ]
    reader = {"image": "jpg", "id": "key"}
    embed(tmp_path / "documents", tmp_path / "00000.parquet", reader=reader, tags=["caption", "url"])
    (row,) = rows_of(tmp_path / "documents").values()
    assert (row["id"], row["embedding"]) == ("000000000", picture_vector(0))
    assert json.loads(row["tags"]) == {"caption": "picture 0", "url": "u0"}
    assert codes(tmp_path / "documents") == [("000000001", "empty")]


# --- the page on formats --------------------------------------------------------------------------------------------

FORMATS_PAGE = (DOCS / "formats.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", FORMATS_PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_on_formats_run(tmp_path, monkeypatch, command):
    write_beside(tmp_path / "photos", members(range(2)))
    write_tar(tmp_path / "tars" / "00000.tar", members(range(2)))
    sides = [(f"{number}.{side}.png", picture(number)) for number in range(2) for side in ("left", "right")]
    write_tar(tmp_path / "stereo" / "00000.tar", sides)
    (tmp_path / "tables").mkdir()
    table = {name: [f"{name} {n}" for n in range(2)] for name in ("key", "txt", "caption", "url")}
    pq.write_table(pa.table({**table, "jpg": [picture(0), picture(1)]}), tmp_path / "tables" / "00000.parquet")
    monkeypatch.chdir(tmp_path)
    program, verb, *arguments = shlex.split(command)
    assert (program, verb) == ("clipmill", "embed")
    assert run(verb, *arguments, "--model", "fake::dim=4") == 0
    output = arguments[arguments.index("--output") + 1]
    summary = summarise(output)
    assert (summary.input_rows, summary.rows, summary.failed) == (2, 2, {})
