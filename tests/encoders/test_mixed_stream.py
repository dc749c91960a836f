"""A long stream of texts, images and audio clips of many lengths, some of them broken: all come out, in order."""

from __future__ import annotations

import collections
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from contract import WITH_SOUNDS, png, tone, vector_of_png, vector_of_text, vector_of_wav, wav

from clipmill.encoders import EncoderSpec, Failure, Item, Uri, Vector, load_encoder
from clipmill.encoders.item import item_of_value
from clipmill.encoders.testing import fake_audio_vector, read_log

ROWS = 2_000
_MIB = 2**20


def picture(number: int) -> tuple[bytes, np.ndarray]:
    size, colour = (1 + number % 5, 3), (number % 256, number % 7, 9)
    return png(*size, colour), vector_of_png(*size, colour)


def clip(number: int, channels: int = 1) -> tuple[bytes, np.ndarray]:
    """Return an audio file of 0.5 to 3 seconds, with one of 501 lengths."""
    samples = 4_000 + 40 * (number * 7919 % 501)
    return wav(samples, channels), vector_of_wav(samples, channels)


def stereo(number: int) -> tuple[Item, np.ndarray]:
    samples = tone(4_000 + 40 * (number * 7919 % 501), 2).T
    return item_of_value("audio", (samples, 16_000)), fake_audio_vector(samples, 16_000)


def of(modality: Any, made: tuple[bytes, np.ndarray]) -> tuple[Item, np.ndarray]:
    return Item(modality, made[0]), made[1]


KINDS: tuple[Callable[[int], tuple[Item, Any]], ...] = (
    lambda n: (Item("text", f"caption {n}"), vector_of_text(f"caption {n}")),
    lambda n: of("image", picture(n)),
    lambda n: of("audio", clip(n)),
    stereo,
    lambda n: of("auto", clip(n, 2)),
    lambda n: of("auto", picture(n)),
    lambda n: (Item("audio"), None),
    lambda n: (Item("text", "  "), "empty"),
    lambda n: (Item("audio", clip(n)[0][:-500]), "undecodable"),
    lambda n: (Item("auto", b"noise %d" % n), "undecodable"),
    lambda n: (Item("audio", Uri("/etc/hostname")), "forbidden_uri"),
    lambda n: (item_of_value("audio", {"array": n, "sampling_rate": 8_000}), "unsupported"),
    lambda n: (item_of_value("audio", {"array": tone(90)[:, 0]}), "malformed"),
    lambda n: (item_of_value("image", {"path": n}), "unsupported"),
)


def row(number: int) -> tuple[Item, Any]:
    """Return an item, and its vector, the code of its failure, or None for null."""
    return KINDS[number * 31 % len(KINDS)](number)


def outcomes(spec: EncoderSpec) -> Iterator[tuple[int, Any]]:
    """Push rows as they are made, and yield what comes back."""
    with load_encoder(spec).session() as session:
        for number in range(ROWS):
            for done in session.push(number, (row(number)[0],)):
                yield done.token, done.outcomes[0]
        for done in session.flush():
            yield done.token, done.outcomes[0]


def test_every_row_comes_out_once_in_order_with_the_right_outcome(tmp_path) -> None:
    seen: collections.Counter[str] = collections.Counter()
    log = tmp_path / "log"
    spec = EncoderSpec(f"{WITH_SOUNDS}&log={log}", max_batch_rows=16, max_batch_bytes=_MIB)
    for place, (number, outcome) in enumerate(outcomes(spec)):
        assert number == place
        expected = row(number)[1]
        if isinstance(expected, np.ndarray):
            assert isinstance(outcome, Vector), (number, outcome)
            np.testing.assert_array_equal(outcome.values, expected)
            seen["vector"] += 1
        else:
            assert (outcome.code if isinstance(outcome, Failure) else outcome) == expected, (number, outcome)
            seen[str(expected)] += 1
    assert sum(seen.values()) == ROWS
    assert min(seen.values()) > ROWS / 20
    assert read_log(log).rows == seen["vector"]  # nothing is encoded twice


def test_memory_does_not_grow_with_the_stream() -> None:
    """The decoded audio clips take about 38 MiB, of which only a few are held at a time."""
    spec = EncoderSpec(WITH_SOUNDS, max_batch_rows=16, max_batch_bytes=_MIB, preprocess_threads=2)
    load_encoder(spec)
    count = total = 0
    tracemalloc.start()
    try:
        for _, outcome in outcomes(spec):
            count += 1
            total += 4 * int(outcome.values[0] * outcome.values[1]) if is_audio(outcome) else 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == ROWS
    assert total > 36 * _MIB
    assert peak < total / 4


def is_audio(outcome: Any) -> bool:
    """Return whether a vector is one of audio. Clips have more samples than images have columns or texts letters."""
    return isinstance(outcome, Vector) and outcome.values[1] >= 4_000
