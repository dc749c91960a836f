"""Texts of similar length share a call of the model, in whatever order they are pushed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from letters import Letters

from clipmill.encoders import EncoderSpec, Item
from clipmill.encoders.in_flight import Row, Slot, cut_by_length
from clipmill.encoders.loaded import Loaded
from clipmill.encoders.session import EmbedSession
from clipmill.encoders.vector_cache import VectorCache
from clipmill.metrics.stats import Stats
from clipmill.models.frontend import Frontend, TextFrontend
from clipmill.models.model import ClipModel, Prepared


class Echo:
    """Returns the length of each text, and records the shapes of its calls."""

    name, precision, device, streams = "echo", "fp32", "cpu", 1

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def encode(self, model_input: str, inputs: Any) -> np.ndarray:
        (ids,) = inputs
        self.shapes.append(ids.shape)
        return (ids > 0).sum(axis=1, keepdims=True).astype(np.float32)


def embed(lengths: list[int], *, fixed_length: bool = False, **options: Any) -> tuple[list[int], list[tuple[int, ...]]]:
    """Return the vectors of texts of these lengths, one value each, and the shapes of the calls."""
    echo = Echo()
    loaded = Loaded(ClipModel(Frontend(1, text=TextFrontend(Letters(), fixed_length=fixed_length)), echo, {}), 1)
    session = EmbedSession(EncoderSpec("fake::dim=1", **options), loaded, Stats(), VectorCache(0))
    items = [Item("text", "x" * length) for length in lengths]
    done = [one for n, item in enumerate(items) for one in session.push(n, [item])] + session.flush()
    assert [one.token for one in done] == list(range(len(lengths)))
    loaded.close()
    return [int(one.outcomes[0].values[0]) for one in done], echo.shapes


LENGTHS = [int(n) for n in np.random.default_rng(0).integers(5, 25, 1000)] + [77] * 40 + [6] * 500


def test_texts_come_back_in_order_and_cost_their_own_length() -> None:
    found, shapes = embed(LENGTHS)
    assert found == LENGTHS
    assert sum(rows for rows, _ in shapes) == len(LENGTHS)
    assert all(rows * length <= 32 * 77 for rows, length in shapes)
    assert max(rows for rows, _ in shapes) > 32, "short texts share larger calls"
    spent, needed = sum(rows * length for rows, length in shapes), sum(LENGTHS)
    assert spent < 1.35 * needed
    in_order = [LENGTHS[n : n + 32] for n in range(0, len(LENGTHS), 32)]
    assert sum(len(some) * max(some) for some in in_order) > 1.5 * needed, "as they come they would cost more"


def test_max_batch_rows_limits_the_rows_of_a_call() -> None:
    found, shapes = embed(LENGTHS, max_batch_rows=8)
    assert found == LENGTHS and max(rows for rows, _ in shapes) == 8


def test_towers_that_read_padding_get_micro_batches_in_order() -> None:
    found, shapes = embed(LENGTHS, fixed_length=True)
    assert len(found) == len(LENGTHS)
    assert set(shapes) <= {(32, 77), (len(LENGTHS) % 32, 77)}


@pytest.mark.parametrize("count", [1, 2, 31, 255, 256, 257])
def test_any_number_of_texts(count: int) -> None:
    lengths = [1 + 7 * n % 77 for n in range(count)]
    assert embed(lengths)[0] == lengths


def slots(lengths: list[int]) -> list[Slot]:
    made = [Slot(Row(n), 0, may_be_audio=False) for n in range(len(lengths))]
    for slot, length in zip(made, lengths, strict=True):
        slot.prepared = Prepared(None, length=length)
    return made


def cut(lengths: list[int], max_rows: int, max_tokens: int | None) -> list[list[tuple[int, int]]]:
    batches = cut_by_length(slots(lengths), max_rows, max_tokens)
    return [[(slot.row.token, slot.prepared.length) for slot in batch] for batch in batches]


def test_cutting() -> None:
    """Padding counts. A text longer than `max_tokens` is alone in its call. Texts of equal length keep their order."""
    assert cut([3, 1, 3, 1], 9, 6) == [[(1, 1), (3, 1)], [(0, 3), (2, 3)]]
    assert cut([3, 1, 3, 1], 9, 100) == [[(1, 1), (3, 1), (0, 3), (2, 3)]]
    assert cut([9, 9, 2], 9, 5) == [[(2, 2)], [(0, 9)], [(1, 9)]]
    assert cut([5, 4, 3, 2, 1], 2, None) == [[(4, 1), (3, 2)], [(2, 3), (1, 4)], [(0, 5)]]
    assert cut([4], 1, None) == [[(0, 4)]]
