"""Push rows in, get them back embedded and in order: the hot path of every transform, UDF and call.

A session belongs to one thread, the caller's. Threads of the loaded model fetch and decode what was pushed while the
model encodes what is ready: in the caller's thread, or in threads of its own if it has several streams (`calls`). A
caller who only pushes rows and takes results keeps all busy.

    push(row)
     │ one slot per item
     ├─ equal value is cached or in flight ─► takes its vector ──────────────────────────┐
     │                      ┌───────────────── window ──────────────────┐                │
     ├─ text ───────────────┼► tokenized at once ───────┐               │                ▼
     ├─ bytes, array ───────┼► _decoding, in order ─────┼─► _ready, ────┼► model ─► _rows: finished
     └─ URI ────────────────┼► _fetching, in any order ─┘   by group    │           rows leave in order
                            └───────────────────────────────────────────┘

`push` makes room while the session is full: it waits for the next prepared value or the end of a call, or encodes a
micro-batch. A session is full when one of these limits is reached:

- the window (`in_flight.Window`): values between their start and the end of their model call. Ready texts don't count,
  since they are tiny.
- the number of rows. Finished rows count while they wait for an older row.
- the bytes that callers hold for those rows.

Decoded values are received in order, so that micro-batches don't depend on timing, unless contents are so large that
few fit. Fetched values are received as they arrive, so that a slow address does not delay the others.
"""

from __future__ import annotations

import collections
import functools
import queue
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from ..errors import ClipmillError
from ..failures import Failure
from ..metrics.stats import Stats
from ..models.spec import EncoderSpec
from .batch_sizes import BatchSizes
from .calls import Calls, spread
from .in_flight import Group, Row, Slot, Window, count_texts, cut_by_length
from .item import Item, Uri
from .loaded import Loaded
from .outcome import Finished, Vector
from .preparation import Preparation, fetch_and_prepare, fetch_policy, prepare_item
from .vector_cache import Key, VectorCache, copy_of, key_of

_LEAST_PART = 4
"""Rows of a part at least, when the last rows are cut into one for each stream."""
_FILL_WAIT_S = 0.1
"""Seconds that an incomplete micro-batch waits for more values when the session is full."""


