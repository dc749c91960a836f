"""Indexes by strangers or with damage: nothing outside of the directory is opened, and odd files are errors."""

from __future__ import annotations

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from index_helpers import DIM, clustered, write_dataset
from odd_values import ODD, changed, places
from untrusted_files import damage_index_file

from clipmill.errors import ClipmillError, DatasetError
from clipmill.indexes import opened
from clipmill.indexes.build import IndexOptions, build_index
from clipmill.indexes.manifest import MANIFEST
from clipmill.indexes.opened import open_index

ROWS = 600
OUTSIDE = ("../secret.npy", "/etc/passwd", "vectors/../../secret.npy", "..", "", ".", "_staging/../../x", "a\0b")


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("indexes")
    dataset = write_dataset(folder / "data", list(clustered(ROWS)))
    for name, factory in (("lists", "IVF8,SQ8"), ("graph", "HNSW8,SQ8")):
        build_index([str(dataset)], str(folder / name), IndexOptions(factory=factory, queries=20))
    return {name: folder / name for name in ("lists", "graph")}


@pytest.fixture(autouse=True)
def _one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "_ATTEMPTS", 1)


@pytest.fixture
def mine(indexes: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(indexes["lists"], tmp_path / "mine")


def _put(index: Path, content: Any) -> None:
    (index / MANIFEST).write_text(json.dumps(content))


def _content(index: Path) -> dict[str, Any]:
    return json.loads((index / MANIFEST).read_text())


def _on_disk(path: Path, *, nested: bool = False) -> Any:
    """Return an index whose lists are in another file."""
    vectors = clustered(ROWS)
    inner = faiss.index_factory(DIM, "IVF4,Flat")
    inner.train(vectors)
    inner.add(vectors)
    lists = faiss.OnDiskInvertedLists(inner.nlist, inner.code_size, str(path))
    several = faiss.InvertedListsPtrVector()
    several.push_back(inner.invlists)
    lists.merge_from_multiple(several.data(), several.size())
    inner.replace_invlists(lists, True)
    lists.this.disown()
    if not nested:
        return inner
    outer = faiss.IndexIVFFlat(inner, DIM, ROWS)
    outer.own_fields = True
    inner.this.disown()
    outer.is_trained = True
    outer.ntotal = ROWS
    return outer


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "nested"])
def test_lists_in_another_file_are_not_opened(nested: bool, mine: Path, tmp_path: Path) -> None:
    """Faiss would search in any file that the index names; it ended the process."""
    elsewhere = tmp_path / "elsewhere.bin"
    content = _content(mine)
    faiss.write_index(_on_disk(elsewhere, nested=nested), str(mine / content["index_file"]))
    before = elsewhere.read_bytes()
    content["files"][content["index_file"]] = (mine / content["index_file"]).stat().st_size
    _put(mine, content)
    with pytest.raises(DatasetError, match="lists in another file"):
        open_index(mine)
    assert elsewhere.read_bytes() == before


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_outside_are_refused(name: str, mine: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "secret.npy", np.zeros((ROWS, DIM), np.float32))
    whole = _content(mine)
    for change in (
        lambda content: content.update(index_file=name),
        lambda content: content["files"].update({name: 1}),
        lambda content: content["segments"][0].update(run=name or "/"),
    ):
        content = copy.deepcopy(whole)
        change(content)
        _put(mine, content)
        with pytest.raises(DatasetError):
            open_index(mine)


def test_odd_values_in_a_manifest_are_errors_of_ours(mine: Path) -> None:
    content = _content(mine)
    cases = [(at, odd) for at in places(content) if at for odd in ODD]
    queries = clustered(3)
    for at, odd in random.Random(1).sample(cases, 250):
        _put(mine, changed(content, at, odd))
        try:
            found = open_index(mine)
            found.search(queries, 5)
            found.rows(np.array([0, -1]))
        except ClipmillError:
            pass


@pytest.mark.parametrize("damage", ["header", "type", "archive"])
def test_damaged_vectors_are_an_error_of_ours(damage: str, mine: Path) -> None:
    """Of some headers numpy raises errors of Python's tokenizer; a zip archive would have no shape."""
    path = next((mine / "vectors").iterdir())
    whole = np.load(path)
    if damage == "header":
        path.write_bytes(path.read_bytes().replace(b"}", b"\0"))
    elif damage == "type":
        np.save(path, np.zeros(whole.shape, "<U4"))
    else:
        with path.open("wb") as file:
            np.savez(file, whole)
    content = _content(mine)
    content["files"][f"vectors/{path.name}"] = path.stat().st_size
    _put(mine, content)
    with pytest.raises(DatasetError, match="build the index again"):
        open_index(mine)


@pytest.mark.parametrize("name", ["lists", "graph"])
def test_damaged_index_files_end_no_process(name: str, indexes: dict[str, Path], tmp_path: Path) -> None:
    """Faiss checks what it reads. Only single bytes are changed: an intended change may do more (SECURITY.md)."""
    file = indexes[name] / _content(indexes[name])["index_file"]
    seen = damage_index_file(file, tmp_path / "changed.faiss", rows=ROWS, dim=DIM, count=120, seed=7)
    assert seen.total() == 120 and not seen["ended"]
