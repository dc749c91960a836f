"""Finished rows are freed at once, without the garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from clipmill.encoders import EncoderSpec, Item, load_encoder
from clipmill.metrics.stats import Stats

PICTURE = np.full((20, 30, 3), 100, np.uint8)


class Token:
    """A token that supports weak references."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Disable the garbage collector, so that only reference counts free objects."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("max_cache_bytes", [0, 2**20], ids=["without-cache", "with-cache"])
def test_rows_are_freed_when_their_caller_drops_them(max_cache_bytes: int) -> None:
    """Vectors, failures, equal rows and nulls alike: nothing else refers to a token, which may hold an image."""
    spec = EncoderSpec("fake::dim=4&bad=bad", max_batch_rows=4, max_cache_bytes=max_cache_bytes)
    session = load_encoder(spec).session(Stats())
    tokens = [Token() for _ in range(40)]
    seen = [weakref.ref(token) for token in tokens]
    kinds = [
        Item("text", "same"),
        Item("text", "bad"),
        Item("image", PICTURE),
        Item("image", b"junk"),
        Item("text", None),
    ]
    held = []
    while tokens:
        number = len(tokens)
        session.push(tokens.pop(), [kinds[number % len(kinds)], Item("text", f"text {number}")])
        held.append(seen[number - 1]() is not None)
    assert any(held)  # most rows wait for others; whether the last one does depends on the decoding threads
    session.flush()
    assert [token() for token in seen] == [None] * len(seen)
