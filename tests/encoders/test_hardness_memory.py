"""Running out of device memory: one retry, a remembered row limit, and no effect on other groups."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from letters import Letters

from clipmill.encoders import EncoderSpec, Failure, Item, Vector
from clipmill.encoders.loaded import Loaded
from clipmill.encoders.session import EmbedSession
from clipmill.encoders.vector_cache import VectorCache
from clipmill.errors import OutOfMemoryError
from clipmill.failures import Code, RowError, Stage
from clipmill.media.options import Preprocessing
from clipmill.metrics.stats import Stats
from clipmill.models.frontend import Frontend, TextFrontend
from clipmill.models.model import ClipModel, Model, Prepared
from clipmill.models.runtimes.pytorch import TorchRuntime

SIDE = 4
PREPROCESSING = Preprocessing(SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
HUGE = 66
"""A text of this many letters never fits into memory."""


class Small:
    """A device with room for a number of rows per model input. Vectors are a text's length or a crop's brightness."""

    name, precision, device, streams = "small", "fp32", "cpu", 1

    def __init__(self, **room: int) -> None:
        self.room = room
        self.calls: list[tuple[str, int]] = []

    def encode(self, model_input: str, inputs: Sequence[np.ndarray]) -> np.ndarray:
        (batch,) = inputs
        self.calls.append((model_input, len(batch)))
        if len(batch) > self.room.get(model_input, 10**9) or (batch == HUGE).any():
            raise OutOfMemoryError(f"{len(batch)} rows, and room for {self.room.get(model_input)}")
        return batch.reshape(len(batch), -1).max(axis=1, keepdims=True).astype(np.float32)

    def rows(self, model_input: str) -> list[int]:
        return [rows for name, rows in self.calls if name == model_input]


class Bench:
    """A model on a device, and sessions with it."""

    def __init__(self, runtime: Any, **options: Any) -> None:
        frontend = Frontend(1, text=TextFrontend(Letters(), fixed_length=False), image=PREPROCESSING)
        self.loaded = Loaded(ClipModel(frontend, runtime, {}), 1)
        self.spec = EncoderSpec("fake::dim=1", **options)
        self.stats = Stats()

    def embed(self, items: Sequence[Item]) -> list[float | str]:
        """Return the one value of each vector, or the code of each failure, from a new session."""
        session = EmbedSession(self.spec, self.loaded, self.stats, VectorCache(0))
        done = [one for n, item in enumerate(items) for one in session.push(n, [item])] + session.flush()
        assert [one.token for one in done] == list(range(len(items)))
        outcomes = [one.outcomes[0] for one in done]
        assert all(isinstance(outcome, Vector | Failure) for outcome in outcomes)
        return [str(o.code) if isinstance(o, Failure) else float(o.values[0]) for o in outcomes]  # type: ignore[union-attr]


def text(letters: int) -> Item:
    return Item("text", "x" * letters)


def crop(brightness: int) -> Item:
    return Item("image", np.full((SIDE, SIDE, 3), brightness, np.uint8))


@pytest.mark.parametrize(("room", "remembered"), [(15, 8), (10, 8), (8, 8)])
def test_a_micro_batch_that_does_not_fit_costs_one_retry(room, remembered):
    """After that, no call is larger than what fit, in other sessions too."""
    device = Small(image=room)
    bench = Bench(device, max_batch_rows=16)
    for _ in range(3):
        assert bench.embed([crop(n) for n in range(40)]) == list(range(40))
    assert device.rows("image")[:3] == [16, 8, 8]
    assert bench.stats.out_of_memory_retries == 1
    assert max(device.rows("image")[1:]) == remembered
    assert sum(device.rows("image")) == 16 + 3 * 40


def test_micro_batches_that_fit_are_not_halved():
    device = Small(image=16)
    bench = Bench(device, max_batch_rows=16)
    bench.embed([crop(n) for n in range(40)])
    assert device.rows("image") == [16, 16, 8]
    assert bench.stats.out_of_memory_retries == 0


def test_other_groups_keep_their_size():
    """Crops, normalised arrays and texts have row limits of their own."""
    device = Small(image=10)
    bench = Bench(device, max_batch_rows=16)
    bench.embed([crop(n) for n in range(32)])
    assert device.rows("image") == [16, 8, 8, 8, 8]
    assert bench.embed([text(9)] * 64) == [9.0] * 64
    assert set(device.rows("text")) == {16}
    normalised = np.ones((3, SIDE, SIDE), np.float32)
    bench.spec = dataclasses.replace(bench.spec, preprocess=False)
    assert bench.embed([Item("image", normalised)] * 32) == [1.0] * 32
    assert set(device.rows("normalised_image")) == {16}
    assert bench.stats.out_of_memory_retries == 1


def test_the_second_half_uses_the_limit_found_by_the_first():
    """With 16 rows of which 5 fit, a call of 8 is tried once and not twice."""
    device = Small(image=5)
    bench = Bench(device, max_batch_rows=16)
    assert bench.embed([crop(n) for n in range(32)]) == list(range(32))
    assert device.rows("image") == [16, 8, *[4] * 8]
    assert bench.stats.out_of_memory_retries == 2


def test_a_row_that_never_fits_fails_alone():
    """For crops and texts. No limit is remembered, since the number of rows was not the reason."""
    device = Small()
    bench = Bench(device, max_batch_rows=16)
    found = bench.embed([crop(HUGE if n == 5 else n) for n in range(32)])
    assert found == [*map(float, range(5)), "out_of_memory", *map(float, range(6, 32))]
    assert device.rows("image")[-1] == 16
    lengths = [HUGE if n == 40 else 1 + n % 60 for n in range(64)]
    assert bench.embed([text(n) for n in lengths]) == ["out_of_memory" if n == HUGE else float(n) for n in lengths]
    assert (device.rows("text")[0], max(device.rows("text"))) == (16, 16)
    assert bench.loaded.row_limit("image", "image") is None and bench.loaded.row_limit("text", "text") is None


def test_a_row_that_the_model_refuses_does_not_count_as_out_of_memory():
    """The number of rows that fit beside it is still remembered."""

    class Choosy(Small):
        def encode(self, model_input, inputs):
            vectors = super().encode(model_input, inputs)
            if (inputs[0] == 13).any():
                raise RuntimeError("this one it cannot multiply")
            return vectors

    device = Choosy(image=8)
    bench = Bench(device, max_batch_rows=16)
    found = bench.embed([crop(n) for n in range(16)])
    assert found == [*map(float, range(13)), "encode_failed", 14.0, 15.0]
    assert bench.loaded.row_limit("image", "image") == 8
    assert bench.stats.out_of_memory_retries == 1


def test_larger_calls_of_short_texts_are_halved_too():
    """256 short texts share a call, instead of 32 long ones. Afterwards no call has more rows than fit."""
    device = Small(text=150)
    bench = Bench(device)
    for _ in range(2):
        assert bench.embed([text(6)] * 512) == [6.0] * 512
    assert device.rows("text")[:3] == [256, 128, 128]
    assert bench.stats.out_of_memory_retries == 1
    assert max(device.rows("text")[1:]) <= 128


def test_texts_of_a_window_cost_one_retry_together():
    """They are split into several micro-batches at once, and the first one's limit applies to the others."""
    device = Small(text=20)
    bench = Bench(device, max_batch_rows=32)
    lengths = [1 + 7 * n % 60 for n in range(1_000)]
    assert bench.embed([text(n) for n in lengths]) == [float(n) for n in lengths]
    assert bench.stats.out_of_memory_retries == 1
    assert max(device.rows("text")[1:]) == 16


