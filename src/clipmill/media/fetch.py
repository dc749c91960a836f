"""Fetch what a URI names: a local file, a data: URI, a page, an object in a store. One URI in, its bytes out."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ClipmillError, MissingExtraError, SpecError
from ..failures import Code, RowError, Stage
from ..files.drivers import DRIVERS
from .uri import check_characters, decode_data, fetch_error, file_path, scheme_of, shown

if TYPE_CHECKING:
    from .web import HttpClient

_T = TypeVar("_T")

_LOCAL_SCHEMES = ("file", "local")  # fsspec reads the second as the first: it must not be a way past the rule
_WEB_SCHEMES = ("http", "https")
# What the operating system says of a disk or a machine that may do better in a minute.
_PASSING_ERRNOS = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT}
)

_ALLOWED = "allow_local_files=True (--allow-local-files)"
_ZLIB_OR_GZIP = 47  # zlib's word for: tell by the header
_PIECE = 64 * 1024

_CLIENTS: dict[bool, HttpClient] = {}
_CLIENTS_LOCK = threading.Lock()


@dataclasses.dataclass(frozen=True, slots=True)
class FetchPolicy:
    """What a URI may be, and what fetching it may cost. Messages name the options of the spec that set it.

    Attributes:
        schemes: The schemes that a document's URI may have; kept in lower case. `file` is not given here but
            by `allow_local_files`.
        allow_local_files: Whether `file://` and plain paths in documents are read.
        allow_private_addresses: Whether http(s) may go to loopback, private, link-local and other addresses that are
            not public.
        timeout_s: Seconds for a whole fetch with its redirects, retries and pauses. A local file is not timed.
        max_bytes: The most bytes of content, after decoding.
        max_redirects: How many redirects are followed.
        retries: How often http(s) is tried again after a failure that may pass (429, 5xx, a connection cut off).
            Object stores retry by their own drivers' rules.
    """

    schemes: tuple[str, ...] = ("http", "https", "data", "gs", "s3", "az", "abfs")
    allow_local_files: bool = False
    allow_private_addresses: bool = False
    timeout_s: float = 30.0
    max_bytes: int = 64 * 2**20
    max_redirects: int = 5
    retries: int = 2

    def __post_init__(self) -> None:
        given: object = self.schemes
        if isinstance(given, str):
            raise SpecError(f"uri_schemes is the text {given!r}; give a tuple: ({given!r},)")
        schemes = tuple(name.lower() for name in self.schemes)
        for name in schemes:
            if scheme_of(f"{name}:") != name:
                raise SpecError(f"uri_schemes holds {name!r}, which is no scheme; write it without '://': 's3'")
            if name in _LOCAL_SCHEMES:
                raise SpecError(f"uri_schemes holds {name!r}; local files are allowed by allow_local_files=True")
        object.__setattr__(self, "schemes", schemes)
        for field, least in (("max_bytes", 1), ("max_redirects", 0), ("retries", 0)):
            if getattr(self, field) < least:
                raise SpecError(f"{field} is {getattr(self, field)!r}; it must be at least {least}")
        if not self.timeout_s > 0:
            raise SpecError(f"timeout_s is {self.timeout_s!r}; it must be more than 0 seconds")


class _NoDriverError(ClipmillError):
    """The package that opens a scheme is not installed, and is in none of our extras."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fetched:
    """What a URI named.

    Attributes:
        data: The bytes; none where the file or page is empty.
        media_type: What a server or a data: URI calls it, in lower case without parameters; None where nobody says.
            Only a claim: look at the bytes.
    """

    data: bytes = dataclasses.field(repr=False)
    media_type: str | None = None


def fetch(uri: str, policy: FetchPolicy, *, trusted: bool = False) -> Fetched:
    """Fetch what a URI names.

    Args:
        uri: A path or a URI; schemes may be in any case.
        policy: What is allowed and how much.
        trusted: Whether the URI comes from the job's own reader, from a glob that the user gave: then it may be a
            local file, and have any scheme that fsspec opens. Limits, and the check of addresses, stay.

    Raises:
        RowError: The row cannot have its content; never transient for what is forbidden, missing or too large.
            `unsupported` where the driver for a stranger's scheme is not installed: one row must not end the job.
        MissingExtraError: That of a trusted URI is not: none of the job's own inputs can be read.
        ClipmillError: The same for a scheme whose driver is none of ours.
    """
    if not uri:
        raise fetch_error(Code.EMPTY, "the URI is empty text")
    scheme = scheme_of(uri)
    if scheme == "data":
        _check_scheme(uri, scheme, policy, trusted)
        return Fetched(*decode_data(uri, policy.max_bytes))
    if scheme is None or scheme in _LOCAL_SCHEMES:
        return _fetch_local(uri, policy, trusted)
    check_characters(uri)
    _check_scheme(uri, scheme, policy, trusted)
    try:
        if scheme in _WEB_SCHEMES:
            allowed = _WEB_SCHEMES if trusted else tuple(name for name in _WEB_SCHEMES if name in policy.schemes)
            return _shared_client(policy.allow_private_addresses).get(uri, policy, schemes=allowed)
        return _fetch_remote(uri, scheme, policy)
    except (MissingExtraError, _NoDriverError) as err:
        if trusted:
            raise
        raise fetch_error(Code.UNSUPPORTED, f"{shown(uri)}: {err}") from err


