"""Addresses from which pages are fetched: private ones are refused, also after every redirect."""

import ipaddress
import socket
import threading

import httpcore
import pytest
from fetch_helpers import LOOPBACK, PUBLIC, STRICT, failure
from hostile_web import SPECIAL
from http_server import JPEG

from clipmill.failures import Code
from clipmill.media.fetch import Fetched, FetchPolicy, fetch
from clipmill.media.uri import WebAddress, is_public
from clipmill.messages import setting

pytest_plugins = ["fetch_helpers"]
pytestmark = pytest.mark.usefixtures("no_proxy")


# http: addresses

NOT_PUBLIC = """
    0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.9.9.9 168.63.129.16 169.254.169.254 172.16.0.1
    192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255
    :: ::1 fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 fec0::1 ff02::1 100::1 2001:db8::1 4000::1
    ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1 ::ffff:0:127.0.0.1 64:ff9b::7f00:1 64:ff9b:1::7f00:1
    2002:7f00:1:: 2002:a00:1::1 2001:0:4136:e378:8000:63bf:3fff:fdd2
"""
SPELLINGS = """
    127.0.0.1 localhost LocalHost 2130706433 0x7f.1 0177.0.0.1 127.1 0 [::1] [::ffff:127.0.0.1] １２７.0.0.1
    127。0。0。1 169.254.169.254 [fe80::1] 10.0.0.1
"""


@pytest.mark.parametrize(
    ("address", "public"),
    [
        (PUBLIC, True),
        ("2606:2800:220:1::1", True),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::5db8:d822", True),  # 93.184.216.34
        ("2002:5db8:d822::1", True),
        *((address, False) for address in NOT_PUBLIC.split()),
    ],
)
def test_public_addresses(address, public):
    assert is_public(address) is public


@pytest.mark.parametrize("block", SPECIAL.split())
def test_no_address_of_a_special_block_is_public(block) -> None:
    network = ipaddress.ip_network(block)
    if block == "::ffff:0:0/96":
        assert not is_public("::ffff:10.0.0.1")
        return
    some = {0, network.num_addresses - 1, network.num_addresses // 2, min(1, network.num_addresses - 1)}
    assert [str(network[n]) for n in some if is_public(str(network[n]))] == []


@pytest.mark.parametrize("host", SPELLINGS.split())
def test_private_host_in_every_spelling_is_refused(server, host):
    failed = failure(f"http://{host}:{server.port}/photo.jpg")
    assert (failed.code, failed.transient) == (Code.FORBIDDEN_URI, False)
    assert "which is not public; " + setting("allow_private_addresses", True) in failed.message
    assert not server.counts


def test_connections_are_not_shared_between_settings(server):
    assert fetch(server.url("/photo.jpg"), LOOPBACK).data == JPEG
    assert failure(server.url("/photo.jpg")).code == Code.FORBIDDEN_URI


def test_connects_to_the_address_that_was_checked(server, make_internet):
    internet = make_internet(photos_example=["10.0.0.1", "::1", PUBLIC])
    assert internet.get("http://photos.example/photo.jpg") == Fetched(JPEG, "image/jpeg")
    assert internet.looked_up == ["photos.example"]
    assert internet.connected == [PUBLIC]
    assert server.headers[0]["host"] == "photos.example"


def test_name_that_changes_its_address_is_checked_each_time(server, make_internet):
    internet = make_internet(photos_example=[PUBLIC])
    internet.get("http://photos.example/photo.jpg")
    internet.names["photos.example"] = ["192.168.0.1"]
    assert failure("http://photos.example:81/photo.jpg", get=internet.get).code == Code.FORBIDDEN_URI


def test_second_address_is_tried_if_the_first_does_not_answer(server, make_internet, make_client):
    internet = make_internet(photos_example=["93.184.216.33", PUBLIC])
    connect = internet.connect

    def refuse_first(address, port, timeout):
        stream = connect(address, port, timeout)
        if address != PUBLIC:
            stream.close()
            raise httpcore.ConnectError("refused")
        return stream

    client = make_client(resolve=internet.resolve, connect=refuse_first)
    assert client.get("http://photos.example/photo.jpg", STRICT).data == JPEG
    assert internet.connected == ["93.184.216.33", PUBLIC]


def test_tls_uses_the_name_not_the_address(make_client):
    asked = []

    class Stream(httpcore.NetworkStream):
        def start_tls(self, ssl_context, server_hostname=None, timeout=None):
            asked.append(server_hostname)
            raise httpcore.ConnectError("enough")

        def close(self):
            pass

    client = make_client(resolve=lambda host, port: [PUBLIC], connect=lambda *args: Stream())
    failure("https://photos.example/", FetchPolicy(retries=0), get=client.get)
    assert asked == ["photos.example"]


def test_unknown_host_name(monkeypatch):
    def unknown(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    failed = failure("http://photos.example/", FetchPolicy(retries=0))
    assert (failed.code, failed.transient) == (Code.FETCH_FAILED, True)
    assert "could not be resolved: Name or service not known" in failed.message


def test_hanging_resolver_ends_at_the_deadline(make_client):
    release = threading.Event()
    client = make_client(resolve=lambda host, port: [PUBLIC] if release.wait(60) else [])
    failed = failure("http://photos.example/", FetchPolicy(timeout_s=0.2), get=client.get)
    release.set()
    assert failed.transient
    assert "took longer than fetch_timeout_s=0.2" in failed.message


@pytest.mark.parametrize(
    ("url", "host", "port", "target"),
    [
        ("HTTP://Photos.Example", "photos.example", 80, "/"),
        ("https://photos.example/a b/ü%20%zz?q=é 1#end", "photos.example", 443, "/a%20b/%C3%BC%20%25zz?q=%C3%A9%201"),
        ("http://bücher.example:8080/", "xn--bcher-kva.example", 8080, "/"),
        ("http://[2606:2800:220:1::1]:81/a::b", "2606:2800:220:1::1", 81, "/a::b"),
    ],
)
def test_web_address(url, host, port, target):
    address = WebAddress.parse(url)
    assert (address.host, address.port, address.target) == (host, port, target)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http:///a.jpg", Code.MALFORMED),
        ("http:a.jpg", Code.MALFORMED),
        ("http://photos.example:0/", Code.MALFORMED),
        ("http://photos.example:99999/", Code.MALFORMED),
        ("http://photos example/", Code.MALFORMED),
        ("http://%31%32%37.0.0.1/", Code.MALFORMED),
        ("http://[::1/", Code.MALFORMED),
        ("http://[fe80::1%25eth0]/", Code.MALFORMED),
        ("http://photos.example/\ud800", Code.MALFORMED),
        (f"http://{'a' * 64}.example/", Code.MALFORMED),
        ("http://me:secret@photos.example/", Code.FORBIDDEN_URI),
        ("http://photos.example\\@127.0.0.1/", Code.FORBIDDEN_URI),
    ],
    ids=lambda value: str(value).encode("ascii", "replace").decode(),
)
def test_invalid_url(url, code):
    failed = failure(url, FetchPolicy(retries=0))
    assert failed.code == code
    assert "secret" not in failed.message


