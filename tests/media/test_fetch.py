"""Fetching URIs other than http(s): content, refusals and their codes."""

import base64
import os
import pickle
import subprocess
import sys

import pytest
from fetch_helpers import LOCAL, STRICT, failure
from http_server import JPEG

from clipmill.errors import SpecError
from clipmill.failures import Code
from clipmill.media import uri as uri_module
from clipmill.media.fetch import Fetched, FetchPolicy, fetch
from clipmill.media.uri import scheme_of, shown

pytest_plugins = ["fetch_helpers"]
pytestmark = pytest.mark.usefixtures("no_proxy")


# Policy and imports


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schemes": "s3"}, r"uri_schemes is the text 's3'"),
        ({"schemes": ("s3://",)}, r"uri_schemes holds 's3://'"),
        ({"schemes": ("FILE",)}, r"allow_local_files=True"),
        ({"buckets": ("photos",)}, r"allow_buckets holds 'photos'"),
        ({"buckets": ("gs://photos/2026",)}, r"allow_buckets holds 'gs://photos/2026'"),
        ({"buckets": ("https://photos",)}, r"allow_buckets holds 'https://photos'"),
        ({"buckets": ("gs://*",)}, r"allow_buckets holds 'gs://\*'"),
        ({"buckets": "gs://a,"}, r"allow_buckets holds ''"),
        ({"buckets": (5,)}, r"allow_buckets holds 5"),
        ({"timeout_s": 0}, r"timeout_s is 0; it must be more than 0 seconds"),
        ({"max_bytes": 0}, r"max_bytes is 0; it must be at least 1"),
        ({"retries": -1}, r"retries is -1"),
    ],
    ids=str,
)
def test_policy_is_validated_when_created(options, message):
    with pytest.raises(SpecError, match=message):
        FetchPolicy(**options)


def test_policy_pickles_and_its_schemes_are_case_insensitive():
    policy = FetchPolicy(schemes=("HTTPS", "Memory"), buckets="GS://Photos/,s3a://mirror")
    assert policy.schemes == ("https", "memory")
    assert policy.buckets == ("gs://Photos", "s3://mirror")
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_import_loads_no_client():
    code = (
        "import sys, clipmill.media.fetch\n"
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
def test_documents_cannot_name_local_files_in_any_spelling(uri):
    assert failure(uri).code == Code.FORBIDDEN_URI


@pytest.mark.parametrize(
    ("uri", "code", "message"),
    [
        ("file://server/share/a.jpg", Code.FORBIDDEN_URI, "host 'server'"),
        ("file:a.jpg", Code.MALFORMED, "not absolute"),
        ("file:///a%00b.jpg", Code.MALFORMED, "not absolute"),
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


def test_local_file_listed_by_the_reader_may_have_any_name(tmp_path):
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


def test_file_that_reports_no_size_is_bounded():
    """Files in /proc report a size of 0."""
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
def test_size_of_data_uri_is_checked_before_decoding(uri, monkeypatch):
    def decode(*args, **options):
        raise AssertionError("decoded")

    monkeypatch.setattr(uri_module.binascii, "a2b_base64", decode)
    failed = failure(uri, FetchPolicy(max_bytes=4))
    assert failed.code == Code.TOO_LARGE
    assert failed.message == f"'{uri.partition(',')[0]},…' ({len(uri)} characters): holds more than max_fetch_bytes=4"


def test_data_uri_fits_exactly():
    assert fetch("data:;base64,%4D%54%49%7A%4E%41%3D%3D", FetchPolicy(max_bytes=4)).data == b"1234"
    assert fetch("data:,%31%32%33%34", FetchPolicy(max_bytes=4)).data == b"1234"


# Allowed URIs, and how messages show them


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
    assert "allowed are http, https, data, others by the option uri_schemes" in failed.message


def test_every_scheme_can_be_disallowed():
    policy = FetchPolicy(schemes=())
    for uri in ("data:,a", "http://photos.example/", "memory://bucket/a"):
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