def _check_scheme(uri: str, scheme: str, policy: FetchPolicy, trusted: bool) -> None:
    if trusted or scheme in policy.schemes:
        return
    hint = "" if "//" in uri else f"; for a file whose name holds a colon write ./{scheme}:… and {_ALLOWED}"
    raise fetch_error(
        Code.FORBIDDEN_URI,
        f"{shown(uri)}: the scheme {scheme!r} is not allowed; allowed are {', '.join(policy.schemes) or 'none'}, "
        f"others by the option uri_schemes{hint}",
    )


def _shared_client(allow_private_addresses: bool) -> HttpClient:
    """Return this process's client, which all its threads share.

    There is one for each rule: a connection that the one allowed must not be reused under the other.
    """
    from .web import HttpClient

    with _CLIENTS_LOCK:
        client = _CLIENTS.get(allow_private_addresses)
        if client is None:
            client = HttpClient(allow_private_addresses=allow_private_addresses)
            _CLIENTS[allow_private_addresses] = client
    return client


def _forget_clients() -> None:
    """Leave a fork's parent its connections, and its lock, which another of its threads may have held."""
    global _CLIENTS_LOCK
    _CLIENTS_LOCK = threading.Lock()
    _CLIENTS.clear()


os.register_at_fork(after_in_child=_forget_clients)


def _fetch_local(uri: str, policy: FetchPolicy, trusted: bool) -> Fetched:
    if not (trusted or policy.allow_local_files):
        raise fetch_error(
            Code.FORBIDDEN_URI,
            f"{shown(uri)}: a local file, which documents may name only where {_ALLOWED} is set",
        )
    # A file that the job's reader listed may have any name that its file system takes, a line break in it too.
    if not (trusted and scheme_of(uri) is None) or "\0" in uri:
        check_characters(uri)
    path = file_path(uri)
    try:
        # Looked at before it is opened: opening is enough to hang on a FIFO, or to wake a device.
        _check_regular(os.stat(path).st_mode, uri)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            _check_regular(status.st_mode, uri)
            if status.st_size > policy.max_bytes:
                raise fetch_error(Code.TOO_LARGE, _too_large(uri, status.st_size, policy))
            data = file.read(status.st_size + 1)
            if len(data) > status.st_size:  # it grew, or hides its size, as files in /proc do
                data += file.read(policy.max_bytes + 1 - len(data))
    except (FileNotFoundError, NotADirectoryError) as err:
        raise fetch_error(Code.NOT_FOUND, f"{shown(uri)}: no such file") from err
    except UnicodeError as err:
        raise fetch_error(Code.MALFORMED, f"{shown(uri)}: the path is not valid Unicode") from err
    except OSError as err:
        message = f"{shown(uri)}: cannot be read: {(err.strerror or str(err)).lower()}"
        raise fetch_error(Code.FETCH_FAILED, message, transient=err.errno in _PASSING_ERRNOS) from err
    return Fetched(_bounded(data, uri, policy))


def _check_regular(mode: int, uri: str) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(mode), "a device")
    raise fetch_error(Code.FETCH_FAILED, f"{shown(uri)}: {kind}; only regular files are read")


def _fetch_remote(uri: str, scheme: str, policy: FetchPolicy) -> Fetched:
    if "::" in uri:
        raise fetch_error(
            Code.FORBIDDEN_URI, f"{shown(uri)}: chains of file systems ('::') are not allowed; name the file itself"
        )
    deadline = Deadline(policy.timeout_s)
    try:
        data = deadline.run(lambda: _read_remote(uri, scheme, policy))
    except (ClipmillError, RowError):
        raise
    except (FileNotFoundError, NotADirectoryError) as err:
        raise fetch_error(Code.NOT_FOUND, f"{shown(uri)}: no such file") from err
    except TimeoutError as err:
        message = f"{shown(uri)}: took longer than fetch_timeout_s={policy.timeout_s:g}"
        raise fetch_error(Code.FETCH_FAILED, message, transient=True) from err
    except Exception as err:  # each driver raises its own client's errors, which share no base
        message = f"{shown(uri)}: cannot be read: {type(err).__name__}: {str(err)[:200]}"
        raise fetch_error(Code.FETCH_FAILED, message, transient=_may_pass(err)) from err
    return Fetched(_bounded(data, uri, policy))


