"""Indexes that strangers made: a manifest that names files outside of its directory, or has other values."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest
from index_helpers import clustered, write_dataset

from clipmill.errors import DatasetError
from clipmill.indexes import add_to_index, build_index, open_index
from clipmill.indexes.build import IndexOptions
from clipmill.indexes.manifest import parse_manifest, read_manifest
from clipmill.indexes.targets import find_target

OPTIONS = IndexOptions(factory="IVF4,Flat", queries=10)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    write_dataset(folder / "dataset", list(clustered(400)), parts=1)
    build_index([str(folder / "dataset")], str(folder / "index"), OPTIONS)
    return folder


HOSTILE: list[dict[str, Any]] = [
    {"index_file": "../../x"},
    {"index_file": "/etc/passwd"},
    {"index_file": "_staging/../../x"},
    {"index_file": "gs://bucket/index.faiss"},
    {"index_file": 5},
    {"files": {"../../x": 4}},
    {"files": {"_staging/../../x": 4}},
    {"files": {"vectors/00000.npy": "4"}},
    {"files": []},
    {"segments": [{"number": 0, "rows": 400, "run": "../../x"}]},
    {"segments": [{"number": "../../x", "rows": 400}]},
    {"segments": [{"number": 0, "rows": "400"}]},
    {"segments": [5]},
    {"search": {"nprobe": "x"}},
    {"recall": 5},
    {"recall": {"curve": 5}},
    {"dim": "16"},
    {"rows": None},
    {"column": 5},
    {"datasets": [5]},
    {"failed": 5},
    {"ids": 5},
    {"provenance": []},
    {"plan": []},
]


@pytest.mark.parametrize("fields", HOSTILE, ids=json.dumps)
def test_a_manifest_that_clipmill_does_not_write_is_damaged(built, fields) -> None:
    content = json.loads((built / "index" / "_index.json").read_bytes())
    with pytest.raises(DatasetError, match=r"_index\.json is damaged"):
        parse_manifest("here", json.dumps({**content, **fields}).encode())


def test_a_deeply_nested_manifest_is_damaged() -> None:
    with pytest.raises(DatasetError, match="is damaged"):
        parse_manifest("here", b"[" * 100_000)


def test_no_file_outside_is_written_when_an_index_is_copied(built, tmp_path, monkeypatch) -> None:
    """An index in an object store is copied to the cache under the names of its manifest."""
    monkeypatch.setenv("CLIPMILL_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    root = uuid.uuid4().hex
    memory.put(str(built / "index"), f"/{root}/index", recursive=True)
    content = json.loads(memory.cat(f"/{root}/index/_index.json"))
    content["files"]["../../../../x"] = 4
    memory.pipe(f"/{root}/index/_index.json", json.dumps(content).encode())
    memory.pipe(f"/{root}/x", b"evil")
    for use in (open_index, find_target, read_manifest, lambda at: add_to_index([str(built / "dataset")], at, OPTIONS)):
        with pytest.raises(DatasetError, match="files"):
            use(f"memory://{root}/index")
    assert not list(tmp_path.rglob("x"))
    memory.rm(f"/{root}", recursive=True)
