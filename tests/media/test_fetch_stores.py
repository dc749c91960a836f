"""Objects in stores, through fsspec, and missing drivers."""

import subprocess
import sys
import threading

import fsspec
import pytest
from fetch_helpers import STRICT, failure
from http_server import JPEG

from clipmill.errors import ClipmillError, MissingExtraError
from clipmill.failures import Code, RowError
from clipmill.files.drivers import DRIVERS
from clipmill.media.buckets import bucket_of
from clipmill.media.fetch import Fetched, FetchPolicy, fetch

pytest_plugins = ["fetch_helpers"]
pytestmark = pytest.mark.usefixtures("no_proxy")


MEMORY = FetchPolicy(schemes=("memory",), max_bytes=1000, retries=0)


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


def test_parts_of_files_and_objects(store, tmp_path):
    """As the files in an archive are read; within the limits, and nowhere else."""
    (tmp_path / "a.tar").write_bytes(bytes(2000) + JPEG)
    store.pipe("/bucket/a.tar", bytes(2000) + JPEG)
    span = (2000, len(JPEG))
    small = FetchPolicy(schemes=("memory",), max_bytes=len(JPEG), retries=0)
    for uri in (str(tmp_path / "a.tar"), "memory://bucket/a.tar"):
        assert fetch(uri, small, trusted=True, span=span).data == JPEG
        assert fetch(uri, small, trusted=True, span=(5, 0)).data == b""
        for bad, code in [((2001, len(JPEG)), "changed"), ((0, len(JPEG) + 1), "too_large"), ((-1, 1), "malformed")]:
            with pytest.raises(RowError) as caught:
                fetch(uri, small, trusted=True, span=bad)
            assert caught.value.failure.code == code
    for uri in ("data:,abc", "https://example.com/a.tar"):
        with pytest.raises(RowError, match="parts are read of local files"):
            fetch(uri, small, trusted=True, span=span)
    with pytest.raises(RowError, match="allow_local_files"):
        fetch(str(tmp_path / "a.tar"), small, span=span)


def test_object_that_is_missing_or_too_large(store):
    assert failure("memory://bucket/none.jpg", MEMORY).code == Code.NOT_FOUND
    failed = failure("memory://bucket/large.jpg", MEMORY)
    assert (failed.code, failed.transient) == (Code.TOO_LARGE, False)
    assert "more than max_fetch_bytes=1000" in failed.message


def test_object_of_unknown_size_is_bounded(store, monkeypatch):
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


def test_scheme_without_a_file_system():
    failed = failure("photo:1.jpg", trusted=True)
    assert failed.code == Code.FORBIDDEN_URI
    assert "fsspec has no file system for the scheme 'photo'" in failed.message


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