class EmbedSession:
    """See the module's docstring. Created by `Encoder.session()`."""

    def __init__(
        self, spec: EncoderSpec, loaded: Loaded, stats: Stats, cache: VectorCache, *, hashed: bool = False
    ) -> None:
        """Start with nothing in flight; the cache is shared by the sessions of this spec in this process."""
        self._spec = spec
        self._loaded = loaded
        self._stats = stats
        self._cache = cache
        self._hashed = hashed
        self._leaders: dict[Key, Slot] = {}
        self._sizes = BatchSizes.of(spec, loaded)
        self._decoders = loaded.pool("decode", spec.preprocess_threads or loaded.threads)
        self._prepare = functools.partial(prepare_item, loaded=loaded, spec=spec, hashed=hashed)
        self._fetch = functools.partial(
            fetch_and_prepare,
            loaded=loaded,
            spec=spec,
            policy=fetch_policy(spec),
            decoders=self._decoders,
            hashed=hashed,
        )
        self._rows: collections.deque[Row] = collections.deque()
        self._decoding: collections.deque[Slot] = collections.deque()
        self._fetching: set[Slot] = set()
        self._arrived: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()  # fetched values; None for a call's end
        self._ready: dict[tuple[str, Hashable], Group] = {}
        self._slots_in_flight = 0
        self._texts_ready = 0
        self._accepts_audio = "audio" in loaded.model.modalities
        self._vector_bytes = 4 * (spec.dimensions or loaded.model.dim)
        self._window = Window(self._sizes.window, self._sizes.window_bytes)
        self._calls = Calls(loaded, stats, spec, self._arrived)
        self._bytes_held = 0
        self._broken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def push(self, token: Any, items: Sequence[Item], *, nbytes: int = 0) -> list[Finished]:
        """Add a row and return the rows that are finished.

        Args:
            token: Anything by which the caller recognizes the row.
            items: The values to embed, any number.
            nbytes: Bytes that the caller holds for the row, the contents of the items included, if they are more.

        Returns:
            Finished rows, in the order in which they were pushed. Often none.

        Raises:
            ClipmillError: For errors that no row caused, such as a failed device. The session cannot be used after it.
        """
        with self._ending_on_error():
            row = Row(token)
            row.nbytes = max(0, nbytes - sum(item.nbytes for item in items))
            self._rows.append(row)
            self._stats.rows += 1
            for item in items:
                slot = Slot(row, item.nbytes, may_be_audio=self._accepts_audio and item.modality in ("audio", "auto"))
                row.slots.append(slot)
                row.nbytes += slot.nbytes + (
                    0 if item.content is None or isinstance(item.content, Vector) else self._vector_bytes
                )
                self._start(slot, item)
                while self._window_is_full():
                    self._make_room()
            self._bytes_held += row.nbytes
            self._take_done()
            done = self._pop_finished()
            while self._is_crowded():
                self._make_room()
                done += self._pop_finished()
            return done

    def flush(self) -> list[Finished]:
        """Finish all rows that were pushed and return them."""
        with self._ending_on_error():
            while self._decoding or self._fetching:
                self._take_next()
            for key in list(self._ready):
                self._encode_group(key, parts=self._loaded.streams)
            while self._calls:
                self._calls.receive(self._finish)
            return self._pop_finished()

    def close(self) -> None:
        """Cancel everything in flight, for sessions that end early. After `flush` there is nothing to cancel."""
        self._broken = self._broken or bool(self._rows)
        for slot in (*self._decoding, *self._fetching):
            if slot.future is not None:
                slot.future.cancel()
        self._calls.cancel()

    @contextmanager
    def _ending_on_error(self) -> Iterator[None]:
        if self._broken:
            raise ClipmillError("this session was closed or ended with an error, and its rows are lost; start another")
        try:
            yield
        except BaseException:
            self._broken = True
            self.close()
            raise

    # --- input -------------------------------------------------------------------------------------------------------

    def _start(self, slot: Slot, item: Item) -> None:
        if item.failure is not None:
            self._settle(slot, item.failure.failure)
            return
        if item.content is None:
            self._stats.nulls += 1
            return
        if isinstance(item.content, Vector):
            self._stats.given += 1
            slot.outcome = item.content
            return
        if self._cache.enabled and self._reuse_equal(slot, item):
            return
        slot.row.open += 1
        self._slots_in_flight += 1
        if slot.may_be_audio:
            self._window.expect_audio(self._sizes.audio_bytes)
        if isinstance(item.content, Uri):
            pool = self._loaded.pool("fetch", self._spec.fetch_threads)
            self._fetching.add(slot)
            slot.future = pool.submit(self._fetch, item)
            slot.future.add_done_callback(lambda _: self._arrived.put(slot))
        elif item.modality == "text":  # cheaper here than in a thread
            self._receive(slot, self._prepare(item))
        else:
            slot.future = self._decoders.submit(self._prepare, item)
            self._decoding.append(slot)

    def _reuse_equal(self, slot: Slot, item: Item) -> bool:
        """Give a slot the vector of an equal item, now or when that one is done; return whether there is one.

        If there is none, the slot leads later equal ones, provided that it can be cached.
        """
        key = key_of(item)
        if key is None:
            return False
        vector = self._cache.get(key)
        if vector is not None and (vector.content_hash or not self._hashed):
            self._settle(slot, vector)
        elif (leader := self._leaders.get(key)) is not None:
            slot.row.open += 1
            leader.followers.append(slot)
        else:
            self._stats.cache_misses += 1
            slot.key = key
            self._leaders[key] = slot
            return False
        self._stats.cache_hits += 1
        return True

    def _take_done(self) -> None:
        """Receive what threads have finished, without waiting."""
        self._calls.receive_done(self._finish)
        while self._decoding and self._decoding[0].future.done():  # type: ignore[union-attr]
            self._take(self._decoding.popleft())
        while not self._arrived.empty():
            self._take(self._arrived.get())

    def _take_next(self, timeout_s: float | None = None) -> None:
        """Receive the next values or calls from the threads; raise `queue.Empty` if none ends in time."""
        if not self._decoding:
            self._take(self._arrived.get(timeout=timeout_s))
            return
        if self._calls:
            self._calls.wait_for_either(self._decoding[0].future)  # type: ignore[arg-type]
            self._take_done()
        else:
            self._take(self._decoding.popleft())

    def _take(self, slot: Slot | None) -> None:
        if slot is None:  # a call has ended
            self._calls.receive_done(self._finish)
            return
        self._fetching.discard(slot)
        assert slot.future is not None
        future, slot.future = slot.future, None
        self._receive(slot, future.result())

    def _receive(self, slot: Slot, preparation: Preparation) -> None:
        self._stats.fetch_msec += preparation.fetch_msec
        self._stats.decode_msec += preparation.decode_msec
        prepared = preparation.result
        if isinstance(prepared, Failure):
            self._finish(slot, prepared)
            return
        self._window.record(prepared, may_be_audio=slot.may_be_audio)
        slot.prepared = prepared
        slot.content_hash = preparation.content_hash
        slot.nbytes = int(getattr(prepared.payload, "nbytes", preparation.nbytes))
        key = (preparation.modality, prepared.group)
        if (group := self._ready.get(key)) and self._would_overflow(group, slot.nbytes, prepared.pixels):
            self._encode_group(key)
        group = self._ready.setdefault(key, Group())
        group.add(slot, prepared.pixels)
        if prepared.length:
            self._texts_ready += 1
        limit = min(self._sizes.max_rows, self._loaded.row_limit(*key) or self._sizes.max_rows)
        if len(group.slots) >= (self._sizes.texts if prepared.length else limit):
            self._encode_group(key)

    def _would_overflow(self, group: Group, nbytes: int, pixels: int) -> bool:
        return group.nbytes + nbytes > self._spec.max_batch_bytes or group.pixels + pixels > self._spec.max_batch_pixels

    # --- micro-batches -----------------------------------------------------------------------------------------------

    def _window_is_full(self) -> bool:
        return self._window.is_full(self._slots_in_flight - self._texts_ready)  # ready texts are tiny

    def _is_crowded(self) -> bool:
        return self._window_is_full() or len(self._rows) >= self._sizes.waiting or self._is_heavy()

    def _is_heavy(self) -> bool:
        """Return whether callers hold too many bytes, in more than a single row."""
        many = max(self._slots_in_flight, len(self._rows)) > 1
        return many and self._bytes_held > 2 * self._spec.max_batch_bytes

    def _make_room(self) -> None:
        """Receive the next value or call. If no fetch ends in time, or no thread is busy, encode what is ready.

        If contents are so large that only a few fit, encode half of them while threads decode the others.
        """
        if not self._decoding and not self._fetching:
            if self._calls:
                self._calls.receive(self._finish)
            else:
                self._encode_group(next(iter(self._ready)))  # the group that waits longest
            return
        largest = max(self._ready, key=lambda key: len(self._ready[key].slots), default=None)
        half = self._slots_in_flight // 2
        if largest is not None and self._is_heavy() and 0 < half < len(self._ready[largest].slots):
            some = self._ready[largest].take(half)
            self._texts_ready -= count_texts(some)
            self._calls.start(largest, some, self._finish)
            return
        try:
            self._take_next(timeout_s=None if largest is None else _FILL_WAIT_S)
        except queue.Empty:
            assert largest is not None
            self._encode_group(largest)

    def _encode_group(self, key: tuple[str, Hashable], parts: int = 1) -> None:
        """Encode a group in so many parts, if it has rows enough, so that all streams have some of the last one."""
        slots = self._ready.pop(key).slots
        batches = [slots]
        if texts := count_texts(slots):
            self._texts_ready -= texts
            batches = cut_by_length(slots, self._sizes.max_rows, self._sizes.max_tokens)
        for batch in spread(batches, parts, _LEAST_PART):
            self._calls.start(key, batch, self._finish)

    # --- output ------------------------------------------------------------------------------------------------------

    def _finish(self, slot: Slot, outcome: Vector | Failure) -> None:
        self._slots_in_flight -= 1
        slot.row.open -= 1
        slot.prepared = None
        self._settle(slot, outcome)
        if slot.key is None:
            return
        del self._leaders[slot.key]
        if isinstance(outcome, Vector):
            self._cache.put(slot.key, outcome)
        for follower in slot.followers:
            follower.row.open -= 1
            self._settle(follower, copy_of(outcome) if isinstance(outcome, Vector) else outcome)

    def _settle(self, slot: Slot, outcome: Vector | Failure) -> None:
        slot.outcome = outcome
        if isinstance(outcome, Failure):
            self._stats.count_failure(outcome)
        else:
            self._stats.embedded += 1
            self._stats.truncated_texts += outcome.truncated

    def _pop_finished(self) -> list[Finished]:
        done: list[Finished] = []
        while self._rows and self._rows[0].open == 0:
            row = self._rows.popleft()
            self._bytes_held -= row.nbytes
            done.append(Finished(row.token, [slot.outcome for slot in row.slots]))
            row.slots = []  # breaks the cycle of row and slots, which would wait for the garbage collector
        return done