def _open_file_system(uri: str, scheme: str) -> tuple[Any, str]:
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError as err:
        message = f"{shown(uri)}: no file system is known for the scheme {scheme!r}"
        raise fetch_error(Code.FORBIDDEN_URI, message) from err
    except ImportError as err:
        if scheme in DRIVERS:
            raise MissingExtraError(*DRIVERS[scheme], f"reading {scheme}:// URIs") from err
        raise _NoDriverError(f"the scheme {scheme!r} needs a package that is not installed: {err}") from err
    return fsspec.core.url_to_fs(scheme + uri[len(scheme) :])


def _read_remote(uri: str, scheme: str, policy: FetchPolicy) -> bytes:
    """Open and read; both belong under the deadline, since drivers look for credentials and ask servers when made."""
    file_system, path = _open_file_system(uri, scheme)
    with file_system.open(path, "rb") as file:
        size = getattr(file, "size", None)
        if size is not None and size > policy.max_bytes:
            raise fetch_error(Code.TOO_LARGE, _too_large(uri, size, policy))
        return file.read(policy.max_bytes + 1)


def _may_pass(err: Exception) -> bool:
    """Whether a second try may help. In doubt it may: a needless try costs less than a row."""
    if isinstance(err, OSError) and err.errno is not None:
        return isinstance(err, ConnectionError) or err.errno in _PASSING_ERRNOS
    lasting = (PermissionError, IsADirectoryError, ValueError, TypeError, NotImplementedError)
    return not isinstance(err, lasting) and "Credential" not in type(err).__name__


def _bounded(data: bytes, uri: str, policy: FetchPolicy) -> bytes:
    if len(data) > policy.max_bytes:
        raise fetch_error(Code.TOO_LARGE, f"{shown(uri)}: more than max_fetch_bytes={policy.max_bytes}")
    return data


def _too_large(uri: str, size: int, policy: FetchPolicy) -> str:
    return f"{shown(uri)}: {size} bytes, more than max_fetch_bytes={policy.max_bytes}"


class PassingError(RowError):
    """A failure that may pass, with the seconds that a server asks to wait."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(Stage.FETCH, Code.FETCH_FAILED, message, transient=True)
        self.retry_after_s = retry_after_s


class Deadline:
    """The moment at which a fetch must have ended.

    Args:
        seconds: From now.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds that are left, 0 or less when none are."""
        return self._end - time.monotonic()

    def run(self, function: Callable[[], _T]) -> _T:
        """Return what a function returns that has no time limit of its own: a name look-up, a driver.

        It runs in a thread, which is left to itself when the time is over.

        Raises:
            TimeoutError: The deadline has passed.
        """
        result: Future[_T] = Future()

        def work() -> None:
            try:
                result.set_result(function())
            except BaseException as err:
                result.set_exception(err)

        threading.Thread(target=work, name="clipmill-fetch", daemon=True).start()
        return result.result(timeout=max(0.0, self.remaining()))


def inflate(chunks: Iterable[bytes], where: str, max_bytes: int) -> Iterator[bytes]:
    """Decompress gzip or zlib, a bounded piece at a time: a small body may hold gigabytes.

    Args:
        chunks: The compressed bytes.
        where: What messages name.
        max_bytes: The most compressed bytes. The caller counts what comes out.

    Raises:
        RowError: Damaged, cut off or too large.
    """
    inflater, received = zlib.decompressobj(wbits=_ZLIB_OR_GZIP), 0
    for chunk in chunks:
        received += len(chunk)  # an endless row of empty gzip members comes to nothing
        if received > max_bytes:
            raise fetch_error(Code.TOO_LARGE, f"{where}: more than max_fetch_bytes={max_bytes}, compressed")
        while True:
            if inflater.eof and chunk:
                inflater = zlib.decompressobj(wbits=_ZLIB_OR_GZIP)
            try:
                piece = inflater.decompress(chunk, _PIECE)
            except zlib.error as err:
                raise fetch_error(Code.FETCH_FAILED, f"{where}: the compressed answer is damaged: {err}") from err
            yield piece
            chunk = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            if not chunk and (inflater.eof or len(piece) < _PIECE):
                break
    if received and not inflater.eof:
        raise PassingError(f"{where}: the compressed answer was cut off")
