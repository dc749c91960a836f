"""The vector cache: which values are equal, when entries expire, and its limits."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from contract import png, vector_of_png, vector_of_text

from clipmill.encoders import Item, Uri, Vector, load_encoder
from clipmill.encoders.vector_cache import URI_SECONDS, Key, VectorCache, key_of
from clipmill.media.audio import Waveform

ENTRY = 600 + 32 + 4
"""Bytes of an entry with a text of one character and eight float32, including the key and Python objects."""


class Clock:
    """A clock that is set by the test."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def text(content: str) -> Key:
    key = key_of(Item("text", content))
    assert key is not None
    return key


def vector(*values: float) -> Vector:
    return Vector(np.resize(np.array(values, np.float32), 8))


# --- keys ------------------------------------------------------------------------------------------------------------


def test_equal_contents_have_equal_keys() -> None:
    """Also in other string and bytes objects, long or short."""
    for item, twin in [
        (Item("text", "a b"), Item("text", " ".join("ab"))),
        (Item("text", "long " * 100), Item("text", "".join(["long "] * 100))),
        (Item("image", b"abc" * 9), Item("image", bytes(bytearray(b"abc" * 9)))),
        (Item("image", Uri("http://x/y")), Item("image", Uri("http://x/" + "y"))),
        (Item("text", "\ud800" * 300), Item("text", "\ud800" * 300)),
        (Item("text", "\udfff"), Item("text", "\udfff")),
    ]:
        assert key_of(item) == key_of(twin)
        assert hash(key_of(item)) == hash(key_of(twin))


def test_values_that_differ_have_different_keys() -> None:
    """In content, in modality, or in the declared media type."""
    long = "x" * 300
    items = [
        Item("text", "a"),
        Item("text", "A"),
        Item("text", "a "),
        Item("text", "é"),
        Item("text", "e\u0301"),
        Item("text", long),
        Item("text", long + "y"),
        Item("text", "\ud800" * 300),
        Item("text", "\ud801" * 300),
        Item("image", b"a"),
        Item("image", b"b"),
        Item("audio", b"a"),
        Item("auto", b"a"),
        Item("auto", b"a", "text/plain"),
        Item("auto", b"a", "image/png"),
        Item("image", Uri("a")),
        Item("auto", Uri("a")),
        Item("auto", Uri("a"), "text/plain"),
        Item("auto", Uri("data:," + long)),
        Item("auto", Uri("data:," + long + "y")),
    ]
    keys = [key_of(item) for item in items]
    assert None not in keys
    assert len(set(keys)) == len(items)


@pytest.mark.parametrize(
    "content",
    [
        None,
        np.zeros((2, 2, 3), np.uint8),
        Waveform(np.zeros(4), 8000),
        Vector(np.zeros(8, np.float32)),
        5,
        Uri("/listed.png", trusted=True),
    ],
    ids=["null", "array", "audio", "vector", "number", "listed file"],
)
def test_values_that_may_change_have_no_key(content: object) -> None:
    assert key_of(Item("auto", content)) is None


def test_keys_of_long_contents_are_digests() -> None:
    """Of files, long texts and `data:` URIs."""
    for content in (b"x" * 10_000, "x" * 10_000, Uri("data:image/png;base64," + "x" * 10_000)):
        key = key_of(Item("auto", content))
        assert key is not None and len(repr(key)) < 300


# --- limits ----------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_entries_are_evicted() -> None:
    cache = VectorCache(3 * ENTRY)
    for letter in "abc":
        cache.put(text(letter), vector(ord(letter)))
    assert cache.nbytes == 3 * ENTRY and len(cache) == 3
    assert cache.get(text("a")) is not None
    cache.put(text("d"), vector(4))
    assert [letter for letter in "abcd" if cache.get(text(letter))] == ["a", "c", "d"]
    cache.put(text("c"), vector(5))
    cache.put(text("e"), vector(6))
    assert [letter for letter in "acde" if cache.get(text(letter))] == ["c", "d", "e"]
    assert cache.nbytes == 3 * ENTRY


def test_nbytes_is_the_sum_of_the_entries() -> None:
    """After any sequence of `put` and `get`, the limit holds and the sum is right."""
    cache, rng = VectorCache(20_000), np.random.default_rng(6)
    for number in rng.integers(0, 300, 3000):
        key = text(f"{number} " * int(1 + number % 90))
        if rng.random() < 0.5:
            cache.get(key)
        else:
            cache.put(key, Vector(np.zeros(int(8 * (1 + number % 5)), np.float32)))
        assert cache.nbytes <= 20_000
        assert cache.nbytes == sum(entry.nbytes for entry in cache._entries.values())
    assert len(cache) > 10