# http: redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect(server, status):
    assert fetch(server.url(f"/redirect?to=/photo.jpg&status={status}"), LOOPBACK).data == JPEG


def test_redirects_are_counted(server):
    assert fetch(server.url("/hops/5"), LOOPBACK).data == JPEG
    for path in ("/hops/6", "/loop"):
        failed = failure(server.url(path), LOOPBACK)
        assert (failed.code, failed.transient) == (Code.FETCH_FAILED, False)
        assert "more than max_redirects=5" in failed.message
    assert server.counts["/loop"] == 6


@pytest.mark.parametrize(
    "target",
    [
        *("http://intern.example/", "http://127.0.0.1/", "http://[::ffff:10.0.0.1]/", "//0/", "HTTP://2130706433/"),
        *("http://[64:ff9b::a00:1]/", "http://[2002:a00:1::]/", "http://127.1/", "//intern.example:443/"),
        "http://intern.example%23@photos.example/",
    ],
)
def test_redirect_to_a_private_address(server, make_internet, target):
    internet = make_internet(photos_example=[PUBLIC], intern_example=["10.0.0.1"])
    failed = failure(f"http://photos.example/redirect?to={target}", get=internet.get)
    assert failed.code == Code.FORBIDDEN_URI
    assert "redirected to" in failed.message
    assert internet.connected == [PUBLIC]


@pytest.mark.parametrize(
    "target",
    [
        *("file:///etc/hostname", "data:,hello", "s3://bucket/a", "local:/etc/hostname", "FILE:/etc/hostname"),
        *("gs://bucket/a", "ftp://host/a", "gopher://127.0.0.1:11211/_stats", "memory://a", "jar:file:///a!/"),
        *("unix:/run/docker.sock", "http%2Bunix://%252Frun%252Fdocker.sock/", "javascript:1", "simplecache::file:///a"),
    ],
)
def test_redirect_to_another_scheme(server, target):
    failed = failure(server.url(f"/redirect?to={target}"), LOOPBACK)
    assert failed.code == Code.FORBIDDEN_URI
    assert "redirects may only go to http and https" in failed.message


@pytest.mark.parametrize(
    ("target", "code"),
    [("http://[::1", Code.MALFORMED), ("http://me:secret@photos.example/", Code.FORBIDDEN_URI)],
)
def test_redirect_to_a_bad_url(server, target, code):
    failed = failure(server.url(f"/redirect?to={target}"), LOOPBACK)
    assert failed.code == code
    assert "secret" not in failed.message


def test_redirect_without_location(server):
    failed = failure(server.url("/status/302"), LOOPBACK)
    assert (failed.code, failed.transient) == (Code.FETCH_FAILED, False)


def test_redirect_keeps_to_the_allowed_schemes(server):
    policy = FetchPolicy(schemes=("http",), allow_private_addresses=True)
    failed = failure(server.url("/redirect?to=https://photos.example/"), policy)
    assert "redirects may only go to http" in failed.message
