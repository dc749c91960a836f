"""Executes the calls of all workers, as many at once as there are streams; calls that wait may share one."""

from __future__ import annotations

import collections
import logging
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from ..model import Runtime
from .wire import packed_error

_log = logging.getLogger("clipmill")

CPU_ROWS, GPU_ROWS = 32, 128
"""Rows of a shared call: with as many, a call is as fast per row as with more."""

Answer = np.ndarray | dict[str, Any]
"""Vectors, or an error from `packed_error`."""


class Call:
    """One call of a worker.

    Attributes:
        answer: Set when it was executed.
    """

    def __init__(
        self, model_input: str, inputs: Sequence[np.ndarray], is_wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """Take the arguments of `Runtime.encode`; `is_wanted` returns whether the worker still waits."""
        self.model_input = model_input
        self.inputs = inputs
        self.is_wanted = is_wanted
        self.answer: Future[Answer] = Future()

    @property
    def rows(self) -> int:
        """Rows of the call."""
        return len(self.inputs[0])

    @property
    def group(self) -> Hashable:
        """Equal for calls that may share one: the model input, and types and shapes of its rows."""
        return (self.model_input, *((one.dtype.name, one.shape[1:]) for one in self.inputs))


class Batcher:
    """The calls of one model, executed by threads of its own in the order in which they came."""

    def __init__(self, runtime: Runtime, max_rows: int | None = None, streams: int = 1) -> None:
        """Start the threads.

        Args:
            runtime: Executes the calls.
            max_rows: Rows of a shared call; by default those of the runtime's device.
            streams: Calls that it executes at once.
        """
        self._runtime = runtime
        self._max_rows = max_rows or (CPU_ROWS if runtime.device == "cpu" else GPU_ROWS)
        self._limits: dict[Hashable, int] = {}
        self._waiting: collections.deque[Call] = collections.deque()
        self._arrived = threading.Condition()
        self._idle = 0
        for _ in range(streams):
            threading.Thread(target=self._work, name="clipmill-encode", daemon=True).start()

    def submit(self, call: Call) -> Future[Answer]:
        """Add a call, and return its answer."""
        with self._arrived:
            self._waiting.append(call)
            self._arrived.notify()
        return call.answer

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return len(self._waiting)

    def _work(self) -> None:
        try:
            while True:
                with self._arrived:
                    self._idle += 1
                    self._arrived.wait_for(lambda: self._waiting)
                    calls = self._take(self._waiting, -(-len(self._waiting) // self._idle))
                    self._idle -= 1
                self._execute(calls)
                del calls  # else memory shared with workers that are gone stays until the next call
        except BaseException:  # without this thread all workers would wait for ever: without the process they go on
            _log.exception("the encoder process ends")
            os._exit(1)

    def _take(self, waiting: collections.deque[Call], most: int) -> list[Call]:
        """Remove and return the oldest call, with later ones that may share it; drop those of workers that are gone.

        `most` calls share one, so that streams that are idle have some, too.
        """
        gone = [call for call in waiting if not call.is_wanted()]
        for call in gone:
            waiting.remove(call)
            call.answer.cancel()
        if not waiting:
            return []
        taken = [waiting.popleft()]
        group, rows = taken[0].group, taken[0].rows
        limit = self._limits.get(group, self._max_rows)
        for call in list(waiting):
            if call.group == group and rows + call.rows <= limit and len(taken) < most:
                waiting.remove(call)
                taken.append(call)
                rows += call.rows
        return taken

    def _execute(self, calls: list[Call]) -> None:
        if len(calls) > 1:
            answer, ran_out = self._answer(calls)
            if isinstance(answer, np.ndarray):
                ends = np.cumsum([call.rows for call in calls])[:-1]
                for call, vectors in zip(calls, np.split(answer, ends), strict=True):
                    call.answer.set_result(vectors)
                return
            if ran_out:
                self._limits[calls[0].group] = max(call.rows for call in calls)
        for call in calls:  # a call has its own error, and never that of another worker's rows
            call.answer.set_result(self._answer([call])[0])

    def _answer(self, calls: Sequence[Call]) -> tuple[Answer, bool]:
        """Execute calls of one group as one; return the answer, and whether memory ran out."""
        rows = sum(call.rows for call in calls)
        try:
            inputs = calls[0].inputs
            if len(calls) > 1:
                inputs = [np.concatenate(parts) for parts in zip(*(call.inputs for call in calls), strict=True)]
            vectors = np.asarray(self._runtime.encode(calls[0].model_input, inputs), np.float32)
            if vectors.ndim != 2 or len(vectors) != rows:
                raise RuntimeError(f"the model returned shape {vectors.shape} for {rows} rows")
            return vectors, False
        except Exception as err:  # of the runtime; described, so that its traceback keeps no memory
            return packed_error(err), isinstance(err, MemoryError)
