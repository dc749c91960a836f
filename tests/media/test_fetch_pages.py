"""Pages over http: responses, retries, proxies, and clients in threads and processes."""

import base64
import pickle
import socket
import subprocess
import sys
import threading
import zlib

import pytest
from fetch_helpers import LOOPBACK, PUBLIC, failure
from http_server import JPEG

from clipmill.errors import ClipmillError
from clipmill.failures import Code, RowError
from clipmill.media import fetch as fetch_module
from clipmill.media.fetch import Fetched, FetchPolicy, fetch
from clipmill.media.fetch_policy import inflate
from clipmill.media.uri import shown
from clipmill.media.web import HttpClient

pytest_plugins = ["fetch_helpers"]
pytestmark = pytest.mark.usefixtures("no_proxy")


# http: responses


def test_request_has_a_user_agent_and_reuses_its_connection(server, make_internet):
    internet = make_internet(allow_private_addresses=True)
    before = server.connections
    for path in ("/photo.jpg?a=1", "/status/404", "/redirect?to=/photo.jpg", "/photo.jpg"):
        try:
            assert internet.get(server.url(path)).data == JPEG
        except RowError as err:
            assert err.failure.code == Code.NOT_FOUND
    assert server.connections - before == 1
    assert server.headers[0]["user-agent"].startswith("clipmill/")
    assert server.headers[0]["accept-encoding"] == "identity"
    assert server.headers[0]["host"] == f"127.0.0.1:{server.port}"


def test_non_ascii_path_arrives(server):
    server.files["/ein bild/ü.png"] = (b"png", "Image/PNG; name=x")
    assert fetch(server.url("/ein bild/ü.png"), LOOPBACK) == Fetched(b"png", "image/png")


@pytest.mark.parametrize("path", ["/chunked", "/gzip", "/encoding/identity", "/declares?length=317"])
def test_good_responses(server, path):
    assert fetch(server.url(path), LOOPBACK) == Fetched(JPEG, "image/jpeg")


@pytest.mark.parametrize("path", ["/empty", "/no-content"])
def test_empty_responses(server, path):
    assert fetch(server.url(path), LOOPBACK).data == b""


@pytest.mark.parametrize(
    ("path", "code", "transient", "message"),
    [
        ("/status/404", Code.NOT_FOUND, False, "404"),
        ("/status/410", Code.NOT_FOUND, False, "410"),
        ("/status/400", Code.FETCH_FAILED, False, "400"),
        ("/status/401", Code.FETCH_FAILED, False, "401; it needs a login"),
        ("/status/403", Code.FETCH_FAILED, False, "403"),
        ("/status/304", Code.FETCH_FAILED, False, "304"),
        ("/status/408", Code.FETCH_FAILED, True, "408"),
        ("/status/425", Code.FETCH_FAILED, True, "425"),
        ("/status/429?retry_after=7", Code.FETCH_FAILED, True, "429; the server asked to wait 7 s"),
        ("/status/500", Code.FETCH_FAILED, True, "500"),
        ("/status/503", Code.FETCH_FAILED, True, "503"),
        ("/cut-off", Code.FETCH_FAILED, True, "truncated"),
        ("/chunked-cut-off", Code.FETCH_FAILED, True, "truncated"),
        ("/declares?length=1000", Code.FETCH_FAILED, True, "truncated"),
        ("/declares?length=-1", Code.FETCH_FAILED, True, "not HTTP"),
        ("/gzip-cut-off", Code.FETCH_FAILED, True, "truncated"),
        ("/reset", Code.FETCH_FAILED, True, ""),
        ("/not-http", Code.FETCH_FAILED, True, "not HTTP"),
        ("/encoding/br", Code.FETCH_FAILED, False, "Content-Encoding 'br'"),
        ("/encoding/gzip", Code.FETCH_FAILED, False, "damaged"),
    ],
)
def test_bad_responses(server, path, code, transient, message):
    failed = failure(server.url(path), LOOPBACK)
    assert (failed.code, failed.transient) == (code, transient)
    assert message in failed.message
    assert shown(server.url(path)) in failed.message


