"""A server, an Internet of its own and the policies with which the tests fetch."""

import functools

import httpcore
import pytest
from http_server import JPEG, LoopbackServer

from clipmill.failures import RowError, Stage
from clipmill.media import fetch as fetch_module
from clipmill.media.fetch import FetchPolicy, fetch
from clipmill.media.web import HttpClient, resolve

STRICT = FetchPolicy()
LOCAL = FetchPolicy(allow_local_files=True)
# Retries without the pauses between them are tested by a client whose `sleep` is a list's append.
LOOPBACK = FetchPolicy(allow_private_addresses=True, retries=0)
PUBLIC = "93.184.216.34"


@pytest.fixture
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def shared_server():
    with LoopbackServer() as server:
        yield server
    for client in fetch_module._CLIENTS.values():
        client.close()


@pytest.fixture
def make_client():
    """Return HttpClient, whose connections are closed after the test."""
    made = []

    def make(**options):
        made.append(HttpClient(**options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def server(shared_server):
    for record in (shared_server.counts, shared_server.targets, shared_server.headers):
        record.clear()
    yield shared_server
    for client in fetch_module._CLIENTS.values():
        client.close()  # what a bad page leaves on a connection is not the next test's


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a b#1.jpg"
    path.write_bytes(JPEG)
    return path


def failure(uri, policy=STRICT, *, get=fetch, **options):
    """Return the failure that fetching ends in."""
    with pytest.raises(RowError) as caught:
        get(uri, policy, **options)
    assert caught.value.failure.stage == Stage.FETCH
    return caught.value.failure


class Internet:
    """Names and addresses as a test wants them; every connection ends at the loopback server.

    Attributes:
        looked_up: The names that were looked up.
        connected: The addresses that were connected to.
        slept: The pauses that were made, in seconds; none takes any time.
    """

    def __init__(self, server, make_client, allow_private_addresses=False, **names):
        self.names = {name.replace("_", "."): addresses for name, addresses in names.items()}
        self.server, self.looked_up, self.connected, self.slept = server, [], [], []
        self.client = make_client(
            allow_private_addresses=allow_private_addresses,
            resolve=self.resolve,
            connect=self.connect,
            sleep=self.slept.append,
        )

    def resolve(self, host, port):
        self.looked_up.append(host)
        return self.names[host] if host in self.names else resolve(host, port)

    def connect(self, address, port, timeout):
        self.connected.append(address)
        return httpcore.SyncBackend().connect_tcp("127.0.0.1", self.server.port, timeout=timeout)

    def get(self, uri, policy=STRICT):
        return self.client.get(uri, policy)


@pytest.fixture
def make_internet(server, make_client):
    return functools.partial(Internet, server, make_client)
