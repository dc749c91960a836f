"""Types of columns: keys that are equal in every process, for every type of Arrow."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from arrow_types import SIMPLE, Tagged, drawn_type

from clipmill.datasets.tables.column_types import type_key


@pytest.fixture(autouse=True)
def registered():
    pa.register_extension_type(Tagged(pa.string(), ""))
    yield
    pa.unregister_extension_type("tests.tagged")


def plain_of(kind: pa.DataType) -> pa.DataType:
    """Return a type with the usual names of inner fields that are no data, without sorted keys, with nullable items."""
    if isinstance(kind, pa.BaseExtensionType) or kind.num_fields == 0:
        return kind
    if pa.types.is_map(kind):
        return pa.map_(plain_of(kind.key_type), plain_of(kind.item_type))
    if pa.types.is_run_end_encoded(kind):
        return pa.run_end_encoded(kind.run_end_type, plain_of(kind.value_type))
    fields = [kind.field(n).with_type(plain_of(kind.field(n).type)) for n in range(kind.num_fields)]
    if pa.types.is_struct(kind):
        return pa.struct(fields)
    if pa.types.is_union(kind):
        return pa.union(fields, kind.mode, kind.type_codes)
    item = fields[0].with_name("item").with_nullable(True)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(item, kind.list_size)
    makers = {"list": pa.list_, "large_list": pa.large_list, "list_view": pa.list_view}
    return makers.get(str(kind).partition("<")[0], pa.large_list_view)(item)


def copies(kind: pa.DataType) -> list[pa.DataType]:
    """Return a type as it comes out of a pickle, twice, and out of Arrow's own format."""
    once = pickle.loads(pickle.dumps(kind))
    read = pa.ipc.read_schema(pa.schema([pa.field("x", kind)]).serialize()).field(0).type
    return [once, pickle.loads(pickle.dumps(once)), read, pickle.loads(pickle.dumps(read))]


def test_a_key_is_the_same_in_every_process_and_only_for_equal_types() -> None:
    rng = random.Random(16)
    types = [*SIMPLE, *(drawn_type(rng, rng.randint(1, 4)) for _ in range(1500))]
    by_key: dict[str, pa.DataType] = {}
    for kind in types:
        key = json.dumps(type_key(kind))
        for copy in copies(kind):
            assert json.dumps(type_key(copy)) == key, kind
        plain = plain_of(kind)
        assert by_key.setdefault(key, plain).equals(plain), f"{plain} and {by_key[key]} have one key"
    assert len(by_key) > 800


def test_a_map_read_from_a_file_has_the_key_of_one_that_was_pickled(tmp_path: Path) -> None:
    """Arrow prints the column's name in the type, until the type is pickled."""
    pq.write_table(pa.table({"m": pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string()))}), tmp_path / "m.parquet")
    kind = pq.read_schema(tmp_path / "m.parquet").field("m").type
    assert str(kind) != str(pickle.loads(pickle.dumps(kind)))
    assert type_key(kind) == type_key(pickle.loads(pickle.dumps(kind)))
