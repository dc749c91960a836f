"""Every way to fetch a URI: what comes back, what is refused, and under which code."""

import base64
import functools
import os
import pickle
import socket
import subprocess
import sys
import threading
import zlib

import fsspec
import httpcore
import pytest
from http_server import JPEG, LoopbackServer

from clipmill.encoders.errors import ClipmillError, MissingExtraError, SpecError
from clipmill.encoders.failure import Code, RowError, Stage
from clipmill.encoders.media import fetch as fetch_module
from clipmill.encoders.media import uri as uri_module
from clipmill.encoders.media.fetch import Fetched, FetchPolicy, fetch, inflate
from clipmill.encoders.media.uri import WebAddress, is_public, scheme_of, shown
from clipmill.encoders.media.web import HttpClient, resolve

STRICT = FetchPolicy()
LOCAL = FetchPolicy(allow_local_files=True)
# Retries without the pauses between them are tested by a client whose `sleep` is a list's append.
LOOPBACK = FetchPolicy(allow_private_addresses=True, retries=0)
PUBLIC = "93.184.216.34"


@pytest.fixture(autouse=True)
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
    return shared_server


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


# Policy and imports


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schemes": "s3"}, r"uri_schemes is the text 's3'"),
        ({"schemes": ("s3://",)}, r"uri_schemes holds 's3://'"),
        ({"schemes": ("FILE",)}, r"allow_local_files=True"),
        ({"timeout_s": 0}, r"timeout_s is 0; it must be more than 0 seconds"),
        ({"max_bytes": 0}, r"max_bytes is 0; it must be at least 1"),
        ({"retries": -1}, r"retries is -1"),
    ],
    ids=str,
)
def test_policy_is_checked_when_it_is_made(options, message):
    with pytest.raises(SpecError, match=message):
        FetchPolicy(**options)


