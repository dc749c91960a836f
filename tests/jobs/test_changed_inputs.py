"""Inputs that change between listing and reading: no row is lost or there twice, and `--resume` reads the new file."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from resume_jobs import begin, contents, undisturbed, work, write_photographs
from tar_files import picture, tar_bytes

from clipmill.datasets import finish_job, plan_shards, read_rows, whole_file
from clipmill.failures import Code


def _table(texts: Sequence[str]) -> pa.Table:
    return pa.table({"id": texts, "text": texts}, pa.schema([("id", pa.string()), ("text", pa.string())]))


def _arrow(texts: Sequence[str]) -> bytes:
    made = pa.BufferOutputStream()
    with pa.ipc.new_file(made, _table(texts).schema) as writer:
        writer.write_table(_table(texts), max_chunksize=2)
    return made.getvalue().to_pybytes()


def _parquet(texts: Sequence[str]) -> bytes:
    made = pa.BufferOutputStream()
    pq.write_table(_table(texts), made, row_group_size=2)
    return made.getvalue().to_pybytes()


def _lines(texts: Sequence[str]) -> bytes:
    return "".join(json.dumps({"id": text, "text": text}) + "\n" for text in texts).encode()


WRITERS: dict[str, Callable[[Sequence[str]], bytes]] = {
    "in.jsonl": _lines,
    "in.csv": lambda texts: ("id,text\n" + "".join(f"{text},{text}\n" for text in texts)).encode(),
    "in.txt": lambda texts: "".join(f"data:text/plain,{text}\n" for text in texts).encode(),
    "in.parquet": _parquet,
    "in.arrow": _arrow,
    "in.tar": lambda texts: tar_bytes([(f"{text}.png", picture(int(text[1:]))) for text in texts]),
}
TEXTS = [f"t{number}" for number in range(6)]
CHANGES = {
    "shorter": TEXTS[:3],
    "longer": [*TEXTS, "t6", "t7"],
    "a row in front": ["t9", *TEXTS],
    "other rows of the same size": [text.replace("t", "u") for text in TEXTS],
    "empty": [],
}


def _codes(found: list[dict]) -> list[str]:
    return [row["code"] for row in found if "code" in row]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", WRITERS)
def test_the_rest_of_a_changed_file_is_a_failure_until_it_is_resumed(name: str, change: str, tmp_path: Path) -> None:
    """After the first shard of three. Before, rows of the new file were missing, or in two shards."""
    path, output = tmp_path / name, str(tmp_path / "out")
    path.write_bytes(WRITERS[name](TEXTS))
    os.utime(path, (1, 1))
    job, progress = begin(output, path)
    assert len(progress.to_do) == 3
    work(job, progress.to_do[:1])
    path.write_bytes(WRITERS[name](CHANGES[change]))
    work(job, progress.to_do[1:])
    finish_job(output)
    found = contents(output)
    assert len(found) == 4 and _codes(found) == ["changed", "changed"]
    assert all("--resume" in row["message"] for row in found if "code" in row)
    job, progress = begin(output, path)
    assert len(progress.to_do) == len(progress.shards)
    work(job, progress.to_do)
    finish_job(output)
    assert contents(output) == undisturbed(str(tmp_path / "other"), path)


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_is_gone_is_a_failure_of_each_shard(name: str, tmp_path: Path) -> None:
    path, output = tmp_path / name, str(tmp_path / "out")
    path.write_bytes(WRITERS[name](TEXTS))
    job, progress = begin(output, path)
    work(job, progress.to_do[:1])
    path.unlink()
    work(job, progress.to_do[1:])
    finish_job(output)
    assert len(contents(output)) == 4 and _codes(contents(output)) == ["not_found", "not_found"]


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv", "in.txt", "in.tar"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_file_that_grows_while_it_is_read_has_a_failure_behind_its_rows(
    name: str, listed: bool, tmp_path: Path
) -> None:
    """Also where an engine lists names only, as `ReadDocuments` does."""
    path = tmp_path / name
    path.write_bytes(WRITERS[name](TEXTS))
    os.utime(path, (1, 1))
    (shard,) = plan_shards([str(path)]) if listed else [whole_file(str(path), plan_shards([str(path)])[0].kind)]
    rows = read_rows(shard)
    first = next(rows)
    path.write_bytes(WRITERS[name]([*TEXTS, "t6"]))
    *_, last = [first, *rows]
    assert first.failure is None
    assert last.failure is not None and last.failure.code == Code.CHANGED and last.failure.transient


def test_a_file_of_a_folder_is_one_row_whatever_it_holds(tmp_path: Path) -> None:
    folder, output = write_photographs(tmp_path / "photos", "abcd"), str(tmp_path / "out")
    job, progress = begin(output, folder)
    planned = progress.to_do
    write_photographs(folder, "x")
    (folder / "b.png").unlink()
    (folder / "c.png").write_bytes((folder / "d.png").read_bytes()[:20])
    work(job, planned)
    finish_job(output)
    found = contents(output)
    assert [Path(row["id"]).stem for row in found] == list("abcd") and _codes(found) == ["not_found", "undecodable"]
    job, progress = begin(output, folder)
    assert progress.reasons == {"changed input": 2, "new input": 1}
    work(job, progress.to_do)
    finish_job(output)
    assert contents(output) == undisturbed(str(tmp_path / "other"), folder)


@pytest.mark.parametrize("name", ["in.jsonl", "in.parquet", "in.tar"])
def test_a_changed_object_of_a_store_is_noticed(name: str) -> None:
    memory, root = fsspec.filesystem("memory"), uuid.uuid4().hex
    memory.pipe(f"/{root}/{name}", WRITERS[name](TEXTS))
    (shard, *_) = plan_shards([f"memory://{root}"])
    assert all(row.failure is None for row in read_rows(shard))
    memory.rm(f"/{root}/{name}")
    memory.pipe(f"/{root}/{name}", WRITERS[name](CHANGES["other rows of the same size"]))
    (row,) = read_rows(shard)
    assert row.failure is not None and row.failure.code == Code.CHANGED
    memory.rm(f"/{root}", recursive=True)