def test_hanging_driver_ends_at_the_deadline(store, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(type(store), "open", lambda *args, **options: release.wait(60))
    failed = failure("memory://bucket/photo.jpg", FetchPolicy(schemes=("memory",), timeout_s=0.2))
    release.set()
    assert failed.transient
    assert "took longer than fetch_timeout_s=0.2" in failed.message


def test_driver_that_hangs_when_created_ends_at_the_deadline(store, monkeypatch):
    """Some drivers ask a server for credentials when they are created, which may not answer."""
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
def test_missing_driver_fails_the_row_of_an_untrusted_uri_and_the_job_of_a_trusted_one(
    monkeypatch, uri, package, extra
):
    def missing(scheme):
        raise ImportError(f"Install {package}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    failed = failure(uri, FetchPolicy(buckets=bucket_of(uri)))
    assert (failed.code, failed.transient) == (Code.UNSUPPORTED, False)
    assert f"needs '{package}', which is not installed: pip install 'clipmill[{extra}]'" in failed.message
    failed = failure("sftp://host/a", FetchPolicy(schemes=("sftp",)))
    assert failed.code == Code.UNSUPPORTED and "the scheme 'sftp' needs a package" in failed.message
    with pytest.raises(MissingExtraError, match=rf"needs '{package}'.*clipmill\[{extra}\]"):
        fetch(uri, STRICT, trusted=True)
    with pytest.raises(ClipmillError, match="the scheme 'sftp' needs a package"):
        fetch("sftp://host/a", STRICT, trusted=True)


def test_non_ascii_host_name_without_idna_fails_a_row(monkeypatch):
    monkeypatch.setitem(sys.modules, "idna", None)
    failed = failure("http://b\u00fccher.example/", STRICT)
    assert failed.code == Code.UNSUPPORTED and "pip install 'clipmill[remote]'" in failed.message


@pytest.mark.parametrize(("trusted", "error"), [(False, "RowError"), (True, "MissingExtraError")])
def test_missing_http_client_fails_the_row_of_an_untrusted_uri_and_the_job_of_a_trusted_one(trusted, error):
    code = (
        "import sys; sys.modules['httpcore'] = None\n"
        "from clipmill.media.fetch import FetchPolicy, fetch\n"
        f"try: fetch('http://photos.example/', FetchPolicy(), trusted={trusted})\n"
        "except Exception as err: print(type(err).__name__, err)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(error)
    assert "needs 'httpcore', which is not installed: pip install 'clipmill[remote]'" in done.stdout


@pytest.fixture
def opened(monkeypatch):
    """The URIs that reach a driver, as the driver reads them; it then says that there is no such object."""
    seen = []

    def url_to_fs(uri, **options):
        driver = fsspec.get_filesystem_class(uri.partition(":")[0])
        seen.append(driver._strip_protocol(uri).lstrip("/"))
        raise FileNotFoundError(uri)

    monkeypatch.setattr(fsspec.core, "url_to_fs", url_to_fs)
    return seen


AZURE = "photos@account.dfs.core.windows.net"


STORES = [scheme for scheme in DRIVERS if scheme != "hf"]  # which tests/datasets/test_hub_files.py tries


@pytest.mark.parametrize("scheme", STORES)
def test_object_stores_are_read_only_by_permission(opened, scheme):
    """The drivers find the credentials of this process, which the author of a document does not have."""
    for policy in (STRICT, FetchPolicy(buckets=[f"{one}://other" for one in STORES])):
        failed = failure(f"{scheme}://photos/1.jpg", policy)
        assert failed.code == Code.FORBIDDEN_URI and not failed.transient and not opened
        assert f"allow_buckets='{bucket_of(f'{scheme}://photos/')}'" in failed.message
    for policy in (FetchPolicy(buckets=f"{scheme}://photos"), FetchPolicy(schemes=(scheme,))):
        assert failure(f"{scheme}://photos/a b/1.jpg", policy).code == Code.NOT_FOUND
        assert failure(f"{scheme.upper()}://photos/1.jpg", policy).code == Code.NOT_FOUND
    assert opened == ["photos/a b/1.jpg", "photos/1.jpg"] * 2
    with pytest.raises(RowError, match="no such file"):
        fetch(f"{scheme}://photos/1.jpg", STRICT, trusted=True)


@pytest.mark.parametrize(
    "rest",
    [
        *("photos2/1.jpg", "Photos/1.jpg", "photos.example/1.jpg", "other/photos/1.jpg", "x@photos/1.jpg"),
        *("photos@/1.jpg", "photos@other/1.jpg", f"{AZURE}/1.jpg", "photos.dfs.core.windows.net/other/1.jpg"),
        *("/photos/1.jpg", "//photos/1.jpg", "photos:80/1.jpg", "photos:x@other/1.jpg", "photos%2f/1.jpg"),
        *("photos/../other/1.jpg", "photos/./1.jpg", "photos/a/..", "../photos/1.jpg", "./photos/1.jpg"),
        *(
            "photos?/1.jpg",
            "photos#/1.jpg",
            "photos\\other/1.jpg",
            "photos /1.jpg",
            "\u0440hotos/1.jpg",
            "[photos]/1.jpg",
        ),
        "arn:aws:s3:us-east-1:123456789012:accesspoint/photos/1.jpg",
    ],
)
@pytest.mark.parametrize("scheme", ["s3", "gs", "az", "abfs"])
def test_no_spelling_reaches_another_bucket(opened, scheme, rest):
    failed = failure(f"{scheme}://{rest}", FetchPolicy(buckets=f"{scheme}://photos"))
    assert failed.code == Code.FORBIDDEN_URI and not opened


@pytest.mark.parametrize("uri", ["gs:photos/1.jpg", "gs:/photos/1.jpg", "gs::photos/1.jpg", "gs://photos/a::s3://b/c"])
def test_other_spellings_of_an_allowed_bucket(opened, uri):
    assert failure(uri, FetchPolicy(buckets="gs://photos")).code == Code.FORBIDDEN_URI
    assert not opened


def test_a_container_of_another_account_is_another_bucket(opened):
    """An Azure URI may name an account, which the job's credentials may open as well."""
    policy = FetchPolicy(buckets=f"abfs://{AZURE}")
    assert failure(f"abfss://{AZURE}/1.jpg", policy).code == Code.NOT_FOUND
    for uri in ("az://photos/1.jpg", "abfs://photos@other.dfs.core.windows.net/1.jpg"):
        assert failure(uri, policy).code == Code.FORBIDDEN_URI
    assert opened == ["photos/1.jpg"]