class Greedy(torch.nn.Module):
    """A tower that allocates more memory than any machine has if it is given more than `room` rows."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if len(ids) > self.room:
            torch.empty(2**50)
        return (ids > 0).sum(dim=1, keepdim=True).float()


def test_real_out_of_memory_errors_of_torch_are_recognized():
    """The error is raised by torch's own allocator."""
    runtime = TorchRuntime({"text": Greedy(10)}, None, "cpu")
    with pytest.raises(OutOfMemoryError, match="can't allocate memory"):
        runtime.encode("text", (np.ones((11, 3), np.int64),))
    bench = Bench(runtime, max_batch_rows=16)
    assert bench.embed([text(5)] * 16) == [5.0] * 16
    assert bench.stats.out_of_memory_retries == 1
    assert bench.loaded.row_limit("text", "text") == 8


def test_other_errors_of_torch_are_not_out_of_memory():
    """The control: a tower with an input of the wrong dtype fails for each row."""
    runtime = TorchRuntime({"text": torch.nn.Linear(3, 1)}, None, "cpu")
    with pytest.raises(RuntimeError, match="dtype"):
        runtime.encode("text", (np.ones((2, 3), np.int64),))
    bench = Bench(runtime, max_batch_rows=4)
    assert bench.embed([text(3)] * 4) == ["encode_failed"] * 4
    assert bench.stats.out_of_memory_retries == 0


class Waiting(Model):
    """Prepares the first five contents at once, and the others only while a call of the model is running."""

    dim, modalities = 1, frozenset({"image"})

    def __init__(self) -> None:
        self.encoding = threading.Event()
        self.rows: list[int] = []

    def prepare(self, modality: str, content: Any, spec: EncoderSpec) -> Prepared:
        if content[0] >= 5 and not self.encoding.wait(20):
            raise RowError(Stage.DECODE, Code.UNDECODABLE, "nothing was encoded meanwhile")
        return Prepared(np.array([content[0]]))

    def encode(self, modality: str, payloads: Sequence[Any]) -> np.ndarray:
        self.encoding.set()
        self.rows.append(len(payloads))
        return np.stack(payloads).astype(np.float32)


def test_large_contents_are_decoded_while_the_model_runs() -> None:
    """If only a few fit into the limit, half of them are encoded while the others are decoded."""
    model = Waiting()
    loaded = Loaded(model, 2)
    spec = EncoderSpec("fake::dim=1", max_batch_bytes=4 * 2**20)
    session = EmbedSession(spec, loaded, Stats(), VectorCache(0))
    items = [Item("image", bytes([number]) * 2**20) for number in range(30)]
    done = [one for n, item in enumerate(items) for one in session.push(n, [item])] + session.flush()
    loaded.close()
    assert [int(one.outcomes[0].values[0]) for one in done] == list(range(30))
    assert model.rows[0] == 4 and sum(model.rows) == 30, "nine are held before it is too much"
