"""Files of hub repositories, fetched by several processes: interrupted, killed, concurrent."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from file_server import ETAG, FileServer
from hub_server import Hub

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
NAME = "open_clip_model.safetensors"


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


_FETCH = (
    "import sys; from clipmill.models.downloads import hub;print(hub.fetch_file('org/model', sys.argv[1], sys.argv[2]))"
)


def _start(server: Hub, cache: str) -> subprocess.Popen[str]:
    """Start a process that fetches the file with a token."""
    changes = {
        "HF_ENDPOINT": server.address,
        "HF_TOKEN": "hf_secret",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": f"{cache}/none",
    }
    command = [sys.executable, "-c", _FETCH, NAME, cache]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, **changes}, **pipes)


def _wait(condition: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    """Wait for an effect of these processes; one that ends before has failed."""
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def test_another_process_resumes_after_one_gave_up(server: Hub, cache: str) -> None:
    """At the right byte; the hub gets the token each time, the server of the large file never."""
    with FileServer(CONTENT, "cut", "404") as storage:
        server.put("org/model", NAME, CONTENT, storage)
        first = _start(server, cache)
        _, errors = first.communicate(timeout=60)
        assert first.returncode == 1 and "could not be fetched" in errors and "status 404" in errors
        assert not list(Path(cache).rglob(NAME))
        second = _start(server, cache)
        printed, errors = second.communicate(timeout=60)
        assert second.returncode == 0, errors
        assert storage.ranges == [(None, None), *[(f"bytes={HALF}-", ETAG)] * 2]
        assert [headers["Authorization"] for headers in storage.headers] == [None] * 3
        assert {token for _, _, token in server.requests} == {"Bearer hf_secret"}
    path = Path(printed.strip())
    assert path.read_bytes() == CONTENT and path.is_relative_to(cache)


def test_another_process_resumes_after_one_was_killed(server: Hub, cache: str) -> None:
    """Received bytes are not fetched again."""
    with FileServer(CONTENT, "stall") as storage:
        server.put("org/model", NAME, CONTENT, storage)
        part = Path(cache, "huggingface", "models--org--model", "blobs", f".{SHA256}.part")
        first = _start(server, cache)
        _wait(lambda: part.exists() and part.stat().st_size > HALF // 2, first)
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=60)
        have = part.stat().st_size
        assert 0 < have <= HALF
        printed, errors = _start(server, cache).communicate(timeout=60)
        assert Path(printed.strip()).read_bytes() == CONTENT, errors
        assert storage.ranges[-1] == (f"bytes={have}-", ETAG) and not part.exists()


def test_of_two_processes_one_downloads(server: Hub, cache: str) -> None:
    """Both request the metadata; the content is transferred once."""
    with FileServer(CONTENT, "hold") as storage:
        server.put("org/model", NAME, CONTENT, storage)
        processes = [_start(server, cache) for _ in range(2)]
        _wait(lambda: [method for method, *_ in server.requests].count("HEAD") == 2, *processes)
        storage.release.set()
        (first, errors), second = (process.communicate(timeout=60) for process in processes)
        assert first == second[0] and Path(first.strip()).read_bytes() == CONTENT, errors
        assert len(storage.ranges) == 1 == len(server.served)