def test_policy_travels_and_its_schemes_have_no_case():
    policy = FetchPolicy(schemes=("HTTPS", "Memory"))
    assert policy.schemes == ("https", "memory")
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_import_loads_no_client():
    code = (
        "import sys, clipmill.encoders.media.fetch\n"
        "print([name for name in ('httpcore', 'fsspec', 'torch', 'ssl', 'urllib.request') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Local files


@pytest.mark.parametrize("spelling", ["plain", "relative", "file", "one-slash", "localhost", "upper-case", "raw"])
def test_local_file_in_every_spelling(photo, spelling, monkeypatch):
    monkeypatch.chdir(photo.parent)
    quoted = str(photo).replace(" ", "%20").replace("#", "%23")
    uri = {
        "plain": str(photo),
        "relative": photo.name,
        "file": f"file://{quoted}",
        "one-slash": f"file:{quoted}",
        "localhost": f"file://localhost{quoted}",
        "upper-case": f"FILE://{quoted}",
        "raw": f"file://{photo}",
    }[spelling]
    assert fetch(uri, STRICT, trusted=True) == Fetched(JPEG, None)
    assert fetch(uri, LOCAL) == Fetched(JPEG, None)
    refused = failure(uri)
    assert refused.code == Code.FORBIDDEN_URI
    assert "allow_local_files=True" in refused.message


@pytest.mark.parametrize(
    "uri", ["/etc/hostname", "local:///etc/hostname", "LOCAL:/etc/hostname", "file:///etc/hostname"]
)
def test_no_spelling_gets_a_document_past_the_rule_for_local_files(uri):
    assert failure(uri).code == Code.FORBIDDEN_URI


@pytest.mark.parametrize(
    ("uri", "code", "message"),
    [
        ("file://server/share/a.jpg", Code.FORBIDDEN_URI, "host 'server'"),
        ("file:a.jpg", Code.MALFORMED, "no absolute path"),
        ("file:///a%00b.jpg", Code.MALFORMED, "no absolute path"),
        ("/no/such/file.jpg", Code.NOT_FOUND, "no such file"),
        ("/etc/hostname/a.jpg", Code.NOT_FOUND, "no such file"),
        ("/tmp", Code.FETCH_FAILED, "a directory; only regular files are read"),
        ("/dev/zero", Code.FETCH_FAILED, "a device; only regular files are read"),
        ("/" + "a" * 300, Code.FETCH_FAILED, "file name too long"),
        ("/a\nb.jpg", Code.MALFORMED, r"character '\n' at position 2"),
        ("/a\ud800b.jpg", Code.MALFORMED, "not valid Unicode"),
        ("", Code.EMPTY, "empty"),
    ],
    ids=lambda value: str(value)[:20].encode("ascii", "replace").decode(),
)
def test_local_file_that_cannot_be_read(uri, code, message):
    failed = failure(uri, LOCAL)
    assert (failed.code, failed.transient) == (code, False)
    assert message in failed.message


def test_local_file_may_have_any_name_where_the_reader_listed_it(tmp_path):
    path = tmp_path / "a\nb.jpg"
    path.write_bytes(JPEG)
    assert fetch(str(path), STRICT, trusted=True).data == JPEG
    assert failure("/a\0b", trusted=True).code == Code.MALFORMED


def test_named_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "a named pipe" in failure(str(tmp_path / "pipe"), LOCAL).message


def test_file_without_permission(photo, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # chmod does not keep root out
    failed = failure(str(photo), LOCAL)
    assert (failed.code, failed.transient) == (Code.FETCH_FAILED, False)
    assert failed.message.endswith("cannot be read: permission denied")


def test_size_of_a_local_file(photo):
    exact = FetchPolicy(allow_local_files=True, max_bytes=len(JPEG))
    assert fetch(str(photo), exact).data == JPEG
    failed = failure(str(photo), FetchPolicy(allow_local_files=True, max_bytes=len(JPEG) - 1))
    assert (failed.code, failed.transient) == (Code.TOO_LARGE, False)
    assert f"{len(JPEG)} bytes, more than max_fetch_bytes={len(JPEG) - 1}" in failed.message


def test_file_that_hides_its_size_is_bounded_too():
    """Files in /proc say that they are empty."""
    assert failure("/proc/self/status", FetchPolicy(max_bytes=10), trusted=True).code == Code.TOO_LARGE


# data: URIs


@pytest.mark.parametrize(
    ("uri", "data", "media_type"),
    [
        ("data:image/jpeg;base64," + base64.b64encode(JPEG).decode(), JPEG, "image/jpeg"),
        ("DATA:Image/JPEG;BASE64," + base64.b64encode(JPEG).decode().rstrip("="), JPEG, "image/jpeg"),
        ("data:;base64,-_8", b"\xfb\xff", "text/plain"),
        ("data:a/b; charset=x ; base64,+/8=", b"\xfb\xff", "a/b"),
        ("data:a/b;base64,YW\r\n Jj%20ZA%3D%3D", b"abcd", "a/b"),
        ("data:a/b;base64,", b"", "a/b"),
        ("data:,a%20b+c%", b"a b+c%", "text/plain"),
        ("data:text/plain;charset=utf-8,caf%C3%A9 é, and so on", "café é, and so on".encode(), "text/plain"),
        ("data:nonsense,a", b"a", None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_data_uri(uri, data, media_type):
    assert fetch(uri, STRICT) == Fetched(data, media_type)


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("data:image/png;base64", Code.MALFORMED),
        ("data:,\ud800", Code.MALFORMED),
        ("data:;base64,abcde", Code.UNDECODABLE),
        ("data:;base64,ab!d", Code.UNDECODABLE),
        ("data:;base64,a=bc", Code.UNDECODABLE),
        ("data:;base64,YQ===", Code.UNDECODABLE),
    ],
    ids=lambda value: str(value).encode("ascii", "replace").decode(),
)
def test_damaged_data_uri(uri, code):
    assert failure(uri).code == code


@pytest.mark.parametrize("uri", ["data:,12345", "data:;base64,MTIzNDU=", "data:," + "%31" * 5, "data:," + "%" * 500])
def test_data_uri_is_measured_before_it_is_decoded(uri, monkeypatch):
    def decode(*args, **options):
        raise AssertionError("decoded")

    monkeypatch.setattr(uri_module.binascii, "a2b_base64", decode)
    failed = failure(uri, FetchPolicy(max_bytes=4))
    assert failed.code == Code.TOO_LARGE
    assert failed.message == f"'{uri.partition(',')[0]},…' ({len(uri)} characters): holds more than max_fetch_bytes=4"


def test_data_uri_fits_exactly():
    assert fetch("data:;base64,%4D%54%49%7A%4E%41%3D%3D", FetchPolicy(max_bytes=4)).data == b"1234"
    assert fetch("data:,%31%32%33%34", FetchPolicy(max_bytes=4)).data == b"1234"


# What URIs are allowed, and how messages show them


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [("photo:1.jpg", "photo"), ("C:\\a.jpg", "c"), ("./photo:1.jpg", None), ("GS://b/a", "gs"), ("a/b:c", None)],
)
def test_scheme(uri, scheme):
    assert scheme_of(uri) == scheme


@pytest.mark.parametrize("uri", ["photo:1.jpg", "C:\\a.jpg", "ftp://host/a.jpg", "github://o:r@main/a", "sftp://h/a"])
def test_scheme_that_is_not_listed(uri):
    failed = failure(uri, LOCAL)
    assert failed.code == Code.FORBIDDEN_URI
    assert "allowed are http, https, data, gs, s3, az, abfs, others by the option uri_schemes" in failed.message


def test_every_scheme_can_be_taken_away():
    policy = FetchPolicy(schemes=())
    for uri in ("data:,a", "http://photos.example/", "s3://bucket/a"):
        assert "allowed are none" in failure(uri, policy).message


@pytest.mark.parametrize("uri", ["http://photos.example/a\r\nX-Evil: 1", "s3://bucket/a\0", "gs://bucket/\x7f"])
def test_control_characters(uri):
    failed = failure(uri)
    assert failed.code == Code.MALFORMED
    assert failed.message.isprintable()


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("https://me:secret@host/a@b.jpg", "'https://…@host/a@b.jpg'"),
        (
            "https://host/a?X-Amz-Signature=abc&w=3&access_token=def",
            "'https://host/a?X-Amz-Signature=…&w=3&access_token=…'",
        ),
        ("data:image/png;base64,iVBORw0KGgo=", "'data:image/png;base64,…' (34 characters)"),
        ("/a\nb", r"'/a\nb'"),
    ],
)
def test_shown(uri, text):
    assert shown(uri) == text