def test_port_where_nobody_listens():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        failed = failure(f"http://127.0.0.1:{unused.getsockname()[1]}/", LOOPBACK)
    assert (failed.code, failed.transient) == (Code.FETCH_FAILED, True)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/declares?length=1000000000000", "1000000000000 bytes, more than max_fetch_bytes=100000"),
        ("/big?bytes=100001", "100001 bytes, more than max_fetch_bytes=100000"),
        ("/endless", "more than max_fetch_bytes=100000"),
        ("/bomb", "more than max_fetch_bytes=100000"),
    ],
)
def test_response_that_is_too_large(server, path, message):
    policy = FetchPolicy(allow_private_addresses=True, max_bytes=100_000)
    failed = failure(server.url(path), policy)
    assert (failed.code, failed.transient) == (Code.TOO_LARGE, False)
    assert message in failed.message
    assert len(fetch(server.url("/big?bytes=100000"), policy).data) == 100_000


def test_zip_bomb_is_decompressed_in_bounded_chunks():
    bomb = zlib.compress(bytes(50_000_000), 9)
    pieces = [len(piece) for piece in inflate([bomb], "a test", 10**6)]
    assert sum(pieces) == 50_000_000
    assert max(pieces) <= 64 * 1024


@pytest.mark.parametrize("path", ["/slow", "/drip", "/drip-headers"])
def test_slow_server_ends_at_the_deadline(server, path):
    """A dripping server sends each byte in time, but not the whole response."""
    failed = failure(server.url(path), FetchPolicy(allow_private_addresses=True, timeout_s=0.5))
    assert (failed.code, failed.transient) == (Code.FETCH_FAILED, True)
    assert "took longer than fetch_timeout_s=0.5" in failed.message
    assert server.counts[path] == 1


@pytest.mark.parametrize("path", ["/once/503", "/once/429", "/once/502", "/once/504", "/cut-off-once"])
def test_transient_failure_is_retried(server, make_internet, path):
    internet = make_internet(allow_private_addresses=True)
    assert internet.get(server.url(path)).data == JPEG
    assert server.counts[path] == 2
    assert len(internet.slept) == 1


def test_retries_are_counted_and_pauses_grow(server, make_internet):
    internet = make_internet(allow_private_addresses=True)
    failed = failure(server.url("/status/503"), get=internet.get)
    assert failed.transient
    assert "503 (tried 3 times)" in failed.message
    assert server.counts["/status/503"] == 3
    first, second = internet.slept
    assert 0 < first < second < 1


def test_permanent_failure_is_not_retried(server, make_internet):
    internet = make_internet(allow_private_addresses=True)
    for path in ("/status/404", "/status/403", "/encoding/br"):
        failure(server.url(path), get=internet.get)
    assert set(server.counts.values()) == {1}
    assert internet.slept == []


@pytest.mark.parametrize("retry_after", ["9", "Wed, 21 Oct 2015 07:28:00 GMT", "nonsense"])
def test_retry_after_is_respected(server, make_internet, retry_after):
    internet = make_internet(allow_private_addresses=True)
    assert internet.get(server.url(f"/once/429?retry_after={retry_after}").replace(" ", "%20")).data == JPEG
    assert internet.slept == [9.0] if retry_after == "9" else internet.slept[0] < 1
    server.counts.clear()


def test_retry_after_beyond_the_deadline(server, make_internet):
    internet = make_internet(allow_private_addresses=True)
    failed = failure(server.url("/status/503?retry_after=3600"), get=internet.get)
    assert "the server asked to wait 3600 s" in failed.message
    assert internet.slept == []
    assert server.counts["/status/503"] == 1


# http: proxies, processes, threads


