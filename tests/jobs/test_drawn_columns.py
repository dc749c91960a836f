"""Columns of types drawn at random through jobs of every plan and format; `make soak` draws more, on both engines."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import job_options
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from arrow_types import Tagged
from carried_jobs import carry
from storage_jobs import SPEC

from clipmill.datasets import plan_shards
from clipmill.datasets.formats.lance_part import lance_schema
from clipmill.datasets.tables.column_types import as_schema, as_type, holds_bytes
from clipmill.datasets.tables.spark_schema import spark_schema
from clipmill.encoders import unload_all
from clipmill.errors import SpecError
from clipmill.jobs import embed_shard


@pytest.fixture(autouse=True)
def registered():
    pa.register_extension_type(Tagged(pa.string(), ""))
    yield
    pa.unregister_extension_type("tests.tagged")


def test_columns_arrive_bit_for_bit_or_are_refused_by_name(tmp_path: Path) -> None:
    def embed(shards, job) -> None:
        for shard in shards:
            embed_shard(shard, job)

    counts = carry(random.Random(16), tmp_path / "job", embed, columns=8)
    assert counts["columns through parquet"] == 3 * 8
    assert counts["columns through lance"] + counts["columns refused by lance"] == 8


LANCE_REFUSES = {
    "sorted map": pa.map_(pa.string(), pa.int8(), keys_sorted=True),
    "empty struct": pa.list_(pa.struct([])),
    "items of texts": pa.list_(pa.string(), 2),
    "items of lists": pa.list_(pa.list_(pa.int8()), 2),
    "items of extensions": pa.list_(pa.uuid(), 2),
    "dictionary of dates": pa.dictionary(pa.int8(), pa.date32()),
    "extension of a view": pa.opaque(pa.string_view(), "a", "b"),
    "extension of null": pa.opaque(pa.null(), "a", "b"),
    "extension of a small decimal": pa.struct([("a", pa.opaque(pa.decimal32(5, 2), "a", "b"))]),
}


@pytest.mark.parametrize("kind", LANCE_REFUSES.values(), ids=LANCE_REFUSES)
def test_lance_refuses_types_inside_others_before_the_job(kind: pa.DataType) -> None:
    with pytest.raises(SpecError, match="the type of column 'x'"):
        lance_schema(pa.schema([("x", kind)]))


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.list_(one, 2) for one in (pa.int8(), pa.decimal128(5, 2), pa.binary(3), pa.struct([("a", pa.string())]))),
        *(pa.dictionary(pa.int8(), one) for one in (pa.string(), pa.binary(), pa.int64(), pa.float16())),
        pa.map_(pa.string(), pa.int8()),
        pa.opaque(pa.string(), "a", "b"),
    ],
    ids=str,
)
def test_lance_takes_what_it_can_hold(kind: pa.DataType) -> None:
    assert lance_schema(pa.schema([("x", kind)])).field("x").type == kind


def test_columns_that_have_their_type_are_not_cast() -> None:
    """Arrow 25 crashes at a cast of such a map to its own type."""
    kind = pa.map_(pa.string(), pa.fixed_shape_tensor(pa.float32(), [2]), keys_sorted=True)
    column = pa.nulls(2, kind)
    assert as_type(column, kind) is column
    schema = pa.schema([pa.field("x", kind, metadata={"a": "b"})])
    table = as_schema(pa.table({"x": column}), schema)
    assert table.schema.equals(schema, check_metadata=True) and table.num_rows == 2
    assert as_type(pa.array([1]), pa.float64()).to_pylist() == [1.0]


@pytest.mark.parametrize("is_registered", [True, False])
def test_a_jobs_schema_is_the_same_in_every_process(tmp_path: Path, is_registered: bool) -> None:
    """Maps keep their sorted keys, and users' own types stay what they are, registered by the worker or not."""
    kinds = [pa.list_view(pa.map_(pa.int8(), pa.string(), keys_sorted=True)), Tagged(pa.string(), "a")]
    table = pa.table(
        {
            "caption": ["one"],
            "a": pa.array([[]], kinds[0]),
            "b": pa.ExtensionArray.from_storage(kinds[1], pa.array(["x"])),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    job = job_options.plan(SPEC, "out", plan_shards([str(tmp_path / "x.parquet")]), columns={"caption": "text"})
    pickled = pickle.dumps(job)
    if not is_registered:
        pa.unregister_extension_type("tests.tagged")
    copy = pickle.loads(pickled)
    if not is_registered:
        pa.register_extension_type(Tagged(pa.string(), ""))
    assert copy == job and copy.signature == job.signature
    assert copy.schema.equals(job.schema) and copy.schema.metadata == job.schema.metadata
    assert [field.metadata for field in copy.schema] == [field.metadata for field in job.schema]
    assert [copy.schema.field(name).type for name in "ab"] == kinds


def test_a_users_own_type_without_a_hash_is_carried() -> None:
    kind = Tagged(pa.string(), "a")
    with pytest.raises(TypeError):
        hash(kind)
    assert spark_schema(pa.schema([("x", kind)]), {}) is None


@pytest.mark.parametrize(
    ("kind", "holds"),
    [
        (pa.binary(), True),
        (pa.binary_view(), True),
        (pa.binary(3), True),
        (pa.struct([("a", pa.list_(pa.large_binary()))]), True),
        (pa.map_(pa.string(), pa.binary()), True),
        (pa.dictionary(pa.int8(), pa.binary()), True),
        (pa.opaque(pa.binary(), "a", "b"), True),
        (pa.uuid(), False),
        (pa.list_(pa.string()), False),
    ],
    ids=str,
)
def test_bytes_are_found_in_every_type(kind: pa.DataType, holds: bool) -> None:
    assert holds_bytes(kind) == holds


def teardown_module() -> None:
    unload_all()
