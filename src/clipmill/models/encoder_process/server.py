"""The encoder process: loads the models that workers ask for, and executes their calls.

It listens on a socket that the worker that started it made, serves each connection in a thread, and ends when nobody
was connected for a while.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...errors import ClipmillError, OutOfMemoryError
from ...files.cache import locked
from ...files.json_shape import fits
from ..model import Runtime
from ..spec import EncoderSpec
from ..support_matrix import Combination
from .batching import Batcher, Call
from .memory import Region, create
from .wire import ConnectionLost, packed_error, peer_of, receive, send

if TYPE_CHECKING:
    from ..runtimes.choice import Decision

_log = logging.getLogger("clipmill")

LINGER_S = 30.0
"""Seconds without a connection after which the process ends: engines restart workers, and stages follow each other."""
_TICK_S = 0.5
"""Seconds between looks at the connections."""

_COUNT = lambda found: fits(found, int) and 0 < found < 10_000  # noqa: E731 - a shape
_LOAD = {"spec": {str: (str, int, None)}, "device": str, "threads": _COUNT, "streams": _COUNT, "model": str}
_ENCODE = {"input": str, "arrays": lambda found: fits(found, [dict]) and 1 <= len(found) <= 2, "answer": dict}


class Hosted(NamedTuple):
    """A loaded model.

    Attributes:
        runtime: Executes it.
        batcher: The calls of its workers.
        figures: Results of the check of its precision.
    """

    runtime: Runtime
    batcher: Batcher
    figures: Mapping[str, Any]


Load = Callable[[EncoderSpec, str, str, int, int, Callable[[Combination], bool]], "Decision"]
"""Takes a spec, what identifies its model, its device, the cores for it, its streams, and whether a combination is
loaded. Returns what was loaded, without a runtime if it is loaded already."""


class Server:
    """Serves the workers of one user."""

    def __init__(self, listener: socket.socket, path: Path, load: Load, *, linger_s: float = LINGER_S) -> None:
        """Take a socket that listens on `path`.

        Args:
            listener: It.
            path: Its path, deleted at the end.
            load: Loads a model.
            linger_s: See `LINGER_S`.
        """
        self._listener = listener
        self._path = path
        self._inode = path.lstat().st_ino
        self._load = load
        self._linger_s = linger_s
        self._hosted: dict[tuple[str, Combination], Hosted] = {}
        self._loading = threading.Lock()
        self._counting = threading.Lock()
        self._connections = 0
        self._idle_since = time.monotonic()

    def run(self) -> None:
        """Serve until nobody is connected any more."""
        self._listener.settimeout(_TICK_S)
        while True:
            try:
                self._accept()
            except TimeoutError:
                if self._is_idle() and self._leave():
                    return

    def _accept(self) -> None:
        connection = self._listener.accept()[0]
        connection.setblocking(True)
        if (user := peer_of(connection)[1]) != os.geteuid():
            _log.warning("refused a connection of user %d", user)
            connection.close()
            return
        with self._counting:
            self._connections += 1
        threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _is_idle(self) -> bool:
        with self._counting:
            return not self._connections and time.monotonic() - self._idle_since >= self._linger_s

    def _leave(self) -> bool:
        """Delete the socket, unless somebody connects at the last moment; return whether it is deleted.

        Who starts processes holds the same lock, so that the socket of another one is never deleted.
        """
        with locked(self._path.with_name("lock"), "the encoder process"):
            self._listener.settimeout(0)
            try:
                self._accept()
            except BlockingIOError:
                with contextlib.suppress(FileNotFoundError):
                    if self._path.lstat().st_ino == self._inode:  # else a cleaner of /tmp deleted ours
                        for kind in (".sock", ".log", ".json"):
                            self._path.with_suffix(kind).unlink(missing_ok=True)
                return True
            finally:
                self._listener.settimeout(_TICK_S)
        return False

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                _Conversation(connection, self._model).run()
        except ConnectionLost:
            pass  # the worker is done, or was killed; its shared memory goes with the conversation
        except Exception:
            _log.exception("a connection ended")
        finally:
            with self._counting:
                self._connections -= 1
                self._idle_since = time.monotonic()

    def _model(
        self, spec: EncoderSpec, model: str, device: str, threads: int, streams: int
    ) -> tuple[Combination, Hosted, bool]:
        """Return a loaded model, and whether it was loaded now."""
        with self._loading:  # one after the other: two requests may resolve to the same model
            started = time.perf_counter()
            decision = self._load(spec, model, device, threads, streams, lambda one: (model, one) in self._hosted)
            key, runtime = (model, decision.combination), decision.runtime
            if runtime is not None:
                self._hosted[key] = Hosted(runtime, Batcher(runtime, streams=streams), decision.figures)
                _log.info(
                    "loaded %s (%s) on %s in %.1f s, %d threads",
                    spec.model, decision.combination, device, time.perf_counter() - started, threads,
                )  # fmt: skip
            return decision.combination, self._hosted[key], runtime is not None


class _Conversation:
    """One connection: its model, and the memory shared with its worker."""

    def __init__(
        self,
        connection: socket.socket,
        model: Callable[[EncoderSpec, str, str, int, int], tuple[Combination, Hosted, bool]],
    ) -> None:
        self._connection = connection
        self._find = model
        self._hosted: Hosted | None = None
        self._region: Region | None = None

    def run(self) -> None:
        """Answer questions until the worker is gone."""
        answers = {"load": self._load, "reserve": self._reserve, "encode": self._encode}
        while True:
            question, descriptor = receive(self._connection)
            if descriptor is not None:
                os.close(descriptor)
            answer = answers.get(str(question.get("do")))
            try:
                if answer is None:
                    raise ClipmillError(f"the encoder process does not answer {question.get('do')!r}")
                answer(question)
            except ConnectionLost:
                raise
            except Exception as err:  # whatever it is, the worker raises it
                self._refuse(packed_error(err))

    def _load(self, question: dict[str, Any]) -> None:
        if not fits(question, _LOAD):
            raise ClipmillError("the encoder process was asked for no model")
        spec = EncoderSpec(**question["spec"], device=question["device"], encoder_process="off")
        combination, self._hosted, new = self._find(
            spec, question["model"], question["device"], question["threads"], question["streams"]
        )
        send(
            self._connection,
            {
                "runtime": combination.runtime,
                "precision": combination.precision,
                "device": self._hosted.runtime.device,
                "figures": dict(self._hosted.figures),
                "new": new,
                "pid": os.getpid(),
            },
        )

    def _reserve(self, question: dict[str, Any]) -> None:
        if not fits(question, {"bytes": int}):
            raise ClipmillError("the encoder process was asked for memory without a size")
        self._region = None
        try:
            descriptor = create(question["bytes"])
        except (OSError, ValueError) as err:  # fewer rows may fit
            raise OutOfMemoryError(f"no shared memory for a call of {question['bytes']} bytes: {err}") from err
        try:
            send(self._connection, {}, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._region = Region(descriptor)

    def _encode(self, question: dict[str, Any]) -> None:
        if not fits(question, _ENCODE) or self._hosted is None or self._region is None:
            raise ClipmillError("the encoder process was asked to encode nothing")
        inputs = [self._region.view(place) for place in question["arrays"]]
        target = self._region.view(question["answer"])
        if len({one.shape[:1] for one in inputs}) != 1 or not inputs[0].ndim or not len(inputs[0]):
            raise ClipmillError("the encoder process was asked to encode arrays of unequal numbers of rows")
        call = Call(question["input"], inputs, self._is_connected)
        answer = self._hosted.batcher.submit(call).result()
        if isinstance(answer, dict):
            self._refuse(answer)
            if answer["type"] == "DeviceError":  # so will every later call: another process may have more luck
                _log.error("the device failed; this process ends")
                os._exit(1)
            return
        if answer.shape != target.shape or target.dtype != np.float32:
            raise ClipmillError(f"the model returned shape {answer.shape}, where {target.shape} was expected")
        target[...] = answer
        send(self._connection, {})

    def _refuse(self, error: dict[str, Any]) -> None:
        send(self._connection, {"error": error})

    def _is_connected(self) -> bool:
        poll = select.poll()
        poll.register(self._connection, select.POLLRDHUP)
        return not poll.poll(0)


def load(
    spec: EncoderSpec, model: str, device: str, threads: int, streams: int, is_loaded: Callable[[Combination], bool]
) -> Decision:
    """Load a model of the catalog; see `Load`.

    Raises:
        ClipmillError: Those of `decide`, or if the files are not those that the worker found.
    """
    from ..runtimes.choice import decide
    from ..runtimes.store import Store
    from ..towers import find_source

    store = Store(find_source(spec), spec.cache_dir, spec.model)
    if store.key("float") != model:
        raise ClipmillError(f"{spec.model} changed while it was loaded: its files or packages are others now")
    return decide(store, spec, device, threads, is_loaded, streams)


def main() -> None:
    """Main function of the process; its arguments are the socket's descriptor and path."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s")
    descriptor, path = sys.argv[1:]
    with socket.socket(fileno=int(descriptor)) as listener:
        Server(listener, Path(path), load).run()