def test_proxy_is_used_and_logged(server, make_internet, monkeypatch, caplog):
    monkeypatch.setenv("HTTP_PROXY", f"http://me:p%40ss@127.0.0.1:{server.port}")
    internet = make_internet()
    assert internet.get("http://photos.example/photo.jpg").data == JPEG
    assert internet.get("http://photos.example:8080/photo.jpg").data == JPEG
    assert server.targets == ["http://photos.example:80/photo.jpg", "http://photos.example:8080/photo.jpg"]
    assert internet.looked_up == ["127.0.0.1"] * len(internet.looked_up)
    credentials = base64.b64encode(b"me:p@ss").decode()
    assert server.headers[0]["proxy-authorization"] == f"Basic {credentials}"
    assert [record.getMessage() for record in caplog.records] == [
        "a proxy fetches http:// and resolves names itself: it is trusted to refuse private addresses"
    ]


def test_proxy_never_gets_private_addresses(server, make_internet, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", f"127.0.0.1:{server.port}")
    internet = make_internet()
    numbers = ("127.0.0.1", "localhost", "10.0.0.1", "0xa9fea9fe", "[::ffff:10.0.0.1]", "[64:ff9b::a00:1]")
    names = ("metadata.google.internal", "metadata", "Printer.local", "intern.home.arpa.", "wiki.corp")
    for host in (*numbers, *names):
        assert failure(f"http://{host}/", get=internet.get).code == Code.FORBIDDEN_URI
    assert not server.counts
    allowed = make_internet(allow_private_addresses=True)
    assert allowed.get("http://metadata.google.internal/photo.jpg").data == JPEG


def test_redirects_through_a_proxy_are_checked_too(server, make_internet, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", server.url("/"))
    internet = make_internet()
    for target in ("http://10.0.0.1/", "http://metadata.google.internal/", "http://[64:ff9b::7f00:1]/", "//localhost/"):
        failed = failure(f"http://photos.example/redirect?to={target}", get=internet.get)
        assert failed.code == Code.FORBIDDEN_URI and "redirected to" in failed.message
    assert {target.partition("?")[0] for target in server.targets} == {"http://photos.example:80/redirect"}


def test_no_proxy(server, make_internet, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:3128")
    monkeypatch.setenv("NO_PROXY", "other.example,photos.example")
    internet = make_internet(photos_example=[PUBLIC])
    assert internet.get("http://photos.example/photo.jpg").data == JPEG
    assert internet.connected == [PUBLIC]


def test_proxy_that_refuses_a_tunnel(server, make_internet, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", server.url("/"))
    failed = failure("https://photos.example/a.jpg", get=make_internet().get)
    assert (failed.code, failed.transient) == (Code.FETCH_FAILED, False)
    assert "the proxy refused: 403" in failed.message
    assert server.targets == ["photos.example:443"]


def test_unsupported_proxy(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:secret@127.0.0.1:1080")
    with pytest.raises(ClipmillError, match="use http") as caught:
        HttpClient()
    assert "secret" not in str(caught.value)


def test_client_is_not_pickled():
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(HttpClient())


def test_threads_share_one_client(server, monkeypatch):
    monkeypatch.setattr(fetch_module, "_CLIENTS", {})
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(fetch(server.url("/photo.jpg"), LOOPBACK).data))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [JPEG] * 16
    (client,) = fetch_module._CLIENTS.values()
    client.close()


def test_forked_process_makes_its_own_client(server):
    """Even if another thread was creating one at the time of the fork."""
    code = f"""
import os
from clipmill.media import fetch

def run():
    policy = fetch.FetchPolicy(allow_private_addresses=True)
    assert fetch.fetch("{server.url("/photo.jpg")}", policy).media_type == "image/jpeg"

run()
with fetch._CLIENTS_LOCK:
    child = os.fork()
if not child:
    assert not fetch._CLIENTS
run()
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("both")
"""
    before = server.connections
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "both\n"
    assert server.counts["/photo.jpg"] == 3
    assert server.connections - before == 2
