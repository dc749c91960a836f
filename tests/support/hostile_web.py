"""URLs of private hosts in drawn spellings, and a server that answers with damaged HTTP."""

from __future__ import annotations

import collections
import contextlib
import gzip
import ipaddress
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import httpcore
from http_server import JPEG

from clipmill.failures import RowError, Stage
from clipmill.media import fetch as fetch_module
from clipmill.media.fetch import FetchPolicy, fetch
from clipmill.media.web import HttpClient

SPECIAL = """
    0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
    192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
    255.255.255.255/32 ::1/128 ::/128 ::ffff:0:0/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001::/32
    2001:1::1/128 2001:1::2/128 2001:1::3/128 2001:2::/48 2001:3::/32 2001:4:112::/48 2001:10::/28 2001:20::/28
    2001:30::/28 2001:db8::/32 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8
"""
# Blocks of IANA's IPv4 and IPv6 Special-Purpose Address Registries (2024), and multicast; without AS112's servers,
# which are on the public internet, and 6to4 and NAT64, whose addresses are judged by the IPv4 address in them.

MAX_BYTES = 100_000


def fuzz_hosts(draw: random.Random, count: int, folder: Path) -> collections.Counter[str]:
    """Fetch from hosts that are not public, in drawn spellings: each fails, and nobody is connected to."""
    blocks = [ipaddress.ip_network(block) for block in SPECIAL.split() if block != "::ffff:0:0/96"]
    seen: collections.Counter[str] = collections.Counter()
    connected: list[str] = []

    def connect(address: str, port: int, timeout: float | None) -> Any:
        connected.append(address)
        raise httpcore.ConnectError("nobody is there")

    with _no_proxies(), mock.patch.dict(fetch_module._CLIENTS, {False: HttpClient(connect=connect)}):
        for _ in range(count):
            block = draw.choice(blocks)
            address = block[draw.randrange(min(block.num_addresses, 2**64))]
            uri = f"{draw.choice(('http', 'https', 'HTTP'))}://{_userinfo(draw)}{_spelled(address, draw)}{_rest(draw)}"
            seen[_code_of(uri, FetchPolicy(retries=0))] += 1
            seen["inputs"] += 1
            assert not connected, uri
        _code_of("http://93.184.216.34/", FetchPolicy(retries=0))
        assert connected == ["93.184.216.34"]  # connections are seen
    return seen


def _spelled(address: Any, draw: random.Random) -> str:
    if address.version == 6:
        text = draw.choice((str(address), address.exploded, address.exploded.upper()))
        return f"[{text}]"
    if draw.random() < 0.3:
        embedding = draw.choice(("::ffff:{}", "::{}", "::ffff:0:{}", "64:ff9b::{}", "0:0:0:0:0:FFFF:{}"))
        return f"[{embedding.format(address)}]"
    numbers = list(address.packed)
    parts = draw.choice((4, 4, 3, 2, 1))
    last = int.from_bytes(bytes(numbers[parts - 1 :]), "big")
    host = ".".join(_number(number, draw) for number in (*numbers[: parts - 1], last))
    match draw.randrange(8):
        case 0:
            return host + "."
        case 1:
            return host.translate({ord(str(digit)): 0xFF10 + digit for digit in range(10)})
        case 2:
            return host.replace(".", draw.choice("。．｡"))
        case 3:
            at = draw.randrange(len(host))
            return host[:at] + f"%{ord(host[at]):02x}" + host[at + 1 :]
    return host


def _number(number: int, draw: random.Random) -> str:
    return draw.choice((str(number), str(number), hex(number), f"0{number:o}", f"0x{number:08X}", f"000{number:o}"))


def _userinfo(draw: random.Random) -> str:
    return draw.choice(("", "", "", "93.184.216.34@", "a:b@", "example.com%40"))


def _rest(draw: random.Random) -> str:
    return draw.choice(("", ":80", ":8080", ":")) + draw.choice(("/", "", "/a.jpg", "?x", "#@example.com", "/%2e%2e/"))


ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b" % (len(JPEG), JPEG),
    b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\n" + JPEG,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n3;x=y\r\nfgh\r\n0\r\nTrailer: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(JPEG),
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(10 * MAX_BYTES)),
    b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nbusy",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
]


def fuzz_http(draw: random.Random, count: int, folder: Path) -> collections.Counter[str]:
    """Fetch from a server whose answers are damaged: each is content within its limits, or a failure."""
    from fuzzing import damaged

    policy = FetchPolicy(allow_private_addresses=True, retries=0, timeout_s=2.0, max_bytes=MAX_BYTES)
    seen: collections.Counter[str] = collections.Counter()
    with _no_proxies(), _server(lambda: damaged(draw.choice(ANSWERS), draw)) as port:
        for number in range(count):
            seen[_code_of(f"http://127.0.0.1:{port}/{number}", policy)] += 1
            seen["inputs"] += 1
    return seen


def _code_of(uri: str, policy: FetchPolicy) -> str:
    try:
        found = fetch(uri, policy)
    except RowError as err:
        assert err.failure.stage == Stage.FETCH, (uri, err)
        return str(err.failure.code)
    assert len(found.data) <= policy.max_bytes, uri
    return "fetched"


@contextlib.contextmanager
def _server(answer: Callable[[], bytes]) -> Iterator[int]:
    """Serve one drawn answer for each connection, whatever is asked for, and hang up."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:  # closed
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(answer())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()
        for client in fetch_module._CLIENTS.values():
            client.close()


@contextlib.contextmanager
def _no_proxies() -> Iterator[None]:
    names = [name for kind in ("http", "https", "all", "no") for name in (f"{kind}_proxy", f"{kind.upper()}_PROXY")]
    with mock.patch.dict("os.environ"):
        for name in names:
            os.environ.pop(name, None)
        yield
