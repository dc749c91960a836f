"""Files from object stores: copied once per version, resumed, and used while the store cannot be reached."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from clipmill.errors import MissingExtraError, WeightsError
from clipmill.files.drivers import DRIVERS
from clipmill.files.retries import RetryPolicy
from clipmill.models.downloads import fetch_url, objects, transfer

CONTENT = bytes(range(256)) * 512
URL = "memory://bucket/models/w.safetensors"


@pytest.fixture(autouse=True)
def store(monkeypatch) -> MemoryFileSystem:
    """A store in memory, registered as one that weights may come from."""
    monkeypatch.setitem(DRIVERS, "memory", ("memoryfs", "remote"))
    monkeypatch.setattr(transfer, "RETRIES", RetryPolicy(attempts=2, pause_s=0.01))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    store = fsspec.filesystem("memory")
    store.pipe_file("/bucket/models/w.safetensors", CONTENT)
    yield store
    store.store.clear()


def test_an_object_is_copied_once(tmp_path: Path, monkeypatch) -> None:
    """The second call finds the copy, and reads nothing."""
    path = fetch_url(URL, cache_dir=str(tmp_path))
    assert path.read_bytes() == CONTENT and path.name == "w.safetensors" and path.is_relative_to(tmp_path)
    monkeypatch.setattr(objects, "_receive", lambda *arguments: pytest.fail("copied again"))
    assert fetch_url(URL, cache_dir=str(tmp_path)) == path


def test_another_version_is_another_copy(store: MemoryFileSystem, tmp_path: Path) -> None:
    """An object that was overwritten is not mistaken for the old one."""
    old = fetch_url(URL, cache_dir=str(tmp_path))
    store.pipe_file("/bucket/models/w.safetensors", CONTENT + b"more")
    new = fetch_url(URL, cache_dir=str(tmp_path))
    assert (old.read_bytes(), new.read_bytes()) == (CONTENT, CONTENT + b"more")


def test_an_interrupted_copy_is_resumed(store: MemoryFileSystem, tmp_path: Path, monkeypatch) -> None:
    """The second attempt reads from the byte where the first one ended."""
    begun = []

    class Breaking(io.BytesIO):
        def read(self, size: int = -1) -> bytes:
            begun.append(self.tell())
            if len(begun) == 2:
                raise OSError("connection lost")
            return super().read(min(size, 50_000) if len(begun) == 1 else size)

    monkeypatch.setattr(MemoryFileSystem, "open", lambda *_, **__: Breaking(CONTENT))
    assert fetch_url(URL, cache_dir=str(tmp_path)).read_bytes() == CONTENT
    assert begun[:3] == [0, 50_000, 50_000]


def test_a_truncated_copy_is_not_published(tmp_path: Path, monkeypatch) -> None:
    """No file has the final name."""
    monkeypatch.setattr(MemoryFileSystem, "open", lambda *_, **__: io.BytesIO(CONTENT[:1000]))
    with pytest.raises(WeightsError, match=r"could not be copied: .*truncated after 1,000 of 131,072 bytes"):
        fetch_url(URL, cache_dir=str(tmp_path))
    assert not list(tmp_path.rglob("w.safetensors"))


def test_the_latest_copy_is_used_if_the_store_cannot_be_reached(tmp_path: Path, monkeypatch, caplog) -> None:
    """Offline, or without its driver; with a warning."""
    path = fetch_url(URL, cache_dir=str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with caplog.at_level(logging.WARNING, logger="clipmill"):
        assert fetch_url(URL, cache_dir=str(tmp_path)) == path
    assert f"the copy at {path} is used" in caplog.text


def test_messages_name_the_missing_part(tmp_path: Path, monkeypatch) -> None:
    """A missing object, a folder, a missing driver."""
    with pytest.raises(WeightsError, match=r"memory://bucket/none\.pt does not exist; without a network, put"):
        fetch_url("memory://bucket/none.pt", cache_dir=str(tmp_path))
    with pytest.raises(WeightsError, match="is not a file but a directory"):
        fetch_url("memory://bucket/models", cache_dir=str(tmp_path))

    def no_driver(url: str) -> None:
        raise ImportError("install memoryfs")

    monkeypatch.setattr(fsspec, "url_to_fs", no_driver)
    with pytest.raises(MissingExtraError, match=r"'memoryfs'.*pip install 'clipmill\[remote\]'"):
        fetch_url(URL, cache_dir=str(tmp_path))
