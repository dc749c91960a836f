"""Python values in columns of declared types: every pair of a value and a type is exact, or refused."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import fractions
import math
import pathlib
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from clipmill.datasets.tables.python_values import value_array
from clipmill.datasets.tables.schemas import rows_batch, rows_schema
from clipmill.encoders import EncoderSpec
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.errors import DatasetError

D = decimal.Decimal
UTC = datetime.UTC
BERLIN = datetime.timezone(datetime.timedelta(hours=2))


class Kind(enum.Enum):
    """An enumeration of a user."""

    A = "a"


class Number(enum.IntEnum):
    """Numbers, by name."""

    THREE = 3


class Name(enum.StrEnum):
    """Texts, by name."""

    X = "x"


VALUES = {
    "bool": True,
    "int": 3,
    "int large": 2**53 + 1,
    "int beyond 64 bits": 2**70,
    "float": 1.5,
    "float whole": 2.0,
    "float large": 1e300,
    "infinite": math.inf,
    "decimal": D("1.50"),
    "decimal long": D("1.55555"),
    "fraction": fractions.Fraction(1, 2),
    "complex": 1j,
    "text": "x",
    "digits": "5",
    "bytes": b"x",
    "bytearray": bytearray(b"x"),
    "memoryview": memoryview(b"x"),
    "date": datetime.date(2020, 1, 2),
    "midnight": datetime.datetime(2020, 1, 2),
    "datetime": datetime.datetime(2020, 1, 2, 3, 4, 5, 6),
    "datetime whole": datetime.datetime(2020, 1, 2, 3, 4, 5),
    "datetime UTC": datetime.datetime(2020, 1, 2, 3, 4, 5, 6, UTC),
    "datetime Berlin": datetime.datetime(2020, 1, 2, 3, 4, 5, 6, BERLIN),
    "time": datetime.time(1, 2, 3, 4),
    "time whole": datetime.time(1, 2, 3),
    "time with zone": datetime.time(1, 2, 3, tzinfo=UTC),
    "timedelta": datetime.timedelta(-1, 2, 3),
    "timedelta whole": datetime.timedelta(1, 2),
    "uuid": uuid.UUID(int=5),
    "path": pathlib.PurePosixPath("/a"),
    "enum": Kind.A,
    "int enum": Number.THREE,
    "text enum": Name.X,
    "np.int64": np.int64(3),
    "np.uint8": np.uint8(3),
    "np.float16": np.float16(1.5),
    "np.float32": np.float32(0.1),
    "np.bool": np.bool_(True),
    "np.str": np.str_("x"),
    "np.bytes": np.bytes_(b"x"),
    "datetime64 ns": np.datetime64("2020-01-02T03:04:05.123456789"),
    "datetime64 us": np.datetime64("2020-01-02T03:04:05.000006"),
    "datetime64 D": np.datetime64("2020-01-02"),
    "timedelta64 ns": np.timedelta64(1500, "ns"),
    "timedelta64 h": np.timedelta64(2, "h"),
    "pd.Timestamp": pd.Timestamp("2020-01-02T03:04:05.123456789"),
    "pd.Timestamp Berlin": pd.Timestamp("2020-01-02T03:04:05", tz="Europe/Berlin"),
    "pd.Timedelta": pd.Timedelta(1500, "ns"),
    "list": [1, None],
    "list of texts": ["x", None],
    "list of floats": [1.5],
    "tuple": (1, 2),
    "set": {1},
    "array": np.array([1, 2]),
    "array of floats": np.array([1.5, 2.0]),
    "array 2-d": np.zeros((1, 1)),
    "array 0-d": np.array(5),
    "array.array": array.array("i", [1]),
    "deque": collections.deque([1]),
    "dict": {"a": 1},
    "dict of more": {"a": 1, "zz": 2},
    "dict empty": {},
    "pairs": [("a", 1)],
    "object": object(),
}

DAY = datetime.date(2020, 1, 2)
_int = {"int": 3, "float whole": 2, "int enum": 3, "np.int64": 3, "np.uint8": 3}
_float = {
    **{"int": 3.0, "float": 1.5, "float whole": 2.0, "infinite": math.inf, "int enum": 3.0},
    **{"np.int64": 3.0, "np.uint8": 3.0, "np.float16": 1.5},
}
_f32 = float(np.float32(0.1))
_text = {
    **{"bool": "true", "int": "3", "int large": str(2**53 + 1), "int beyond 64 bits": str(2**70), "float": "1.5"},
    **{"float whole": "2.0", "float large": "1e+300", "infinite": "null", "decimal": "1.50", "decimal long": "1.55555"},
    **{"text": "x", "digits": "5", "date": "2020-01-02", "midnight": "2020-01-02T00:00:00"},
    **{"datetime": "2020-01-02T03:04:05.000006", "datetime whole": "2020-01-02T03:04:05"},
    **{"datetime UTC": "2020-01-02T03:04:05.000006+00:00", "datetime Berlin": "2020-01-02T03:04:05.000006+02:00"},
    **{"time": "01:02:03.000004", "time whole": "01:02:03", "time with zone": "01:02:03+00:00"},
    **{"uuid": "00000000-0000-0000-0000-000000000005", "path": "/a", "int enum": "3", "text enum": "x"},
    **{
        "np.int64": "3",
        "np.uint8": "3",
        "np.float16": "1.5",
        "np.float32": str(_f32),
        "np.bool": "true",
        "np.str": "x",
    },
    **{"datetime64 ns": "2020-01-02T03:04:05.123456789", "datetime64 us": "2020-01-02T03:04:05.000006"},
    **{"datetime64 D": "2020-01-02", "pd.Timestamp": "2020-01-02T03:04:05.123456789"},
    **{"pd.Timestamp Berlin": "2020-01-02T03:04:05+01:00", "list": "[1, null]", "list of texts": '["x", null]'},
    **{"list of floats": "[1.5]", "tuple": "[1, 2]", "dict": '{"a": 1}', "dict of more": '{"a": 1, "zz": 2}'},
    **{"timedelta": "-86397.999997 s", "timedelta whole": "86402 s", "timedelta64 ns": "0.0000015 s"},
    **{"timedelta64 h": "7200 s", "pd.Timedelta": "0.0000015 s"},
    **{"dict empty": "{}", "pairs": '[["a", 1]]'},
}
_bytes = dict.fromkeys(("bytes", "bytearray", "memoryview", "np.bytes"), b"x")
_day = {"date": DAY, "midnight": DAY, "datetime64 D": DAY}
_moment = {
    **{"date": datetime.datetime(2020, 1, 2), "midnight": datetime.datetime(2020, 1, 2)},
    **{"datetime": VALUES["datetime"], "datetime whole": VALUES["datetime whole"]},
    **{"datetime64 us": VALUES["datetime"], "datetime64 D": datetime.datetime(2020, 1, 2)},
}
_in_utc = {
    "datetime UTC": VALUES["datetime UTC"],
    "datetime Berlin": VALUES["datetime Berlin"],
    "pd.Timestamp Berlin": datetime.datetime(2020, 1, 2, 2, 4, 5, tzinfo=UTC),
}
_list = {"list": [1, None], "tuple": [1, 2], "array": [1, 2], "array.array": [1], "deque": [1]}
EXPECTED = {
    pa.null(): {},
    pa.bool_(): {"bool": True, "np.bool": True},
    pa.int8(): _int,
    pa.int64(): {**_int, "int large": 2**53 + 1},
    pa.uint64(): {**_int, "int large": 2**53 + 1},
    pa.float16(): {**_float, "np.float32": float(np.float16(0.1))},
    pa.float32(): {**_float, "np.float32": _f32, "int beyond 64 bits": 2.0**70},
    pa.float64(): {**_float, "np.float32": _f32, "int beyond 64 bits": 2.0**70, "float large": 1e300},
    pa.decimal128(10, 2): {"int": D("3.00"), "int enum": D("3.00"), "np.int64": D("3.00"), "np.uint8": D("3.00")}
    | {"decimal": D("1.50")},
    pa.string(): _text,
    pa.large_string(): _text,
    pa.string_view(): _text,
    pa.dictionary(pa.int8(), pa.string()): _text,
    pa.binary(): _bytes,
    pa.large_binary(): _bytes,
    pa.binary(1): _bytes,
    pa.date32(): _day,
    pa.date64(): _day,
    pa.time32("s"): {"time whole": datetime.time(1, 2, 3)},
    pa.time64("us"): {"time": datetime.time(1, 2, 3, 4), "time whole": datetime.time(1, 2, 3)},
    pa.timestamp("us"): _moment,
    pa.timestamp("s"): {name: one for name, one in _moment.items() if one.microsecond == 0},
    pa.timestamp("us", "UTC"): _in_utc,
    pa.timestamp("us", "Europe/Berlin"): _in_utc,
    pa.duration("us"): {"timedelta": datetime.timedelta(-1, 2, 3), "timedelta whole": datetime.timedelta(1, 2)}
    | {"timedelta64 h": datetime.timedelta(hours=2)},
    pa.duration("s"): {"timedelta whole": datetime.timedelta(1, 2), "timedelta64 h": datetime.timedelta(hours=2)},
    pa.list_(pa.int64()): _list,
    pa.large_list(pa.int8()): _list,
    pa.list_(pa.float32()): _list | {"list of floats": [1.5], "array of floats": [1.5, 2.0]},
    pa.list_(pa.string()): {"list": ["1", None], "list of texts": ["x", None], "list of floats": ["1.5"]}
    | {"tuple": ["1", "2"], "array": ["1", "2"], "array of floats": ["1.5", "2.0"], "array.array": ["1"]}
    | {"deque": ["1"], "pairs": ['["a", 1]'], "array 2-d": None},
    pa.list_(pa.list_(pa.float64())): {"array 2-d": [[0.0]]},
    pa.struct([("a", pa.int64())]): {"dict": {"a": 1}, "dict empty": {"a": None}},
    pa.map_(pa.string(), pa.int64()): {"dict": [("a", 1)], "dict of more": [("a", 1), ("zz", 2)], "dict empty": []}
    | {"pairs": [("a", 1)]},
    pa.uuid(): {"uuid": uuid.UUID(int=5)},
    pa.bool8(): {"bool": True, "np.bool": True},
    pa.month_day_nano_interval(): {},
}
"""What each type makes of the values that it can hold; it refuses the others."""
EXPECTED[pa.list_(pa.string())].pop("array 2-d")


@pytest.mark.parametrize("kind", EXPECTED, ids=str)
def test_every_value_is_exact_or_refused(kind: pa.DataType) -> None:
    found = {}
    for name, value in VALUES.items():
        try:
            array_of_one = value_array([value, None], kind)
        except (TypeError, ValueError, OverflowError, pa.ArrowException):
            continue
        assert array_of_one.type == kind and not array_of_one[1].is_valid
        found[name] = array_of_one[0].as_py()
    assert found == EXPECTED[kind]


def test_nanoseconds_are_kept_or_refused() -> None:
    names = ["datetime64 ns", "pd.Timestamp"]
    moments = value_array([VALUES[name] for name in names], pa.timestamp("ns"))
    assert moments.cast(pa.int64()).to_pylist() == [1_577_934_245_123_456_789] * 2
    durations = value_array([VALUES["timedelta64 ns"], VALUES["pd.Timedelta"]], pa.duration("ns"))
    assert durations.cast(pa.int64()).to_pylist() == [1500] * 2
    for name in names:
        with pytest.raises(TypeError, match="fractions of us"):
            value_array([VALUES[name]], pa.timestamp("us"))


@pytest.mark.parametrize(
    ("value", "kind", "count"),
    [
        (np.datetime64(1_500, "ps"), pa.timestamp("us"), None),
        (np.datetime64(3_000_000, "ps"), pa.timestamp("us"), 3),
        (np.datetime64("2026"), pa.timestamp("s"), 1_767_225_600),
        (np.datetime64("2026-02"), pa.timestamp("s"), 1_769_904_000),
        (np.datetime64(3, "10s"), pa.timestamp("s"), 30),
        (np.datetime64("9999999-01-01"), pa.timestamp("s"), 315_507_321_244_800),
        (np.timedelta64(1_500, "ps"), pa.duration("us"), None),
        (np.timedelta64(7_000_000, "fs"), pa.duration("ns"), 7),
        (np.timedelta64(3, "10s"), pa.duration("s"), 30),
        (np.timedelta64(2, "W"), pa.duration("s"), 1_209_600),
        (np.timedelta64(1, "Y"), pa.duration("s"), None),
        (np.timedelta64(1, "M"), pa.duration("s"), None),
    ],
    ids=repr,
)
def test_every_unit_of_numpy_is_exact_or_refused(value: object, kind: pa.DataType, count: int | None) -> None:
    if count is None:
        with pytest.raises(TypeError, match="no whole number of nanoseconds"):
            value_array([value], kind)
        return
    assert value_array([value], kind).cast(pa.int64()).to_pylist() == [count]


@pytest.mark.parametrize("missing", [None, pd.NA, pd.NaT, np.datetime64("NaT"), math.nan, np.float32("nan")], ids=repr)
@pytest.mark.parametrize("kind", [kind for kind in EXPECTED if not pa.types.is_null(kind)], ids=str)
def test_what_stands_for_a_missing_value_is_null(kind: pa.DataType, missing: object) -> None:
    (found,) = value_array([missing], kind).to_pylist() if kind != pa.month_day_nano_interval() else [None]
    is_nan = isinstance(missing, float | np.floating) and pa.types.is_floating(kind)
    assert math.isnan(found) if is_nan else found is None


def test_a_refusal_names_the_column_the_types_and_the_reason() -> None:
    plan = ColumnPlan.of({"caption": "text"})
    columns = pa.schema([("caption", pa.string()), ("n", pa.int64()), ("t", pa.timestamp("us", "UTC"))])
    schema = rows_schema(columns, plan, EncoderSpec("fake::dim=4"))
    with pytest.raises(DatasetError, match=r"column 'n' is int64, .*: float is no int64: it has a fraction"):
        rows_batch([{"caption": "a", "n": 1.5}], schema, plan, 4)
    with pytest.raises(DatasetError, match=r"column 't' is .*: datetime is no .*: it has no time zone"):
        rows_batch([{"caption": "a", "t": datetime.datetime(2020, 1, 2)}], schema, plan, 4)
