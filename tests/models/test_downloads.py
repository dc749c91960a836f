"""Downloads: resumed, verified and atomic; an existing copy is used, and nothing is written."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from file_server import ETAG, FileServer

from clipmill.encoders import EncoderSpec
from clipmill.errors import SpecError, WeightsError
from clipmill.files.retries import RetryPolicy
from clipmill.models.downloads import fetch_url, local_file, transfer
from clipmill.models.downloads.urls import place_of

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


@pytest.fixture(autouse=True)
def _quick_and_alone(monkeypatch, tmp_path: Path) -> None:
    """Short waits, and an empty home directory."""
    monkeypatch.setattr(transfer, "RETRIES", RetryPolicy(attempts=3, pause_s=0.01))
    monkeypatch.setattr(transfer, "STALL_S", 0.5)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def _names(path: Path) -> set[str]:
    """Return the names of all files in the folder of a download, except locks."""
    return {file.name for file in path.parent.rglob("*") if file.is_file() and not file.name.endswith(".lock")}


def test_a_file_is_downloaded_once(cache: str) -> None:
    """Its path in the cache follows its URL; the second call makes no request."""
    with FileServer(CONTENT) as server:
        path = fetch_url(server.url(), sha256=SHA256, cache_dir=cache)
        assert path.read_bytes() == CONTENT
        assert path == place_of(server.url(), cache)
        assert path.relative_to(cache).parts[2:] == ("models", "weights.pt")
        assert fetch_url(server.url(), sha256=SHA256, cache_dir=cache) == path
        assert server.ranges == [(None, None)]
    assert _names(path) == {"weights.pt", ".weights.pt.sha256"}


@pytest.mark.parametrize("step", ["cut", "stall", "drip"])
def test_interrupted_and_stalled_downloads_resume_at_the_right_byte(step: str, cache: str) -> None:
    """The second request asks for the missing bytes of the same version."""
    with FileServer(CONTENT, step) as server:
        path = fetch_url(server.url(), sha256=SHA256 if step != "drip" else None, cache_dir=cache)
        (first, _), (second, version), *_ = server.ranges
        assert first is None and version == ETAG
        start = int(second.removeprefix("bytes=").removesuffix("-"))
        assert start == HALF if step != "drip" else HALF <= start < HALF + 1024
    content = path.read_bytes()
    assert content[:HALF] == CONTENT[:HALF] and content[start:] == CONTENT[start:] and len(content) == len(CONTENT)


def test_another_process_resumes_after_one_gave_up(cache: str) -> None:
    """Received bytes are kept under a temporary name, and not fetched again."""
    with FileServer(CONTENT, "cut", "503", "503", "503") as server:
        with pytest.raises(
            WeightsError, match=r"3 attempts in a row: status 503; without a network, put the file at '"
        ):
            fetch_url(server.url(), sha256=SHA256, cache_dir=cache)
        path = place_of(server.url(), cache)
        assert _names(path) == {".weights.pt.part", ".weights.pt.part.json"}
        assert fetch_url(server.url(), sha256=SHA256, cache_dir=cache).read_bytes() == CONTENT
        assert server.ranges[-1] == (f"bytes={HALF}-", ETAG)


@pytest.mark.parametrize("hash_is_known", [True, False])
def test_a_server_that_ignores_ranges_restarts_the_download(hash_is_known: bool, cache: str) -> None:
    """The whole file that it sends replaces the received part."""
    with FileServer(CONTENT, "cut", "ignore-range") as server:
        path = fetch_url(server.url(), sha256=SHA256 if hash_is_known else None, cache_dir=cache)
        assert path.read_bytes() == CONTENT


def test_versions_are_never_mixed(cache: str) -> None:
    """A file that changed between two attempts is fetched from its start."""
    with FileServer(CONTENT[::-1], "cut", "404") as server:
        with pytest.raises(WeightsError, match="status 404"):
            fetch_url(server.url(), cache_dir=cache)
        server.content, server.etag = CONTENT, '"version-2"'
        assert fetch_url(server.url(), cache_dir=cache).read_bytes() == CONTENT


def test_unnamed_versions_are_identified_by_the_hash(cache: str) -> None:
    """A part that turns out to be from another file is discarded, and the file fetched again."""
    with FileServer(CONTENT[::-1], "cut", "404") as server:
        server.etag = None
        with pytest.raises(WeightsError, match="status 404"):
            fetch_url(server.url(), sha256=SHA256, cache_dir=cache)
        server.content = CONTENT
        assert fetch_url(server.url(), sha256=SHA256, cache_dir=cache).read_bytes() == CONTENT
        assert [start for start, _ in server.ranges] == [None, f"bytes={HALF}-", f"bytes={HALF}-", None]


def test_a_part_longer_than_the_file_is_discarded(cache: str) -> None:
    """The server's 416 means that the part was from another file."""
    with FileServer(CONTENT) as server:
        path = place_of(server.url(), cache)
        path.parent.mkdir(parents=True)
        (path.parent / ".weights.pt.part").write_bytes(CONTENT * 2)
        assert fetch_url(server.url(), sha256=SHA256, cache_dir=cache).read_bytes() == CONTENT


