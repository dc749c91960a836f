"""Any value as JSON, and any string as one that UTF-8 can encode: damaged files must not stop a shard."""

from __future__ import annotations

import datetime
import json
import math

import numpy as np
import pytest

from clipmill.files.json_text import clean_text, json_object, json_text, key_text, some_of


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
    ],
    ids=repr,
)
def test_any_value_becomes_json(value, expected):
    assert json_text(value) == expected
    json.loads(expected)


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
