"""The rows and values that a session is working on, and the limit on how many it accepts.

A `Row` is pushed by the caller. It has a `Slot` for each of its items. Prepared slots wait in a `Group` with others
that may share a call of the model. The `Window` limits the slots in flight: see `session` for the way of a slot.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from ..models.model import Prepared
from .outcome import Outcome
from .preparation import Preparation
from .vector_cache import Key


class Slot:
    """One item of a row in flight.

    Attributes:
        nbytes: Bytes of its content; once it is prepared, bytes of the model's input.
        may_be_audio: Whether it is, or may turn out to be, an audio clip.
        future: The thread's work on it; None before and after.
        prepared: The model's input, until it is encoded.
        content_hash: The hash of its content, if the session computes hashes.
        key: Its key in the vector cache, if it leads: no equal item was cached or in flight when it started.
        followers: Slots of equal items that started later and wait for its outcome.
    """

    __slots__ = ("content_hash", "followers", "future", "key", "may_be_audio", "nbytes", "outcome", "prepared", "row")

    def __init__(self, row: Row, nbytes: int, *, may_be_audio: bool) -> None:
        """Start with content of `nbytes` bytes."""
        self.row = row
        self.nbytes = nbytes
        self.may_be_audio = may_be_audio
        self.future: Future[Preparation] | None = None
        self.prepared: Prepared | None = None
        self.outcome: Outcome = None
        self.content_hash: str | None = None
        self.key: Key | None = None
        self.followers: list[Slot] = []


class Row:
    """A row in flight.

    Attributes:
        open: How many of its slots have no outcome yet.
        nbytes: Bytes that the caller holds for the row: its contents, its other values and its future vectors.
    """

    __slots__ = ("nbytes", "open", "slots", "token")

    def __init__(self, token: Any) -> None:
        """Start with no slots."""
        self.token = token
        self.slots: list[Slot] = []
        self.open = 0
        self.nbytes = 0


class Group:
    """Prepared slots that may share a call of the model.

    Attributes:
        slots: In the order in which they were prepared.
        nbytes: Bytes of their model inputs.
        pixels: Pixels of their model inputs.
    """

    __slots__ = ("nbytes", "pixels", "slots")

    def __init__(self) -> None:
        """Start empty."""
        self.slots: list[Slot] = []
        self.nbytes = 0
        self.pixels = 0

    def add(self, slot: Slot, pixels: int) -> None:
        """Add a slot whose model input has this many pixels."""
        self.slots.append(slot)
        self.nbytes += slot.nbytes
        self.pixels += pixels

    def take(self, count: int) -> list[Slot]:
        """Remove and return the first `count` slots."""
        taken, self.slots = self.slots[:count], self.slots[count:]
        self.nbytes -= sum(slot.nbytes for slot in taken)
        self.pixels -= sum(slot.prepared.pixels for slot in taken if slot.prepared is not None)
        return taken


def count_texts(slots: list[Slot]) -> int:
    """Return how many prepared slots are texts that are batched by length."""
    return sum(slot.prepared is not None and slot.prepared.length > 0 for slot in slots)


def cut_by_length(slots: list[Slot], max_rows: int, max_tokens: int | None) -> list[list[Slot]]:
    """Split texts into micro-batches of similar length, since a micro-batch costs as much as its longest text.

    `max_tokens` counts padding, so micro-batches of short texts get more rows; with it, `max_rows` has no effect.

    Returns:
        Micro-batches, short texts first. Texts of equal length keep their order.
    """
    lengths = [slot.prepared.length for slot in slots]  # type: ignore[union-attr]
    batches: list[list[Slot]] = []
    for number in sorted(range(len(slots)), key=lengths.__getitem__):
        rows = len(batches[-1]) + 1 if batches else 1
        is_full = rows > max_rows if max_tokens is None else rows * lengths[number] > max_tokens
        if not batches or (is_full and rows > 1):
            batches.append([])
        batches[-1].append(slots[number])
    return batches


class Window:
    """Limits how many values are in flight: to a fixed number, or to fewer if prepared values are large.

    A prepared text or image crop is small. A prepared audio clip holds all of its samples, up to ten times the size of
    its file, and threads prepare everything in flight while the model is busy. Each value is therefore assumed to be
    as large as the largest so far. Until the first one that may be audio is prepared, it is assumed to be as large as
    an audio clip is allowed to be.

        limit = min(max_values, max_bytes // largest value)        at least 1
    """

    def __init__(self, max_values: int, max_bytes: int) -> None:
        """Start without any sizes known; `max_bytes` limits the values in flight together, once prepared."""
        self._max_values = max_values
        self._max_bytes = max_bytes
        self._assumed_bytes = 0
        self._largest_bytes = 0
        self._audio_seen = False

    def expect_audio(self, nbytes: int) -> None:
        """Announce a value that may be an audio clip of up to `nbytes` bytes. Has no effect once one was prepared."""
        if not self._audio_seen:
            self._assumed_bytes = nbytes

    def record(self, prepared: Prepared, *, may_be_audio: bool) -> None:
        """Record the size of a prepared value. The first that was announced as audio replaces the assumed size."""
        self._largest_bytes = max(self._largest_bytes, int(getattr(prepared.payload, "nbytes", 0)), 1)
        if may_be_audio:
            self._assumed_bytes, self._audio_seen = 0, True

    def is_full(self, slots: int) -> bool:
        """Return whether there is no room for another value beside `slots` values in flight."""
        each = max(self._largest_bytes, self._assumed_bytes)
        return slots >= max(1, min(self._max_values, self._max_bytes // each if each else self._max_values))