def test_a_complete_part_is_not_fetched_again(cache: str) -> None:
    """A process that died between the last byte and the rename leaves nothing to fetch."""
    with FileServer(CONTENT, "cut", "404") as server:
        with pytest.raises(WeightsError, match="status 404"):
            fetch_url(server.url(), cache_dir=cache)
        path = place_of(server.url(), cache)
        (path.parent / ".weights.pt.part").write_bytes(CONTENT)
        server.plan = ["corrupt"]  # a request would return another file
        assert fetch_url(server.url(), cache_dir=cache).read_bytes() == CONTENT
        assert server.ranges[-1] == (f"bytes={len(CONTENT)}-", ETAG)


def test_a_corrupt_download_leaves_nothing(cache: str) -> None:
    """The hash decides; nothing is left that could be mistaken for the file."""
    with FileServer(CONTENT, "corrupt") as server:
        with pytest.raises(WeightsError, match=rf"weights\.pt does not have the SHA-256 {SHA256}"):
            fetch_url(server.url(), sha256=SHA256, cache_dir=cache)
        assert not {name for name in _names(place_of(server.url(), cache)) if not name.endswith(".json")}
        assert fetch_url(server.url(), sha256=SHA256, cache_dir=cache).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("404", "status 404"),
        ("html", "is a web page"),
        ("gzip", r"sent the file compressed \(gzip\)"),
        ("no-length", "sends no length"),
    ],
)
def test_permanent_failures_are_not_retried(step: str, message: str, cache: str) -> None:
    """They fail at once, with the URL and the path for a manual copy."""
    with FileServer(CONTENT, step) as server:
        with pytest.raises(WeightsError, match=message) as caught:
            fetch_url(server.url(), cache_dir=cache)
        assert len(server.ranges) == 1
        assert server.url() in str(caught.value) and str(place_of(server.url(), cache)) in str(caught.value)


@pytest.mark.parametrize("plan", [["chunked"], ["chunked-cut"], ["no-length"], ["503"], ["429", "500"]], ids=" ".join)
def test_responses_that_succeed_in_the_end(plan: list[str], cache: str) -> None:
    """Chunked ones have an end, a hash replaces the length, and requests to a busy server are retried."""
    with FileServer(CONTENT, *plan) as server:
        sha256 = SHA256 if plan == ["no-length"] else None
        assert fetch_url(server.url(), sha256=sha256, cache_dir=cache).read_bytes() == CONTENT


_FETCH = (
    "import logging, sys; logging.basicConfig(level=logging.INFO, stream=sys.stderr, format='%(message)s');"
    "from clipmill.models.downloads import fetch_url;"
    "print(fetch_url(sys.argv[1], sha256=sys.argv[2], cache_dir=sys.argv[3]))"
)


def test_of_two_processes_one_downloads(cache: str) -> None:
    """The other waits for the file: there is one request."""
    with FileServer(CONTENT, "hold") as server:
        command = [sys.executable, "-c", _FETCH, server.url(), SHA256, cache]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
        # the second process logs that it waits; only then does the server respond to the first
        waiting = _first_line_of_any([process.stderr for process in processes])
        server.release.set()
        printed = [process.communicate(timeout=60)[0] for process in processes]
        assert waiting == "waiting for another process that creates weights.pt"
        assert printed == [f"{place_of(server.url(), cache)}\n"] * 2
        assert len(server.ranges) == 1


def _first_line_of_any(streams: list) -> str:
    import select

    ready, _, _ = select.select(streams, [], [], 60)
    return ready[0].readline().strip()


def test_an_existing_copy_needs_no_write_access(cache: str) -> None:
    """No lock and no note is written, so all workers can use a cache on a read-only mount."""
    with FileServer(CONTENT) as server:
        fetch_url(server.url(), sha256=SHA256, cache_dir=cache)
    for lock in Path(cache).rglob("*.lock"):
        lock.unlink()
    before = {path: path.stat().st_mtime_ns for path in [Path(cache), *Path(cache).rglob("*")]}
    assert fetch_url(server.url(), sha256=SHA256, cache_dir=cache).read_bytes() == CONTENT
    assert {path: path.stat().st_mtime_ns for path in [Path(cache), *Path(cache).rglob("*")]} == before


