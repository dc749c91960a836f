"""Content hashes of rows: the hash of the only value, or a combined hash of all values and their places."""

from __future__ import annotations

import hashlib

import numpy as np

from clipmill.encoders import Vector
from clipmill.encoders.content_hash import hash_of_outcomes, joined_hash
from clipmill.failures import Code, Failure, Stage

FAILED = Failure(Stage.DECODE, Code.UNDECODABLE, "why")


def vector(content_hash):
    return Vector(np.zeros(1, np.float32), content_hash=content_hash)


def test_a_single_value_keeps_its_hash_and_nulls_have_none():
    assert joined_hash(["photo"], ["abc"]) == "abc"
    assert joined_hash([], []) is None
    assert joined_hash(["a", "b"], [None, None]) is None


def test_several_values_are_hashed_with_their_places_regardless_of_order():
    found = joined_hash(["b", "a"], ["2", "1"])
    assert found == hashlib.sha256(b"a\t1\nb\t2\n").hexdigest() == joined_hash(["a", "b"], ["1", "2"])
    assert joined_hash(["a", "b"], ["2", "1"]) != found
    assert joined_hash(["a", "b"], ["1", None]) == hashlib.sha256(b"a\t1\nb\t\n").hexdigest()


def test_a_row_with_a_failure_has_no_hash():
    assert hash_of_outcomes(["a"], [vector("1")]) == "1"
    assert hash_of_outcomes(["a", "b"], [vector("1"), None]) == joined_hash(["a", "b"], ["1", None])
    assert hash_of_outcomes(["a", "b"], [vector("1"), FAILED]) is None
    assert hash_of_outcomes(["a", "b"], [None, None]) is None
