"""Types of Arrow with types inside them, and columns of their values, drawn at random."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pyarrow as pa


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


def drawn_column(draw: random.Random, kind: pa.DataType, rows: int, *, nulls: bool = True) -> pa.Array:
    """Return a column of a type with random values, also such as Python cannot hold, and nulls if it may have them."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _storage_of(draw, kind, rows, nulls))
    is_null = [nulls and draw.random() < 0.2 for _ in range(rows)]
    mask = pa.array(is_null, pa.bool_())
    if pa.types.is_null(kind):
        return pa.nulls(rows)
    if pa.types.is_struct(kind):
        children = [drawn_column(draw, field.type, rows, nulls=field.nullable) for field in kind]
        if not children:
            return pa.array([None if null else {} for null in is_null], kind)
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=mask)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(_items(draw, kind, rows * kind.list_size), type=kind, mask=mask)
    if kind.num_fields and not pa.types.is_dictionary(kind):
        return _variable(draw, kind, rows, is_null)
    if pa.types.is_dictionary(kind):
        values = drawn_column(draw, kind.value_type, 3, nulls=False)
        numbers = [None if null else draw.randrange(len(values)) for null in is_null]
        return pa.DictionaryArray.from_arrays(pa.array(numbers, kind.index_type), values, ordered=kind.ordered)
    return pa.array([None if null else _value(draw, kind) for null in is_null], _physical(kind)).cast(kind, safe=False)


def _storage_of(draw: random.Random, kind: pa.BaseExtensionType, rows: int, nulls: bool) -> pa.Array:
    if kind.extension_name == "arrow.json":
        return pa.array([draw.choice(['{"a": 1}', "null", "[]"]) for _ in range(rows)], kind.storage_type)
    if kind.extension_name == "arrow.bool8":
        return pa.array([draw.choice([0, 1]) for _ in range(rows)], kind.storage_type)
    return drawn_column(draw, kind.storage_type, rows, nulls=nulls and "tensor" not in kind.extension_name)


def _items(draw: random.Random, kind: pa.DataType, rows: int) -> pa.Array:
    return drawn_column(draw, kind.value_type, rows, nulls=kind.value_field.nullable)


def _variable(draw: random.Random, kind: pa.DataType, rows: int, is_null: Sequence[bool]) -> pa.Array:
    """Return a column of lists or maps."""
    sizes = [0 if null else draw.randrange(4) for null in is_null]
    ends = np.cumsum([0, *sizes]).tolist()
    offsets = pa.array([None if null else end for null, end in zip([*is_null, False], ends, strict=True)], pa.int32())
    if pa.types.is_map(kind):
        keys = drawn_column(draw, kind.key_type, ends[-1], nulls=False)
        items = drawn_column(draw, kind.item_type, ends[-1], nulls=kind.item_field.nullable)
        return pa.MapArray.from_arrays(offsets, keys, items, type=kind)
    if pa.types.is_large_list(kind):
        return pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), _items(draw, kind, ends[-1]), type=kind)
    if pa.types.is_list(kind):
        return pa.ListArray.from_arrays(offsets, _items(draw, kind, ends[-1]), type=kind)
    size = pa.int64() if pa.types.is_large_list_view(kind) else pa.int32()
    make = pa.LargeListViewArray if pa.types.is_large_list_view(kind) else pa.ListViewArray
    starts = pa.array(ends[:-1], size)
    values = _items(draw, kind, ends[-1])
    return make.from_arrays(starts, pa.array(sizes, size), values, type=kind, mask=pa.array(is_null, pa.bool_()))


def _physical(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    return kind


def _value(draw: random.Random, kind: pa.DataType) -> object:
    types = pa.types
    if types.is_boolean(kind):
        return draw.random() < 0.5
    if types.is_time(kind):
        per_day = 86_400 * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
        return draw.randrange(per_day)
    if types.is_date64(kind):
        return draw.randrange(-(10**7), 10**7) * 86_400_000
    if types.is_integer(_physical(kind)):
        bits = _physical(kind).bit_width
        least = 0 if types.is_unsigned_integer(kind) else -(2 ** (bits - 1))
        return draw.choice([least, least + 2**bits - 1, 0, 1, draw.randrange(least, least + 2**bits)])
    if types.is_floating(kind):
        return np.dtype(kind.to_pandas_dtype()).type(draw.choice([0.0, -0.0, 1.5, float("nan"), float("inf"), 1e-7]))
    if types.is_decimal(kind):
        digits = draw.randrange(10 ** min(kind.precision, 18))
        return pa.scalar(digits, pa.decimal128(38, 0)).as_py().scaleb(-kind.scale)
    if types.is_fixed_size_binary(kind):
        return draw.randbytes(kind.byte_width)
    if types.is_interval(kind):
        return pa.MonthDayNano([draw.randrange(99), draw.randrange(99), draw.randrange(10**12)])
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return draw.randbytes(draw.choice([0, 1, 20]))
    return draw.choice(["", "a\0b", "ü🙂", "x" * 20, "null"])