def test_a_manual_copy_is_used_if_its_hash_is_right(cache: str, caplog) -> None:
    """A damaged copy is logged, and the file fetched."""
    with FileServer(CONTENT) as server:
        path = place_of(server.url(), cache)
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
        assert fetch_url(server.url(), sha256=SHA256.upper(), cache_dir=cache) == path
        assert server.ranges == []
        path.write_bytes(CONTENT[:-1])
        with caplog.at_level(logging.WARNING, logger="clipmill"):
            assert fetch_url(server.url(), sha256=SHA256[:8], cache_dir=cache).read_bytes() == CONTENT
        assert f"{path} is not used" in caplog.text


@pytest.mark.parametrize(
    ("folder", "name"), [("home/.cache/clip", "ViT-B-32.pt"), (".cache", "AudioCLIP-Full-Training.pt")]
)
def test_copies_of_other_programs_are_used_in_place(folder: str, name: str, cache: str, tmp_path, caplog) -> None:
    """In OpenAI's and Jina's folders; a damaged copy is logged and not used."""
    copy = tmp_path / folder / name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(CONTENT)
    with FileServer(CONTENT) as server:
        url = server.url(f"/{name}")
        assert fetch_url(url, sha256=SHA256, cache_dir=cache) == copy
        assert server.ranges == [] and not Path(cache).exists()
        copy.write_bytes(CONTENT[1:])
        with caplog.at_level(logging.WARNING, logger="clipmill"):
            assert fetch_url(url, sha256=SHA256, cache_dir=cache) == place_of(url, cache)
        assert f"{copy} is not used" in caplog.text


def test_offline_error_has_the_path_for_a_manual_copy(cache: str, monkeypatch) -> None:
    """With the URL, at once, and nothing is written."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    url = "https://weights.example/a/b.pt?download=1"
    with pytest.raises(WeightsError) as caught:
        fetch_url(url, cache_dir=cache)
    assert url in str(caught.value) and "HF_HUB_OFFLINE" in str(caught.value)
    place = place_of(url, cache)
    assert repr(str(place)) in str(caught.value) and not Path(cache).exists()
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert fetch_url(url, cache_dir=cache) == place


def test_an_unreachable_server(cache: str) -> None:
    """After some attempts it fails with the URL and the path."""
    with FileServer(CONTENT) as server:
        url = server.url()
    with pytest.raises(WeightsError, match=r"could not be fetched.*refused.*put the file at"):
        fetch_url(url, cache_dir=cache)


def test_a_read_only_cache(tmp_path: Path) -> None:
    """The message has the folder and a hint."""
    (tmp_path / "file").write_text("not a folder")
    with FileServer(CONTENT) as server, pytest.raises(WeightsError, match=r"cannot be written.*CLIPMILL_CACHE"):
        fetch_url(server.url(), cache_dir=str(tmp_path / "file"))


def test_the_proxy_of_the_environment_is_used(cache: str, monkeypatch) -> None:
    """The request to the proxy has the whole URL."""
    with FileServer(CONTENT) as server:
        monkeypatch.setenv("http_proxy", server.address)
        for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert fetch_url("http://weights.invalid/w.pt", cache_dir=cache).read_bytes() == CONTENT
        assert server.targets == ["http://weights.invalid/w.pt"]


def test_paths_stay_inside_the_cache(cache: str) -> None:
    """Whatever the path of a URL is; and no two URLs share a path."""
    urls = [
        "https://h/../../etc/passwd",
        "https://h/%2e%2e/%2fetc/x",
        "https://h/x?a=1",
        "https://h/x?a=2",
        "https://h/",
    ]
    places = [place_of(url, cache) for url in urls]
    assert len(set(places)) == len(urls)
    for place in places:
        assert Path(os.path.normpath(place)).is_relative_to(Path(cache, "downloads", "h"))


def test_a_model_name_may_have_a_url(cache: str) -> None:
    """The weights of a URL are fetched once; credentials and other schemes are refused when the spec is made."""
    with FileServer(CONTENT) as server:
        spec = EncoderSpec(f"ViT-B-32::{server.url('/w.safetensors')}", cache_dir=cache)
        assert spec.ref.is_file and spec.dim == 512
        assert local_file(spec.ref.weights, cache).read_bytes() == CONTENT
    assert local_file("/a/b.pt", cache) == Path("/a/b.pt")
    with pytest.raises(SpecError, match="remove the user name and password"):
        EncoderSpec("ViT-B-32::https://me:secret@host/w.pt")
    with pytest.raises(SpecError, match="have one of the schemes http, https, s3"):
        EncoderSpec("ViT-B-32::ftp://host/w.pt")
