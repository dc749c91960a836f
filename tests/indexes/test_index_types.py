"""Columns of every type beside vectors: kept in an index and found by a search, with their values."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from index_helpers import DIM, clustered

from clipmill.errors import DatasetError
from clipmill.indexes.add import add_to_index
from clipmill.indexes.build import IndexOptions, build_index
from clipmill.indexes.opened import open_index
from clipmill.indexes.targets import find_target

ROWS = 40
OPTIONS = IndexOptions(factory="Flat", queries=5)


def repeated(*values: object, kind: pa.DataType) -> pa.Array:
    return pa.array([values[n % len(values)] for n in range(ROWS)], kind)


COLUMNS = {
    "string_view": repeated("a", None, "b" * 50, kind=pa.string_view()),
    "dictionary": repeated("a", None, "b", kind=pa.string()).dictionary_encode(),
    "struct of views": pa.StructArray.from_arrays([repeated("a", None, kind=pa.string_view())], ["x"]),
    "list_view": repeated([1], None, [], kind=pa.list_view(pa.int8())),
    "map": repeated([("a", 1)], None, [], kind=pa.map_(pa.string(), pa.int64())),
    "uuid": repeated(uuid.UUID(int=5).bytes, None, kind=pa.uuid()),
    "decimal256": repeated(None, kind=pa.decimal256(60, 2)),
    "far timestamp": repeated(10**18, None, kind=pa.timestamp("us")),
    "uint64": repeated(2**64 - 1, None, kind=pa.uint64()),
}


def write(path: Path, vectors: list, **columns: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = columns.pop("id", [f"r{n}" for n in range(len(vectors))])
    embedding = pa.array(vectors, pa.list_(pa.float32()))
    # Arrow cannot cut views inside structs.
    groups = len(vectors) if any("struct" in str(getattr(one, "type", "")) for one in columns.values()) else 7
    pq.write_table(pa.table({"id": ids, "embedding": embedding, **columns}), path, row_group_size=groups)
    return str(path)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_is_kept_and_found(tmp_path: Path, name: str) -> None:
    vectors = clustered(ROWS)
    path = write(tmp_path / "v.parquet", list(vectors), x=COLUMNS[name])
    build_index([path], str(tmp_path / "index"), OPTIONS)
    for target in (str(tmp_path / "index"), path):
        searchable = find_target(target).open()
        found = searchable.search(vectors[[4, 1]], 3).positions[:, 0]
        assert found.tolist() == [4, 1]
        expected = pa.concat_arrays([COLUMNS[name].slice(n, 1) for n in (4, 1)])
        made = searchable.rows(found, ["x"])["x"].combine_chunks()
        assert made.equals(expected.cast(made.type)), (made, expected)


def test_files_with_dictionaries_views_and_texts_make_one_index(tmp_path: Path) -> None:
    texts = repeated("a", "b", kind=pa.string())
    kinds = [texts, texts.dictionary_encode(), texts.cast(pa.string_view())]
    paths = [write(tmp_path / f"{n}.parquet", list(clustered(ROWS, seed=n)), x=kind) for n, kind in enumerate(kinds)]
    build_index(paths, str(tmp_path / "index"), OPTIONS)
    column = open_index(str(tmp_path / "index")).rows(np.arange(3 * ROWS), ["x"])["x"]
    assert column.to_pylist() == texts.to_pylist() * 3


@pytest.mark.parametrize("kind", ["uuid", "fixed", "view", "int"])
def test_ids_of_any_flat_type_are_compared(tmp_path: Path, kind: str) -> None:
    ids = {
        "uuid": pa.array([uuid.UUID(int=n).bytes for n in range(2 * ROWS)], pa.uuid()),
        "fixed": pa.array([bytes([n, 0]) for n in range(2 * ROWS)], pa.binary(2)),
        "view": pa.array([f"id {n}" for n in range(2 * ROWS)], pa.string_view()),
        "int": pa.array(range(2 * ROWS)),
    }[kind]
    old = write(tmp_path / "old.parquet", list(clustered(ROWS)), id=ids.slice(0, ROWS))
    new = write(tmp_path / "new.parquet", list(clustered(ROWS, seed=1)), id=ids.slice(ROWS // 2, ROWS))
    build_index([old], str(tmp_path / "index"), OPTIONS)
    with pytest.raises(DatasetError, match=f"{ROWS // 2} of {ROWS} rows have an id that is in the index"):
        add_to_index([new], str(tmp_path / "index"), OPTIONS)
    added = add_to_index([new], str(tmp_path / "index"), OPTIONS, skip_existing=True)
    assert (added.rows, added.skipped, added.manifest.rows) == (ROWS // 2, ROWS // 2, ROWS + ROWS // 2)


@pytest.mark.parametrize("value", [{"a": 1}, [1, 2]], ids=["struct", "list"])
def test_nested_ids_are_refused_by_their_type(tmp_path: Path, value: object) -> None:
    path = write(tmp_path / "v.parquet", list(clustered(ROWS)), id=pa.array([value] * ROWS))
    build_index([path], str(tmp_path / "index"), OPTIONS)
    with pytest.raises(DatasetError, match=r"'id' is (struct|list)<.*make them texts or numbers"):
        add_to_index([path], str(tmp_path / "index"), OPTIONS)


@pytest.mark.parametrize("at", [0, 5])
def test_an_empty_list_is_no_vector(tmp_path: Path, at: int) -> None:
    vectors = [vector.tolist() for vector in clustered(ROWS)]
    vectors[at] = []
    path = write(tmp_path / "v.parquet", vectors)
    built = build_index([path], str(tmp_path / "index"), OPTIONS)
    assert (built.rows, built.dim, built.nulls) == (ROWS - 1, DIM, 1)
    assert find_target(path).open().search(clustered(ROWS)[:1], ROWS - 1).positions.max() == ROWS - 1


@pytest.mark.parametrize("named", [None, "embedding"])
def test_vectors_of_another_type_are_refused_by_it(tmp_path: Path, named: str | None) -> None:
    pq.write_table(pa.table({"id": ["a"], "embedding": [[1, 2]]}), tmp_path / "v.parquet")
    with pytest.raises(DatasetError, match=r"embedding'.*list<element: int64>"):
        build_index([str(tmp_path / "v.parquet")], str(tmp_path / "i"), IndexOptions(factory="Flat", column=named))