def test_shown_is_short():
    assert len(shown("https://host/" + "a" * 5000 + "/end.jpg")) < 210
    assert shown("https://host/" + "a" * 5000 + "/end.jpg").endswith("/end.jpg'")


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


@pytest.mark.parametrize("host", SPELLINGS.split())
def test_private_host_in_every_spelling_is_refused(server, host):
    failed = failure(f"http://{host}:{server.port}/photo.jpg")
    assert (failed.code, failed.transient) == (Code.FORBIDDEN_URI, False)
    assert (
        "which is not a public address; allow_private_addresses=True (--allow-private-addresses) allows it"
        in failed.message
    )
    assert not server.counts


def test_one_rule_does_not_lend_its_connections_to_the_other(server):
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


def test_second_address_is_tried_where_the_first_does_not_answer(server, make_internet, make_client):
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


def test_tls_is_asked_for_the_name_not_the_address(make_client):
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


def test_name_that_nobody_knows(monkeypatch):
    def unknown(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    failed = failure("http://photos.example/", FetchPolicy(retries=0))
    assert (failed.code, failed.transient) == (Code.FETCH_FAILED, True)
    assert "could not be looked up: Name or service not known" in failed.message


def test_look_up_that_hangs_ends_at_the_deadline(make_client):
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
def test_url_that_names_no_page(url, code):
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


@pytest.mark.parametrize("target", ["http://intern.example/", "http://127.0.0.1/", "http://[::ffff:10.0.0.1]/", "//0/"])
def test_redirect_to_a_private_address(server, make_internet, target):
    internet = make_internet(photos_example=[PUBLIC], intern_example=["10.0.0.1"])
    failed = failure(f"http://photos.example/redirect?to={target}", get=internet.get)
    assert failed.code == Code.FORBIDDEN_URI
    assert "redirected to" in failed.message
    assert internet.connected == [PUBLIC]


@pytest.mark.parametrize("target", ["file:///etc/hostname", "data:,hello", "s3://bucket/a", "local:/etc/hostname"])
def test_redirect_to_another_scheme(server, target):
    failed = failure(server.url(f"/redirect?to={target}"), LOOPBACK)
    assert failed.code == Code.FORBIDDEN_URI
    assert "only http and https may be redirected to" in failed.message


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
    assert "only http may be redirected to" in failed.message


# http: answers


def test_request_names_itself_and_reuses_its_connection(server, make_internet):
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
def test_good_answers(server, path):
    assert fetch(server.url(path), LOOPBACK) == Fetched(JPEG, "image/jpeg")


@pytest.mark.parametrize("path", ["/empty", "/no-content"])
def test_empty_answers(server, path):
    assert fetch(server.url(path), LOOPBACK).data == b""


@pytest.mark.parametrize(
    ("path", "code", "transient", "message"),
    [
        ("/status/404", Code.NOT_FOUND, False, "404"),
        ("/status/410", Code.NOT_FOUND, False, "410"),
        ("/status/400", Code.FETCH_FAILED, False, "400"),
        ("/status/401", Code.FETCH_FAILED, False, "401; it wants a login"),
        ("/status/403", Code.FETCH_FAILED, False, "403"),
        ("/status/304", Code.FETCH_FAILED, False, "304"),
        ("/status/408", Code.FETCH_FAILED, True, "408"),
        ("/status/425", Code.FETCH_FAILED, True, "425"),
        ("/status/429?retry_after=7", Code.FETCH_FAILED, True, "429; the server asks to wait 7 s"),
        ("/status/500", Code.FETCH_FAILED, True, "500"),
        ("/status/503", Code.FETCH_FAILED, True, "503"),
        ("/cut-off", Code.FETCH_FAILED, True, "cut off"),
        ("/chunked-cut-off", Code.FETCH_FAILED, True, "cut off"),
        ("/declares?length=1000", Code.FETCH_FAILED, True, "cut off"),
        ("/declares?length=-1", Code.FETCH_FAILED, True, "not HTTP"),
        ("/gzip-cut-off", Code.FETCH_FAILED, True, "cut off"),
        ("/reset", Code.FETCH_FAILED, True, ""),
        ("/not-http", Code.FETCH_FAILED, True, "not HTTP"),
        ("/encoding/br", Code.FETCH_FAILED, False, "Content-Encoding 'br'"),
        ("/encoding/gzip", Code.FETCH_FAILED, False, "damaged"),
    ],
)
def test_bad_answers(server, path, code, transient, message):
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
def test_answer_that_is_too_large(server, path, message):
    policy = FetchPolicy(allow_private_addresses=True, max_bytes=100_000)
    failed = failure(server.url(path), policy)
    assert (failed.code, failed.transient) == (Code.TOO_LARGE, False)
    assert message in failed.message
    assert len(fetch(server.url("/big?bytes=100000"), policy).data) == 100_000


def test_zip_bomb_comes_out_in_bounded_pieces():
    bomb = zlib.compress(bytes(50_000_000), 9)
    pieces = [len(piece) for piece in inflate([bomb], "a test", 10**6)]
    assert sum(pieces) == 50_000_000
    assert max(pieces) <= 64 * 1024


@pytest.mark.parametrize("path", ["/slow", "/drip", "/drip-headers"])
def test_slow_server_ends_at_the_deadline(server, path):
    """Each byte of a dripping server comes in time; the whole doesn't."""
    failed = failure(server.url(path), FetchPolicy(allow_private_addresses=True, timeout_s=0.5))
    assert (failed.code, failed.transient) == (Code.FETCH_FAILED, True)
    assert "took longer than fetch_timeout_s=0.5" in failed.message
    assert server.counts[path] == 1


@pytest.mark.parametrize("path", ["/once/503", "/once/429", "/once/502", "/once/504", "/cut-off-once"])
def test_failure_that_passes_is_tried_again(server, make_internet, path):
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


def test_what_lasts_is_not_tried_again(server, make_internet):
    internet = make_internet(allow_private_addresses=True)
    for path in ("/status/404", "/status/403", "/encoding/br"):
        failure(server.url(path), get=internet.get)
    assert set(server.counts.values()) == {1}
    assert internet.slept == []


@pytest.mark.parametrize("retry_after", ["9", "Wed, 21 Oct 2015 07:28:00 GMT", "nonsense"])
def test_server_says_how_long_to_wait(server, make_internet, retry_after):
    internet = make_internet(allow_private_addresses=True)
    assert internet.get(server.url(f"/once/429?retry_after={retry_after}").replace(" ", "%20")).data == JPEG
    assert internet.slept == [9.0] if retry_after == "9" else internet.slept[0] < 1
    server.counts.clear()


def test_server_that_asks_for_more_time_than_there_is(server, make_internet):
    internet = make_internet(allow_private_addresses=True)
    failed = failure(server.url("/status/503?retry_after=3600"), get=internet.get)
    assert "the server asks to wait 3600 s" in failed.message
    assert internet.slept == []
    assert server.counts["/status/503"] == 1


# http: proxies, processes, threads


def test_proxy_is_asked_and_said(server, make_internet, monkeypatch, caplog):
    monkeypatch.setenv("HTTP_PROXY", f"http://me:p%40ss@127.0.0.1:{server.port}")
    internet = make_internet()
    assert internet.get("http://photos.example/photo.jpg").data == JPEG
    assert internet.get("http://photos.example:8080/photo.jpg").data == JPEG
    assert server.targets == ["http://photos.example:80/photo.jpg", "http://photos.example:8080/photo.jpg"]
    assert internet.looked_up == ["127.0.0.1"] * len(internet.looked_up)
    credentials = base64.b64encode(b"me:p@ss").decode()
    assert server.headers[0]["proxy-authorization"] == f"Basic {credentials}"
    assert [record.getMessage() for record in caplog.records] == [
        "a proxy fetches http:// and looks names up itself: it is trusted to refuse private addresses"
    ]


def test_proxy_never_gets_private_numbers(server, make_internet, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", f"127.0.0.1:{server.port}")
    internet = make_internet()
    for host in ("127.0.0.1", "localhost", "10.0.0.1", "0xa9fea9fe", "[::ffff:10.0.0.1]"):
        assert failure(f"http://{host}/", get=internet.get).code == Code.FORBIDDEN_URI
    assert not server.counts


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
    assert "the proxy refuses: 403" in failed.message
    assert server.targets == ["photos.example:443"]


def test_proxy_of_another_kind(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:secret@127.0.0.1:1080")
    with pytest.raises(ClipmillError, match="only http") as caught:
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


def test_fork_gets_a_client_of_its_own(server):
    """Even where another thread was just making one."""
    code = f"""
import os
from clipmill.encoders.media import fetch

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


# Object stores, by the file systems of fsspec

MEMORY = FetchPolicy(schemes=("memory",), max_bytes=1000)


@pytest.fixture
def store():
    file_system = fsspec.filesystem("memory")
    file_system.pipe("/bucket/photo.jpg", JPEG)
    file_system.pipe("/bucket/empty.jpg", b"")
    file_system.pipe("/bucket/large.jpg", bytes(1001))
    yield file_system
    file_system.rm("/bucket", recursive=True)


def test_object(store):
    assert fetch("memory://bucket/photo.jpg", MEMORY) == Fetched(JPEG, None)
    assert fetch("MEMORY://bucket/photo.jpg", MEMORY).data == JPEG
    assert fetch("memory://bucket/empty.jpg", MEMORY).data == b""
    assert fetch("memory://bucket/photo.jpg", STRICT, trusted=True).data == JPEG
    assert failure("memory://bucket/photo.jpg").code == Code.FORBIDDEN_URI


def test_object_that_is_missing_or_too_large(store):
    assert failure("memory://bucket/none.jpg", MEMORY).code == Code.NOT_FOUND
    failed = failure("memory://bucket/large.jpg", MEMORY)
    assert (failed.code, failed.transient) == (Code.TOO_LARGE, False)
    assert "more than max_fetch_bytes=1000" in failed.message


def test_object_whose_size_nobody_knows_is_bounded_too(store, monkeypatch):
    class Unsized:
        def __init__(self, *args, **options):
            self.asked = []

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def read(self, size):
            assert size == 1001
            return bytes(size)

    monkeypatch.setattr(type(store), "open", Unsized)
    assert failure("memory://bucket/photo.jpg", MEMORY).code == Code.TOO_LARGE


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    "uri", ["simplecache::file:///etc/hostname", "filecache::memory://bucket/a", "memory://a::file:///etc/hostname"]
)
def test_chains_are_refused(uri, trusted):
    policy = FetchPolicy(schemes=("memory", "simplecache", "filecache"))
    assert failure(uri, policy, trusted=trusted).code == Code.FORBIDDEN_URI


def test_scheme_that_no_file_system_has():
    failed = failure("photo:1.jpg", trusted=True)
    assert failed.code == Code.FORBIDDEN_URI
    assert "no file system is known for the scheme 'photo'" in failed.message


@pytest.mark.parametrize(
    ("error", "code", "transient"),
    [
        (FileNotFoundError("a"), Code.NOT_FOUND, False),
        (PermissionError("Forbidden"), Code.FETCH_FAILED, False),
        (IsADirectoryError("a"), Code.FETCH_FAILED, False),
        (TimeoutError(), Code.FETCH_FAILED, True),
        (ConnectionResetError(104, "reset"), Code.FETCH_FAILED, True),
        (OSError(16, "please reduce your request rate"), Code.FETCH_FAILED, True),
        (OSError(22, "invalid"), Code.FETCH_FAILED, False),
        (type("NoCredentialsError", (Exception,), {})("none"), Code.FETCH_FAILED, False),
        (type("ClientPayloadError", (Exception,), {})("not completed"), Code.FETCH_FAILED, True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_errors_of_drivers(store, monkeypatch, error, code, transient):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(type(store), "open", fail)
    failed = failure("memory://bucket/photo.jpg", MEMORY)
    assert (failed.code, failed.transient) == (code, transient)


def test_driver_that_hangs_ends_at_the_deadline(store, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(type(store), "open", lambda *args, **options: release.wait(60))
    failed = failure("memory://bucket/photo.jpg", FetchPolicy(schemes=("memory",), timeout_s=0.2))
    release.set()
    assert failed.transient
    assert "took longer than fetch_timeout_s=0.2" in failed.message


def test_driver_that_hangs_when_it_is_made_ends_at_the_deadline(store, monkeypatch):
    """Some look for credentials then, and ask a server that is not there."""
    release = threading.Event()
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda *args, **options: release.wait(60))
    failed = failure("memory://bucket/photo.jpg", FetchPolicy(schemes=("memory",), timeout_s=0.2))
    release.set()
    assert failed.transient
    assert "took longer than fetch_timeout_s=0.2" in failed.message


@pytest.mark.parametrize(
    ("uri", "package", "extra"),
    [("s3://bucket/a", "s3fs", "remote"), ("gs://bucket/a", "gcsfs", "gcp"), ("abfs://c@a/b", "adlfs", "remote")],
)
def test_driver_that_is_not_installed_fails_a_strangers_row_and_a_job_of_its_own(monkeypatch, uri, package, extra):
    def missing(scheme):
        raise ImportError(f"Install {package}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    failed = failure(uri, STRICT)
    assert (failed.code, failed.transient) == (Code.UNSUPPORTED, False)
    assert f"needs '{package}', which is not installed: pip install 'clipmill[{extra}]'" in failed.message
    failed = failure("sftp://host/a", FetchPolicy(schemes=("sftp",)))
    assert failed.code == Code.UNSUPPORTED and "the scheme 'sftp' needs a package" in failed.message
    with pytest.raises(MissingExtraError, match=rf"needs '{package}'.*clipmill\[{extra}\]"):
        fetch(uri, STRICT, trusted=True)
    with pytest.raises(ClipmillError, match="the scheme 'sftp' needs a package"):
        fetch("sftp://host/a", STRICT, trusted=True)


def test_a_host_name_beyond_ascii_without_the_package_for_it_fails_a_row(monkeypatch):
    monkeypatch.setitem(sys.modules, "idna", None)
    failed = failure("http://b\u00fccher.example/", STRICT)
    assert failed.code == Code.UNSUPPORTED and "pip install 'clipmill[remote]'" in failed.message


@pytest.mark.parametrize(("trusted", "error"), [(False, "RowError"), (True, "MissingExtraError")])
def test_http_client_that_is_not_installed_fails_a_strangers_row_and_a_job_of_its_own(trusted, error):
    code = (
        "import sys; sys.modules['httpcore'] = None\n"
        "from clipmill.encoders.media.fetch import FetchPolicy, fetch\n"
        f"try: fetch('http://photos.example/', FetchPolicy(), trusted={trusted})\n"
        "except Exception as err: print(type(err).__name__, err)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(error)
    assert "needs 'httpcore', which is not installed: pip install 'clipmill[remote]'" in done.stdout
