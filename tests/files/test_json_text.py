"""Any value as JSON, and any string as one that UTF-8 can encode: damaged files must not stop a shard."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import pathlib
import uuid

import numpy as np
import pandas as pd
import pytest

from clipmill.files.json_text import clean_text, exact_json, json_object, json_text, key_text, parse_json, some_of


class Unprintable:
    """An object whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError

    def __repr__(self) -> str:
        return "Unprintable()"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [1, 2.5, None, True, "ü"]}, '{"a": [1, 2.5, null, true, "ü"]}'),
        ([math.nan, math.inf, 1.5], "[null, null, 1.5]"),
        ({1: {"b": math.nan}}, '{"1": {"b": null}}'),
        (b"12345", '"<5 bytes>"'),
        (bytearray(3), '"<3 bytes>"'),
        (np.zeros((2, 3), np.float32), '"<array of 2 × 3 float32>"'),
        ([np.int64(7), np.float32(0.5), np.float64("nan")], "[7, 0.5, null]"),
        ((1, {2}), "[1, [2]]"),
        (datetime.date(2026, 11, 29), '"2026-11-29"'),
        (datetime.datetime(2026, 11, 29, 1, 2, 3, 4, datetime.UTC), '"2026-11-29T01:02:03.000004+00:00"'),
        (
            [datetime.time(1, 2), decimal.Decimal("1.50"), uuid.UUID(int=1)],
            '["01:02:00", "1.50", "00000000-0000-0000-0000-000000000001"]',
        ),
        (
            [None, pd.NA, pd.NaT, np.datetime64("NaT"), np.datetime64("2026-01-02", "ns")],
            '[null, null, null, null, "2026-01-02T00:00:00.000000000"]',
        ),
        (
            {True: 1, None: 2, 1.5: 3, (1, "a"): 4, datetime.date(2026, 1, 2): {5}},
            '{"true": 1, "null": 2, "1.5": 3, "[1, \\"a\\"]": 4, "2026-01-02": [5]}',
        ),
        ({"a": Unprintable()}, '{"a": "<Unprintable>"}'),
        (pathlib.PurePosixPath("/a"), '"/a"'),
    ],
    ids=repr,
)
def test_any_value_becomes_json(value, expected):
    assert json_text(value) == expected
    json.loads(json_text(value))


def test_integers_that_python_does_not_write_out_are_noted():
    assert json_text({"a": 10**5000}) == '{"a": "<integer of 16610 bits>"}'


def test_json_without_an_end_is_cut():
    circle: list = [1]
    circle.append(circle)
    deep: list = [math.nan]
    for _ in range(5000):
        deep = [deep]
    for value in (circle, deep):
        assert "<nested too deeply>" in json_text(value)
        with pytest.raises(TypeError, match="list is nested too deeply"):
            exact_json(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            {"a": np.array([[1, 2], [3, 4]]), "b": np.datetime64("2026-01-02")},
            '{"a": [[1, 2], [3, 4]], "b": "2026-01-02"}',
        ),
        ({"a": {"b": [math.nan, {3}, (1,), uuid.UUID(int=1)]}, 1: None}, None),
    ],
    ids=["arrays", "nested"],
)
def test_what_json_holds_is_written_exactly(value, expected):
    assert exact_json(value) == (
        expected or '{"a": {"b": [null, [3], [1], "00000000-0000-0000-0000-000000000001"]}, "1": null}'
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": [b"x"]}}, "'a': 'b': bytes is no JSON"),
        ({"a": np.array([object()])}, "'a': object is no JSON"),
        ({1: "a", "1": "b"}, "two keys have the text '1'"),
        ({b"x": 1}, "bytes is no JSON"),
        ({"a": 1j}, "'a': complex is no JSON"),
        ({"a": 10**5000}, "'a': int has too many digits"),
    ],
    ids=["bytes", "objects", "keys", "key", "complex", "integer"],
)
def test_what_json_cannot_hold_is_refused_with_its_place(value, message):
    with pytest.raises(TypeError, match=f"^{message}$"):
        exact_json(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (np.int64(7), "7"),
        (1.5, "1.5"),
        (True, "true"),
        (b"\x00\xff", "00ff"),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC), "2026-01-02T03:04:05.000006+00:00"),
        (datetime.time(1, 2, 3), "01:02:03"),
        (decimal.Decimal("1.50"), "1.50"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ([1, None, b"x"], '[1, null, "78"]'),
        ({"day": datetime.date(2026, 1, 2), "n": b"\xff"}, '{"day": "2026-01-02", "n": "ff"}'),
        ([("k", 1)], '[["k", 1]]'),
        (math.inf, "inf"),
        ("\ud800", "\\ud800"),
        *((missing, None) for missing in (None, "", math.nan, np.float32("nan"), pd.NA, pd.NaT)),
    ],
    ids=repr,
)
def test_keys_of_every_type_are_readable_texts(value, text):
    assert key_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime.timedelta(days=-1, microseconds=1), "-86399.999999 s"),
        (datetime.timedelta(seconds=100), "100 s"),
        (np.timedelta64(1, "ns"), "0.000000001 s"),
        (np.timedelta64(2**62, "W"), f"{2**62 * 604_800} s"),
        (np.timedelta64(1500, "ps"), "1500 picoseconds"),
        (np.timedelta64(1, "Y"), "1 years"),
    ],
    ids=repr,
)
def test_durations_of_every_unit_are_texts(value, text):
    assert json.loads(json_text([value])) == [text]


def test_json_can_be_indented():
    assert json_text({"a": 1}, indent=1) == '{\n "a": 1\n}'
    assert json_text({"a": math.nan}, indent=1) == '{\n "a": null\n}'


def test_names_that_are_not_utf8_survive_the_round_trip():
    name = b"lat\xe9".decode("utf-8", "surrogateescape")
    text = json_text({"name": name})
    text.encode("utf-8")
    assert json.loads(text)["name"] == name


@pytest.mark.parametrize(("content", "expected"), [(b'{"a": 1}', {"a": 1}), ("{}", {}), (b"[1]", None), (b"{", None)])
def test_only_json_objects_are_parsed(content, expected):
    assert json_object(content) == expected
    assert json_object(b"\xff\xfe{") is None


@pytest.mark.parametrize(
    ("count", "expected"), [(0, ""), (1, "a"), (3, "a, b, c"), (4, "a, b, c and 1 more"), (9, "a, b, c and 6 more")]
)
def test_long_lists_of_names_are_shortened(count, expected):
    assert some_of("abcdefghi"[:count]) == expected


def test_strings_that_utf8_cannot_encode_are_escaped():
    assert clean_text("plain") == "plain"
    assert clean_text("ü 日本") == "ü 日本"
    assert clean_text(b"lat\xe9".decode("utf-8", "surrogateescape")) == r"lat\xe9"
    assert clean_text("a\ud800b") == r"a\ud800b"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        (math.nan, None),
        ("7", "7"),
        (7, "7"),
        (0, "0"),
        (1.5, "1.5"),
        (False, "false"),
        (["a", 1], '["a", 1]'),
        ({"a": None}, '{"a": null}'),
        ("a\udce4", r"a\xe4"),
    ],
    ids=repr,
)
def test_keys_become_text_and_missing_keys_none(value, expected):
    assert key_text(value) == expected


@pytest.mark.parametrize(
    "content", ["[" * 100_000, b'{"a":' * 100_000, "{", b"\xff"], ids=["arrays", "objects", "cut", "bytes"]
)
def test_no_json_raises_another_error(content):
    with pytest.raises(ValueError):
        parse_json(content)
    assert json_object(content) is None
