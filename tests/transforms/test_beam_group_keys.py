"""The keys of groups of flat rows: equal values have one, in every process, and others another."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid

import numpy as np
from apache_beam.utils.timestamp import Timestamp

from clipmill.transforms.groups import group_key

EAST = datetime.timezone(datetime.timedelta(hours=5))
DAY, NOON = datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, 12)
EQUAL = [
    [1, 1.0, np.int32(1), np.float32(1), decimal.Decimal("1.00")],
    [0.5, np.float64(0.5), decimal.Decimal("0.50")],
    [0.0, -0.0, 0],
    [math.nan, -math.nan, np.float32("nan"), decimal.Decimal("nan")],
    [math.inf, decimal.Decimal("inf")],
    [-math.inf],
    [True, np.True_],
    [False, np.False_],
    [None],
    ["1"],
    [b"1", bytearray(b"1"), memoryview(b"1")],
    ["None"],
    [""],
    [b""],
    ["x" * 1000],
    ["x" * 1001],
    [2**80],
    [2**80 + 1, decimal.Decimal(2**80 + 1)],
    [0.1, decimal.Decimal.from_float(0.1)],
    [decimal.Decimal("0.1"), decimal.Decimal("0.100")],
    [np.float32(0.1), float(np.float32(0.1))],
    [5e-324],
    [10**5000, decimal.Decimal("1E+5000")],
    [10**5000 + 1],
    [10**500, decimal.Decimal("1E+500"), decimal.Decimal("10E+499")],
    [-(10**500)],
    [decimal.Decimal("1E-500"), decimal.Decimal("10E-501")],
    [decimal.Decimal("1E+900000000")],  # whose digits nobody writes out
    [DAY],
    [NOON],
    [NOON.replace(tzinfo=datetime.UTC), NOON.replace(hour=17, tzinfo=EAST)],
    [datetime.time(12)],
    [Timestamp(5)],
    [uuid.UUID(int=5)],
]  # fmt: skip


def test_equal_values_have_one_key_and_others_another():
    keys = [{group_key(["g"], [value]) for value in values} for values in EQUAL]
    assert [len(one) for one in keys] == [1] * len(EQUAL)
    assert len(set.union(*keys)) == len(EQUAL)
    assert all(len(key) <= 64 for one in keys for key in one)


def test_several_values_do_not_run_into_each_other():
    pairs = [("a", "bc"), ("ab", "c"), ("", "abc"), (None, "abc"), ("abc", None), ("abc", ""), (1, "1"), ("1", 1)]
    assert len({group_key(["g", "h"], pair) for pair in pairs}) == len(pairs)


def test_a_key_is_the_same_in_another_process():
    """Which Python's own `hash` of a text is not."""
    assert group_key(["g"], ["red"]) == b"w" + (4).to_bytes(8) + b"sred"
