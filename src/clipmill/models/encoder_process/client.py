"""`HostRuntime`: executes the towers in the encoder process of this host."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...files.json_shape import fits
from ..model import Runtime
from ..spec import IDENTITY, EncoderSpec
from ..support_matrix import Combination
from .choice import say_in_process
from .memory import Region, needed_bytes
from .place import Place, Unavailable
from .wire import ConnectionLost, raised, receive, send

_log = logging.getLogger("clipmill")

_MAX_DEATHS = 3
"""Times that the process may die in one call. Then the call may be the cause, and is executed in the worker, as it
would be without the process: if it kills the worker, that is known what to do about."""

_LOADED = {"runtime": str, "precision": str, "device": str, "figures": dict, "new": bool, "pid": int}

_all: weakref.WeakSet[HostRuntime] = weakref.WeakSet()


class HostRuntime:
    """A `Runtime` that holds no weights: a connection to the encoder process.

    If the process dies, the call is repeated in a new one. It is pure, so no row is lost or doubled.

    Attributes:
        name: As in `Runtime`, of the process.
        precision: The same.
        device: The same.
        streams: 1: the process shares its streams among the workers.
        kept: Nothing.
        figures: Results of the check of the precision, for the provenance.
    """

    streams = 1
    kept = ()

    def __init__(
        self,
        spec: EncoderSpec,
        device: str,
        model: str,
        *,
        dim: int,
        threads: int,
        streams: int,
        start_here: Callable[[Combination], Runtime],
        on_load: Callable[[], None],
    ) -> None:
        """Connect, and have the model loaded if it is not.

        Args:
            spec: Selects it.
            device: `cpu` or `cuda:X`.
            model: Identifies weights and preprocessing, so that both sides mean the same.
            dim: Values in a vector.
            threads: Cores for the process.
            streams: Calls that it executes at once on a CPU, each on an equal part of the cores.
            start_here: Starts the model in this process, in case that the other dies again and again.
            on_load: Called for each load that this worker causes.

        Raises:
            Unavailable: If there can be no such process, or if it dies while it loads.
            ClipmillError: Those of loading the model here.
        """
        self._spec = {name: getattr(spec, name) for name in (*IDENTITY, "runtime", "precision")}
        self._request = {"device": device, "threads": threads, "streams": streams, "model": model}
        self._dim = dim
        self._start_here = start_here
        self._on_load = on_load
        self._planned = spec
        self._here: Runtime | None = None
        self._place = Place(model, spec, device)
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        loaded = self._persist(lambda connection: connection.loaded)
        if loaded is None:
            raise Unavailable(f"the encoder process died {_MAX_DEATHS} times while it loaded the model{self._reason()}")
        self.name, self.precision, self.device = loaded["runtime"], loaded["precision"], loaded["device"]
        self.figures: Mapping[str, Any] = loaded["figures"]
        self._spec |= {"runtime": self.name, "precision": self.precision}  # a second load must not resolve otherwise
        _all.add(self)

    def encode(self, model_input: str, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """See `Runtime.encode`."""
        with self._lock:
            if self._here is None:
                try:
                    vectors = self._persist(lambda connection: connection.encode(model_input, inputs, self._dim))
                except Unavailable as err:
                    reason = str(err)
                else:
                    if vectors is not None:
                        return vectors
                    reason = f"the encoder process died {_MAX_DEATHS} times in one call{self._reason()}"
                say_in_process(self._planned, reason)
                self._here = self._start_here(Combination(self.name, self.precision))
                self._on_load()
            return self._here.encode(model_input, inputs)

    def close(self) -> None:
        """Disconnect; the process ends when nobody is connected for a while."""
        with self._lock:
            self._disconnect()

    @property
    def pid(self) -> int | None:
        """The encoder process; None if this worker is not connected."""
        connection = self._connection
        return None if connection is None else int(connection.loaded["pid"])

    def _persist(self, use: Callable[[_Connection], Any]) -> Any:
        """Use the connection, and again with a new one if it is lost; return None if it is lost too often."""
        for _ in range(_MAX_DEATHS):
            try:
                if self._connection is None or not self._connection.is_open:
                    self._connection = _Connection(self._place, {**self._request, "spec": self._spec})
                    if self._connection.loaded["new"]:
                        self._on_load()
                return use(self._connection)
            except ConnectionLost as err:
                _log.warning("the encoder process is gone (%s)%s: connecting again", err, self._reason())
                self._disconnect()
        return None

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _reason(self) -> str:
        words = self._place.last_words()
        return f": {words}" if words else ""

    def _reset_after_fork(self) -> None:
        """Leave the connection to the parent: the child makes its own."""
        self._lock = threading.Lock()
        self._disconnect()


class _Connection:
    """A connection to the process that has loaded the model.

    Attributes:
        loaded: What it answered.
    """

    def __init__(self, place: Place, request: dict[str, Any]) -> None:
        self._socket = place.connect()
        self._region: Region | None = None
        try:
            self.loaded = self._ask({"do": "load", **request})[0]
            if not fits(self.loaded, _LOADED):
                raise ConnectionLost("it did not say what it loaded")
        except BaseException:
            self.close()
            raise

    def encode(self, model_input: str, inputs: Sequence[np.ndarray], dim: int) -> np.ndarray:
        arrays = [np.ascontiguousarray(one) for one in inputs]
        answer = {"dtype": "float32", "shape": [len(arrays[0]), dim], "offset": 0}
        needed = max(needed_bytes(arrays), 4 * len(arrays[0]) * dim)
        if self._region is None or self._region.nbytes < needed:
            self._region = None  # its memory is released before the next is reserved
            self._region = self._reserve(needed)
        places = self._region.write(arrays)
        self._ask({"do": "encode", "input": model_input, "arrays": places, "answer": answer})
        return self._region.view(answer).copy()

    @property
    def is_open(self) -> bool:
        return self._socket.fileno() >= 0

    def close(self) -> None:
        self._socket.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # never connected
            self._socket.close()

    def _reserve(self, nbytes: int) -> Region:
        _, descriptor = self._ask({"do": "reserve", "bytes": nbytes})
        if descriptor is None:
            raise ConnectionLost("it sent no shared memory")
        region = Region(descriptor)
        if region.nbytes < nbytes:
            raise ConnectionLost("it sent too little shared memory")
        return region

    def _ask(self, message: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
        """Send a message and wait for the answer; raise the error in it."""
        try:
            send(self._socket, message)
            answer, descriptor = receive(self._socket)
        except BaseException:  # interrupted between question and answer, it is of no more use
            self.close()
            raise
        if "error" in answer:
            if descriptor is not None:
                os.close(descriptor)
            raise raised(answer["error"])
        return answer, descriptor


def _reset_after_fork() -> None:
    for runtime in list(_all):
        runtime._reset_after_fork()


os.register_at_fork(after_in_child=_reset_after_fork)
