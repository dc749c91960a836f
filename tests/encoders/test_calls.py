"""Several calls of a model at once: the same outcomes in the same order, failures alone, and limits that hold."""

from __future__ import annotations

import random
import threading
import time

import numpy as np
import pytest
from pictures import encode

from clipmill.encoders import EncoderSpec, Failure, Item, Uri, Vector
from clipmill.encoders.calls import spread
from clipmill.encoders.encoder import Encoder
from clipmill.encoders.in_flight import Row, Slot
from clipmill.encoders.loaded import Loaded
from clipmill.errors import ClipmillError, DeviceError, OutOfMemoryError
from clipmill.metrics.stats import Stats
from clipmill.models.model import Model, Prepared

ALL_AT_ONCE_S = 20.0
"""How long a call waits for the others before it fails the test; they come at once."""


class Lengths(Model):
    """Embeds texts as their lengths, and counts the calls that run at once."""

    dim, modalities = 2, frozenset({"text", "image"})

    def __init__(self, streams: int, *, meet: bool = False, most_rows: int | None = None) -> None:
        """Start with no calls.

        Args:
            streams: Calls at once.
            meet: Whether each call waits until all streams have one.
            most_rows: Rows that fit into memory.
        """
        self.streams = streams
        self.rows: list[int] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._meeting = threading.Barrier(streams, timeout=ALL_AT_ONCE_S) if meet else None
        self._most_rows = most_rows

    def prepare(self, modality, content, spec):
        return Prepared(content if modality == "text" else content.size, pixels=1)

    def encode(self, modality, payloads):
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.rows.append(len(payloads))
        try:
            if self._meeting is not None:
                self._meeting.wait()
            if self._most_rows is not None and len(payloads) > self._most_rows:
                raise OutOfMemoryError("too many")
            if any(payload == "gone" for payload in payloads):
                raise DeviceError("the device is gone")
            if any(payload == "bad" for payload in payloads):
                raise ValueError("a bad row")
            return np.array([[one if isinstance(one, int) else len(one), 1] for one in payloads], np.float32)
        finally:
            with self._lock:
                self._at_once -= 1


def _encoder(model: Model, **options) -> Encoder:
    return Encoder(EncoderSpec("fake::", normalize=False, max_cache_bytes=0, **options), Loaded(model, model.streams))


def _outcomes(encoder: Encoder, items: list[Item], stats: Stats) -> list:
    """Push one item a row; return outcomes, having checked that rows came in order."""
    with encoder.session(stats) as session:
        done = [f for number, item in enumerate(items) for f in session.push(number, [item])] + session.flush()
    assert [finished.token for finished in done] == list(range(len(items)))
    return [finished.outcomes[0] for finished in done]


def _plain(outcome: object) -> object:
    return float(outcome.values[0]) if isinstance(outcome, Vector) else str(outcome.code)  # type: ignore[union-attr]


@pytest.mark.parametrize("streams", [2, 3, 8])
def test_as_many_calls_run_at_once_as_there_are_streams(streams: int) -> None:
    model = Lengths(streams, meet=True)
    texts = ["x" * (number % 50 + 1) for number in range(16 * streams)]
    stats = Stats()
    found = _outcomes(_encoder(model, max_batch_rows=4), [Item("text", text) for text in texts], stats)
    assert [_plain(one) for one in found] == [len(text) for text in texts]
    assert model.most_at_once == streams
    assert (stats.rows, stats.embedded, stats.batches) == (len(texts), len(texts), len(model.rows))
    assert dict(stats.batch_rows) == {4: 4 * streams}


@pytest.mark.parametrize("seed", range(4))
def test_any_mixture_has_the_outcomes_of_one_stream(seed: int) -> None:
    """Texts, arrays, files, addresses, nulls, bad rows and calls that run out of memory."""
    draw = np.random.default_rng(seed)
    picture = np.full((2, 3, 3), 100, np.uint8)
    kinds = [
        *(Item("text", "x" * length) for length in (1, 5, 60)),
        *(Item("text", "bad"), Item("image", picture), Item("image", encode(picture)), Item("image", b"junk")),
        Item("image", Uri("http://0.0.0.0/x")),
    ]
    items = [kinds[number] for number in draw.integers(0, len(kinds), 400)]
    counts = {}
    for streams in (1, 3):
        stats = Stats()
        found = _outcomes(_encoder(Lengths(streams, most_rows=5), max_batch_rows=8), items, stats)
        counts[streams] = ([_plain(one) for one in found], stats.rows, stats.embedded, dict(stats.failed))
    assert counts[1] == counts[3]
    assert {"encode_failed"} <= set(counts[1][3])