def test_a_vector_larger_than_the_cache_evicts_nothing() -> None:
    cache = VectorCache(2 * ENTRY)
    cache.put(text("a"), vector(1))
    cache.put(text("b"), Vector(np.zeros(5000, np.float32)))
    assert cache.get(text("a")) is not None and cache.get(text("b")) is None


def test_keys_count_toward_the_limit() -> None:
    cache = VectorCache(10**6)
    cache.put(text("x" * 200), vector(1))
    assert cache.nbytes == ENTRY + 4 * 199


def test_a_cache_of_zero_bytes_keeps_nothing() -> None:
    cache = VectorCache(0)
    cache.put(text("a"), vector(1))
    assert not cache.enabled and len(cache) == 0 and cache.get(text("a")) is None


def test_entries_do_not_keep_their_micro_batch_alive() -> None:
    """A row of a matrix is a view, which would keep the whole matrix."""
    matrix = np.ones((1000, 8), np.float32)
    cache = VectorCache(10**6)
    cache.put(text("a"), Vector(matrix[5]))
    assert cache._entries[text("a")].vector.values.base is None


# --- expiry ----------------------------------------------------------------------------------------------------------


def test_uris_expire_and_texts_do_not() -> None:
    clock = Clock()
    cache = VectorCache(10**6, clock=clock)
    uri = key_of(Item("image", Uri("http://x/y")))
    assert uri is not None
    for key in (uri, text("a")):
        cache.put(key, vector(1))
    clock.now += URI_SECONDS - 1
    assert cache.get(uri) is not None
    clock.now += 1  # reading an entry does not extend its lifetime
    assert cache.get(uri) is None
    assert len(cache) == 1 and cache.nbytes == ENTRY
    assert cache.get(text("a")) is not None
    cache.put(uri, vector(2))
    clock.now += URI_SECONDS - 1
    found = cache.get(uri)
    assert found is not None and found.values[0] == 2


# --- ownership of values ---------------------------------------------------------------------------------------------


def test_vectors_are_copied_on_put_and_get() -> None:
    cache, given = VectorCache(10**6), vector(1, 2)
    cache.put(text("a"), given)
    given.values[:] = -1
    first = cache.get(text("a"))
    assert first is not None
    first.values[:] = -2
    second = cache.get(text("a"))
    assert second is not None
    np.testing.assert_array_equal(second.values, vector(1, 2).values)


def test_the_other_attributes_of_a_vector_are_kept() -> None:
    cache = VectorCache(10**6)
    cache.put(text("a"), Vector(np.zeros(8, np.float32), truncated=True, media_type="text/plain", modality="text"))
    found = cache.get(text("a"))
    assert found is not None
    assert (found.truncated, found.media_type, found.modality) == (True, "text/plain", "text")


@pytest.mark.parametrize("max_cache_bytes", [0, 10**6], ids=["off", "on"])
def test_callers_may_modify_any_vector(max_cache_bytes: int) -> None:
    """Equal values have separate vectors, within a call and across calls, for leaders and followers."""
    encoder = load_encoder("fake::dim=8", max_cache_bytes=max_cache_bytes, max_batch_rows=2)
    picture = png(2, 3, (1, 2, 3))
    for _ in range(3):
        outcomes = encoder.embed("text", ["same"] * 3) + encoder.embed("image", [picture] * 3)
        wanted = [vector_of_text("same")] * 3 + [vector_of_png(2, 3, (1, 2, 3))] * 3
        for outcome, expected in zip(outcomes, wanted, strict=True):
            assert isinstance(outcome, Vector)
            np.testing.assert_array_equal(outcome.values, expected)
            outcome.values[:] = -7


# --- threads ---------------------------------------------------------------------------------------------------------


def test_many_threads_at_once() -> None:
    """Each gets the right vector or none, and the limit holds."""
    cache, wrong = VectorCache(50 * ENTRY), []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for number in rng.integers(0, 120, 3000):
            key = text(chr(200 + number))
            found = cache.get(key)
            if found is None:
                cache.put(key, vector(number))
            elif found.values[0] != number:
                wrong.append(number)
            if cache.nbytes > 51 * ENTRY:
                wrong.append(-1)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert wrong == []
    assert cache.nbytes == sum(entry.nbytes for entry in cache._entries.values()) <= 50 * ENTRY
