"""What a session holds of rows that are on their way, and how many values may be."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from ..models.model import Prepared
from .outcome import Outcome
from .preparation import Preparation
from .vector_cache import Key


class Slot:
    """One item on its way: its row, its content's bytes, whether it may be a sound, and what became of it.

    What its content is told by, where that is asked for. What it is known by, if it is, and the slots of equal items
    that came later and wait for its outcome.
    """

    __slots__ = ("content_hash", "followers", "future", "key", "may_be_sound", "nbytes", "outcome", "prepared", "row")

    def __init__(self, row: Row, nbytes: int, *, may_be_sound: bool) -> None:
        """Start; `nbytes` is what the content holds."""
        self.row = row
        self.nbytes = nbytes
        self.may_be_sound = may_be_sound
        self.future: Future[Preparation] | None = None
        self.prepared: Prepared | None = None
        self.outcome: Outcome = None
        self.content_hash: str | None = None
        self.key: Key | None = None
        self.followers: list[Slot] = []


class Row:
    """A row on its way: its token, its slots, how many of them are not done, and the bytes its caller holds."""

    __slots__ = ("nbytes", "open", "slots", "token")

    def __init__(self, token: Any) -> None:
        """Start with no slots."""
        self.token = token
        self.slots: list[Slot] = []
        self.open = 0
        self.nbytes = 0


class Group:
    """Prepared slots that may share a call of the model."""

    __slots__ = ("nbytes", "pixels", "slots")

    def __init__(self) -> None:
        """Start empty."""
        self.slots: list[Slot] = []
        self.nbytes = 0
        self.pixels = 0

    def add(self, slot: Slot, pixels: int) -> None:
        """Add a slot with the pixels that the model is given of it."""
        self.slots.append(slot)
        self.nbytes += slot.nbytes
        self.pixels += pixels

    def take(self, count: int) -> list[Slot]:
        """Take the first slots out."""
        taken, self.slots = self.slots[:count], self.slots[count:]
        self.nbytes -= sum(slot.nbytes for slot in taken)
        self.pixels -= sum(slot.prepared.pixels for slot in taken if slot.prepared is not None)
        return taken


def count_texts(slots: list[Slot]) -> int:
    """Return how many of prepared slots are texts that are cut by their length."""
    return sum(slot.prepared is not None and slot.prepared.length > 0 for slot in slots)


def cut_by_length(slots: list[Slot], max_rows: int, max_tokens: int | None) -> list[list[Slot]]:
    """Cut texts into micro-batches of about one length each, since each costs what its longest does.

    Args:
        slots: Prepared texts.
        max_rows: Most in a micro-batch; with `max_tokens` of those that are as long as a text may be.
        max_tokens: Most tokens of a micro-batch, padding included: so many more rows where they are short.

    Returns:
        Micro-batches, short texts first, texts of one length in their order.
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
    """How many values may be in flight: a fixed number, or fewer where each of them holds much once it is prepared.

    A text or a crop holds little. A sound holds all of its samples, ten times what its file may have had, and threads
    prepare everything that is in flight while the model is busy. So values are counted as if each were as large as the
    largest so far; before the first that may be a sound is known, as large as one may be.
    """

    def __init__(self, most: int, max_bytes: int) -> None:
        """Start with nothing known.

        Args:
            most: Values in flight at most.
            max_bytes: Bytes that all of them may hold, prepared.
        """
        self._most = most
        self._max_bytes = max_bytes
        self._guess = 0
        self._largest = 0
        self._is_known = False

    def expect(self, nbytes: int) -> None:
        """Say how much a sound may hold, before one is on its way."""
        if not self._is_known:
            self._guess = nbytes

    def see(self, prepared: Prepared, *, may_be_sound: bool) -> None:
        """Take note of how much a value holds; of one that was expected to be a sound it is believed instead."""
        self._largest = max(self._largest, int(getattr(prepared.payload, "nbytes", 0)), 1)
        if may_be_sound:
            self._guess, self._is_known = 0, True

    def is_full(self, slots: int) -> bool:
        """Tell whether so many in flight leave no room for another."""
        each = max(self._largest, self._guess)
        return slots >= max(1, min(self._most, self._max_bytes // each if each else self._most))