def test_an_error_that_no_row_caused_ends_the_session() -> None:
    model = Lengths(2)
    session = _encoder(model, max_batch_rows=1).session()
    with pytest.raises(DeviceError, match="is gone"):
        for number in range(100):
            session.push(number, [Item("text", "gone" if number == 3 else "x")])
    with pytest.raises(ClipmillError, match="ended with an error"):
        session.push(0, [Item("text", "x")])


def test_the_rows_in_flight_are_limited() -> None:
    """A model that answers no call until it is told to: `push` waits, and no more rows are taken."""
    pushed, go_on = [], threading.Event()

    class Waiting(Lengths):
        def encode(self, modality, payloads):
            go_on.wait(ALL_AT_ONCE_S)
            return super().encode(modality, payloads)

    def push_all() -> None:
        with _encoder(Waiting(2), max_batch_rows=4).session() as session:
            for number in range(1000):
                session.push(number, [Item("image", np.zeros((1, 1, 3), np.uint8))])
                pushed.append(number)
            session.flush()

    pushing = threading.Thread(target=push_all)
    pushing.start()
    before = -1
    while len(pushed) > before:  # until it stands still
        before = len(pushed)
        pushing.join(0.3)
    assert len(pushed) <= 4 * 4 * 2
    go_on.set()
    pushing.join(ALL_AT_ONCE_S)
    assert len(pushed) == 1000


def test_the_last_rows_are_cut_into_parts_for_all_streams() -> None:
    model = Lengths(2, meet=True)
    _outcomes(_encoder(model, max_batch_rows=40), [Item("text", "x")] * 20, Stats())
    assert model.rows == [10, 10]


def test_calls_do_not_depend_on_timing() -> None:
    """Or equal inputs would have vectors that differ in their last bits."""

    class Uneven(Lengths):
        def encode(self, modality, payloads):
            time.sleep(draw.random() / 200)
            return super().encode(modality, payloads)

    picture = np.full((2, 3, 3), 100, np.uint8)
    items = [Item("text", "x") if number % 3 else Item("image", picture) for number in range(150)]
    found = set()
    for seed in range(8):
        draw = random.Random(seed)
        model = Uneven(3)
        _outcomes(_encoder(model, max_batch_rows=8), items, Stats())
        found.add(tuple(sorted(model.rows)))
    assert len(found) == 1, found


@pytest.mark.parametrize(
    ("sizes", "parts", "least", "expected"),
    [
        ([16], 2, 8, [8, 8]),
        ([16], 1, 8, [16]),
        ([16], 0, 8, [16]),
        ([15], 2, 8, [15]),
        ([40], 4, 8, [10, 10, 10, 10]),
        ([20], 4, 8, [10, 10]),
        ([16, 16], 2, 8, [16, 16]),
        ([16, 17], 4, 8, [8, 8, 8, 9]),
        ([1], 8, 8, [1]),
        ([], 2, 8, []),
    ],
)
def test_parts_of_micro_batches(sizes: list[int], parts: int, least: int, expected: list[int]) -> None:
    row = Row(None)
    batches = [[Slot(row, 0, may_be_audio=False) for _ in range(size)] for size in sizes]
    found = spread(batches, parts, least)
    assert [len(part) for part in found] == expected
    assert [slot for part in found for slot in part] == [slot for batch in batches for slot in batch]


def test_failures_of_calls_are_counted() -> None:
    stats = Stats()
    found = _outcomes(_encoder(Lengths(2), max_batch_rows=4), [Item("text", "bad"), Item("text", "x")] * 20, stats)
    assert [isinstance(one, Failure) for one in found] == [True, False] * 20
    assert stats.failed == {"encode_failed": 20}
