"""A column of every type that Parquet holds, and the comparison of columns bit for bit."""

from __future__ import annotations

import datetime
import decimal
import struct
import uuid

import numpy as np
import pyarrow as pa

D = decimal.Decimal
FAR = 10**18
"""Microseconds after 1970 of a moment in the year 33658, which Python cannot hold."""


def _carried() -> dict[str, pa.Array]:
    """Return columns of four values, one of them null, with values that Python cannot hold where there are such."""
    arrays = {
        str(kind): pa.array([*values, None][:4], kind)
        for kind, values in {
            pa.bool_(): [True, False, True],
            pa.int8(): [-128, 0, 127],
            pa.uint64(): [0, 2**64 - 1, 1],
            pa.float16(): [np.float16(1.5), np.float16("nan"), np.float16(-0.0)],
            pa.float32(): [1e-45, float("inf"), -0.0],
            pa.float64(): [0.1, float("nan"), -0.0],
            pa.string(): ["", "a\0b", "ü🙂"],
            pa.large_string(): ["x", "", "y" * 1000],
            pa.string_view(): ["x", "", "y" * 1000],
            pa.binary(): [b"", b"\0\xff", b"x"],
            pa.large_binary(): [b"", b"\0\xff", b"x"],
            pa.binary_view(): [b"", b"\0\xff", b"x" * 1000],
            pa.binary(3): [b"abc", b"\0\0\0", b"\xff\xff\xff"],
            pa.date32(): [datetime.date(1, 1, 1), datetime.date(9999, 12, 31), datetime.date(1969, 1, 1)],
            pa.time32("ms"): [datetime.time(0), datetime.time(23, 59, 59, 999000), datetime.time(1)],
            pa.time64("us"): [datetime.time(0), datetime.time(23, 59, 59, 999999), datetime.time(1)],
            pa.decimal128(38, 10): [D("1.5"), D("-9999999999999999999999999999.9999999999"), D(0)],
            pa.decimal256(70, 3): [D("1.5"), D("9" * 60 + ".999"), D(0)],
            pa.decimal32(5, 2): [D("1.50"), D("-999.99"), D(0)],
            pa.decimal64(12, 1): [D("1.5"), D("-0.1"), D(0)],
            pa.uuid(): [uuid.UUID(int=0).bytes, uuid.UUID(int=2**128 - 1).bytes, uuid.uuid4().bytes],
            pa.json_(): ['{"a": 1}', "null", "[]"],
            pa.list_(pa.int32()): [[], [1, None], [2]],
            pa.large_list(pa.string()): [[], ["a", None], ["b"]],
            pa.list_view(pa.int8()): [[], [1, None], [2]],
            pa.list_(pa.float64(), 2): [
                [0.1, float("nan")],
                [1.0, 2.0],
                [0.0, -0.0],
                [1.0, 1.0],
            ],  # Parquet has no null
            pa.struct([("a", pa.int8()), ("b", pa.list_(pa.string()))]): [{"a": 1, "b": ["x"]}, {"a": None}, {"b": []}],
            pa.map_(pa.string(), pa.int64()): [[], [("k", None)], [("a", 1), ("a", 2)]],
            pa.map_(pa.string(), pa.map_(pa.int8(), pa.string())): [[], [("k", [(1, "x")])], [("l", None)]],
            pa.null(): [None, None, None],
        }.items()
    }
    arrays["timestamp"] = pa.array([0, FAR, -FAR, None], pa.timestamp("us"))
    arrays["timestamp with zone"] = pa.array([0, FAR, -1, None], pa.timestamp("us", "Europe/Berlin"))
    arrays["nanoseconds"] = pa.array([1, -1, 2**62, None], pa.timestamp("ns"))
    arrays["date beyond Python's"] = pa.array([10**9, -(10**8), 0, None], pa.int32()).cast(pa.date32())
    arrays["time in nanoseconds"] = pa.array([1, 86_399_999_999_999, 0, None], pa.int64()).cast(pa.time64("ns"))
    arrays["duration"] = pa.array([1, -1, 2**62, None], pa.duration("ns"))
    arrays["dictionary"] = pa.array(["a", "b", "a", None]).dictionary_encode()
    arrays["bool8"] = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0, 1, None], pa.int8()))
    storage = pa.array([[1, 2], [3, 4], [5, 6], [7, 8]], pa.list_(pa.float32(), 2))
    arrays["tensor"] = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [2]), storage)
    return arrays


CARRIED = _carried()


def same(found: pa.Array, expected: pa.Array) -> bool:
    """Compare arrays bit for bit, NaN and the sign of zero too; of dictionaries only the values that are used."""
    return len(found) == len(expected) and list(map(bits_of, found)) == list(map(bits_of, expected))


def bits_of(scalar: pa.Scalar) -> object:
    """Return a value as Python values that are equal for equal bits: numbers of seconds, and bytes of floats."""
    kind = scalar.type
    if not scalar.is_valid:
        return None
    if isinstance(kind, pa.BaseExtensionType):
        return bits_of(scalar.value)
    if pa.types.is_dictionary(kind):
        return bits_of(scalar.value)
    if pa.types.is_struct(kind):
        return {name: bits_of(scalar[name]) for name in kind.names}
    if kind.num_fields:
        return [bits_of(one) for one in scalar.values]
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return scalar.value
    return struct.pack("d", scalar.as_py()) if pa.types.is_floating(kind) else scalar.as_py()
