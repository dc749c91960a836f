"""Encoder processes for tests: in a folder of their own, and one in a thread with a runtime that is easy to break."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from clipmill.encoders import EncoderSpec, unload_all
from clipmill.errors import OutOfMemoryError
from clipmill.models.encoder_process.place import Place
from clipmill.models.encoder_process.server import Server
from clipmill.models.runtimes.choice import Decision
from clipmill.models.runtimes.store import Store
from clipmill.models.support_matrix import Combination
from clipmill.models.towers import find_source

DIM = 96
"""Values in a vector of `demo`."""


@contextlib.contextmanager
def own_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give encoder processes a folder of their own, with a short path, and end them all."""
    folder = tempfile.mkdtemp(prefix="cm-", dir="/tmp")
    monkeypatch.setenv("TMPDIR", folder)
    monkeypatch.setattr(tempfile, "tempdir", folder)
    try:
        yield Path(folder, f"clipmill-{os.geteuid()}")
    finally:
        unload_all()
        for pid in pids(Path(folder, f"clipmill-{os.geteuid()}")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder)


def pids(folder: Path) -> list[int]:
    """Return the encoder processes that were started, and have not cleaned up."""
    return [json.loads(path.read_text())["pid"] for path in folder.glob("*.json")]


class FragileRuntime:
    """Vectors of texts hold their ids; it runs out of memory above `max_rows`, and refuses rows with the id `bad`."""

    name, precision, device, streams = "onnx", "fp32", "cpu", 1

    def __init__(self, max_rows: int = 1000, bad: int = -1, gate: threading.Event | None = None) -> None:
        self.max_rows = max_rows
        self.bad = bad
        self.gate = gate
        self.calls: list[tuple[str, int]] = []

    def encode(self, model_input, inputs):
        if self.gate is not None:
            self.gate.wait(20)
        self.calls.append((model_input, len(inputs[0])))
        if len(inputs[0]) > self.max_rows:
            raise OutOfMemoryError(f"{len(inputs[0])} rows, with room for {self.max_rows}")
        if (inputs[0] == self.bad).any():
            raise ValueError("a word broke the call")
        flat = inputs[0].reshape(len(inputs[0]), -1)[:, :DIM].astype(np.float32)
        return np.pad(flat, ((0, 0), (0, DIM - flat.shape[1])))


def place_of(spec: EncoderSpec) -> Place:
    """Return the place of a spec's encoder process."""
    return Place(Store(find_source(spec), spec.cache_dir).key("float"), spec, "cpu")


@contextlib.contextmanager
def serving(spec: EncoderSpec, runtime: FragileRuntime | Exception) -> Iterator[Callable[[], bool]]:
    """Run a server with a runtime, or an error of loading it, in a thread, where the encoder process would listen.

    Yields a function that lets it end as soon as nobody is connected, and returns whether it has ended.
    """
    combination = Combination("onnx", "fp32")

    def load(spec, model, device, threads, streams, is_loaded):
        if isinstance(runtime, Exception):
            raise runtime
        return Decision(combination, {}, None if is_loaded(combination) else runtime)

    place = place_of(spec)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(place.socket))
    listener.listen()
    server = Server(listener, place.socket, load, linger_s=1e9)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()

    def has_ended() -> bool:
        server._linger_s = 0
        return not thread.is_alive()

    try:
        yield has_ended
    finally:
        unload_all()
        has_ended()
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait for what happens in another thread or process."""
    limit = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < limit
        time.sleep(0.01)
