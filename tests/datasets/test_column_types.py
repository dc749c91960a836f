"""Types of columns: keys that are equal in every process, for every type of Arrow."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.datasets.tables.column_types import type_key


class Tagged(pa.ExtensionType):
    """An extension type of a user."""

    def __init__(self, storage: pa.DataType, tag: str) -> None:
        self.tag = tag
        super().__init__(storage, "tests.tagged")

    def __arrow_ext_serialize__(self) -> bytes:
        return self.tag.encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Tagged:
        return cls(storage, serialized.decode())


@pytest.fixture(autouse=True)
def registered():
    pa.register_extension_type(Tagged(pa.string(), ""))
    yield
    pa.unregister_extension_type("tests.tagged")


SIMPLE = [
    *(pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.string(), pa.large_string()),
    *(pa.binary(), pa.large_binary(), pa.binary(7), pa.string_view(), pa.binary_view(), pa.date32(), pa.date64()),
    *(pa.time32("s"), pa.time32("ms"), pa.time64("ns"), pa.duration("us"), pa.month_day_nano_interval()),
    *(pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.timestamp("us", "Europe/Berlin"), pa.decimal128(5, 2)),
    *(pa.decimal32(5, 2), pa.decimal64(12, -3), pa.decimal256(60, 3), pa.uuid(), pa.json_(), pa.bool8()),
]


def drawn_type(rng: random.Random, depth: int) -> pa.DataType:
    """Return a random type with children to a depth, whose inner fields have random names and nullability."""
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(SIMPLE)

    def field(name: str | None = None, *, nullable: bool | None = None) -> pa.Field:
        may_be_null = rng.random() < 0.5 if nullable is None else nullable
        kind = drawn_type(rng, depth - 1)
        while pa.types.is_null(kind) and not may_be_null:
            kind = drawn_type(rng, depth - 1)
        return pa.field(name or rng.choice("abcdef"), kind, may_be_null)

    def fields() -> list[pa.Field]:
        return [field(name) for name in rng.sample("abcdef", rng.randint(0, 3))]

    makers = [
        lambda: pa.list_(field()),
        lambda: pa.list_(field(), 3),
        lambda: pa.large_list(field()),
        lambda: pa.list_view(field()),
        lambda: pa.large_list_view(field()),
        lambda: pa.map_(field(nullable=False), field(), keys_sorted=rng.random() < 0.5),
        lambda: pa.struct(fields()),
        lambda: pa.dense_union(fields(), None),
        lambda: pa.sparse_union(fields(), None),
        lambda: pa.dictionary(
            rng.choice([pa.int8(), pa.uint32()]), rng.choice(SIMPLE[:-3]), ordered=rng.random() < 0.5
        ),
        lambda: pa.run_end_encoded(rng.choice([pa.int16(), pa.int64()]), field().type),
        lambda: pa.fixed_shape_tensor(pa.float32(), [2, rng.randint(1, 3)], dim_names=["x", rng.choice("yz")]),
        lambda: pa.opaque(rng.choice(SIMPLE[:-3]), rng.choice("ab"), rng.choice("ab")),
        lambda: Tagged(rng.choice([pa.string(), pa.binary()]), rng.choice("ab")),
    ]
    return rng.choice(makers)()


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
