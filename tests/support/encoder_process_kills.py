"""Workers that share an encoder process, while it and they are killed: every vector comes, and is right."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from encoder_processes import own_folder, pids, wait_until

from clipmill.encoders import load_encoder

_OPTIONS = {"device": "cpu", "runtime": "onnx", "precision": "fp32", "max_batch_rows": 8, "max_cache_bytes": 0}
_WORKERS = 3
_PATIENCE_S = 120.0
_ROWS = 24

_WORKER = f"""
import sys
import numpy as np
from clipmill import load_encoder
encoder = load_encoder("demo", **{_OPTIONS}, encoder_process="per_host")
given = np.load(sys.argv[1])
for line in sys.stdin:
    found = encoder.embed_texts(list(given["texts"])), encoder.embed_images(list(given["images"]))
    np.testing.assert_allclose(found, given["expected"], rtol=1e-4, atol=1e-5)
    print("whole", flush=True)
"""


def kill_while_they_work(draw: random.Random, folder: Path, *, kills: int) -> dict[str, int]:
    """Kill the encoder process (three times of four) or a worker, again and again, while all workers embed.

    Returns:
        How many of each were killed, and the texts and images that were embedded and compared.
    """
    texts = [f"a circle, number {number}" for number in range(_ROWS)]
    images = np.random.default_rng(draw.randrange(2**32)).integers(0, 256, (_ROWS, 48, 64, 3), np.uint8)
    encoder = load_encoder("demo", **_OPTIONS, encoder_process="off")
    expected = np.stack([encoder.embed_texts(texts), encoder.embed_images(list(images))])
    np.savez(folder / "given.npz", texts=texts, images=images, expected=expected)
    done: collections.Counter[str] = collections.Counter()
    with pytest.MonkeyPatch.context() as patch, own_folder(patch) as place:
        threads = [_Worker(folder / "given.npz", done) for _ in range(_WORKERS)]
        for thread in threads:
            thread.start()
        while done["encoder process"] + done["worker"] < kills:
            before, limit = done["rows"], time.monotonic() + _PATIENCE_S
            while done["rows"] == before:  # they have found each other again
                time.sleep(0.02)
                assert all(thread.is_alive() for thread in threads) and time.monotonic() < limit
            time.sleep(draw.uniform(0, 0.3))
            if draw.random() < 0.75:
                for pid in pids(place)[:1]:
                    with contextlib.suppress(ProcessLookupError):  # killed just now, and nobody has noticed yet
                        os.kill(pid, signal.SIGKILL)
                        done["encoder process"] += 1
            else:
                draw.choice(threads).kill()
                done["worker"] += 1
        for thread in threads:
            thread.end()
        assert [thread.error for thread in threads] == [None] * _WORKERS
        wait_until(lambda: _serving(place) == pids(place))  # none was left behind by those that started others
    return dict(done)


def _serving(place: Path) -> list[int]:
    """Return the encoder processes that run, found by their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"{place}/".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


class _Worker(threading.Thread):
    """A worker process that is given work as long as it is wanted, and is started again after it was killed."""

    def __init__(self, given: Path, done: collections.Counter[str]) -> None:
        super().__init__(daemon=True)
        self._command = [sys.executable, "-c", _WORKER, str(given)]
        self._done = done
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False
        self.error: str | None = None

    def run(self) -> None:
        while not self._ended and self.error is None:
            with (
                tempfile.TemporaryFile() as log,
                subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as process,
            ):
                self._process = process
                try:
                    while not self._ended:
                        process.stdin.write(b"more\n")
                        process.stdin.flush()
                        if process.stdout.readline() != b"whole\n":
                            break
                        self._done["rows"] += 2 * _ROWS
                    process.stdin.close()
                except BrokenPipeError:
                    pass
                if process.wait() not in (0, -signal.SIGKILL):
                    log.seek(0)
                    self.error = log.read().decode()[-2000:]

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """Let it finish what it does."""
        self._ended = True
        self.join(_PATIENCE_S)
        assert not self.is_alive()
