"""Fetch the bytes of a URI: a local file, a data: URI, a web page or an object in a store."""

from __future__ import annotations

import os
import stat
import threading
from typing import IO, TYPE_CHECKING, Any

from ..errors import ClipmillError, MissingExtraError
from ..failures import Code, RowError
from ..files.drivers import DRIVERS
from ..files.hub import refusal_at
from ..files.retries import RetryPolicy, is_transient_error, retry_store
from ..messages import setting
from .buckets import bucket_of
from .fetch_policy import FIRST_PAUSE_S, LOCAL_SCHEMES, Deadline, Fetched, FetchPolicy, Span
from .uri import check_characters, decode_data, fetch_error, file_path, scheme_of, shown

if TYPE_CHECKING:
    from .web import HttpClient

_WEB_SCHEMES = ("http", "https")

_ALLOWED = setting("allow_local_files", True)

_CLIENTS: dict[bool, HttpClient] = {}
_CLIENTS_LOCK = threading.Lock()


class _NoDriverError(ClipmillError):
    """The package that opens a scheme is not installed, and no extra of clipmill has it."""


def fetch(uri: str, policy: FetchPolicy, *, trusted: bool = False, span: Span | None = None) -> Fetched:
    """Fetch the bytes of a URI, or a part of them.

    Args:
        uri: A path or a URI; schemes may be in any case.
        policy: What is allowed, and the limits.
        trusted: Whether the URI comes from the job's own reader, from a glob that the user gave. It may then be a
            local file, or have any scheme that fsspec opens. The limits and the check of addresses still apply.
        span: The part to read, of a local file or an object in a store: a file in an archive.

    Raises:
        RowError: If the content cannot be fetched; never transient if it is forbidden, missing or too large.
            `unsupported` if the driver of an untrusted URI's scheme is not installed: one row must not end the job.
        MissingExtraError: If the driver of a trusted URI's scheme is not installed: the job's input cannot be read.
        ClipmillError: The same, for a scheme whose driver is in no extra of clipmill.
    """
    if not uri:
        raise fetch_error(Code.EMPTY, "the URI is empty text")
    scheme = scheme_of(uri)
    if span is not None:
        _check_span(uri, scheme, span, policy)
    if scheme == "data":
        _check_scheme(uri, scheme, policy, trusted)
        return Fetched(*decode_data(uri, policy.max_bytes))
    if scheme is None or scheme in LOCAL_SCHEMES:
        return _fetch_local(uri, policy, trusted, span)
    check_characters(uri)
    _check_scheme(uri, scheme, policy, trusted)
    try:
        if scheme in _WEB_SCHEMES:
            allowed = _WEB_SCHEMES if trusted else tuple(name for name in _WEB_SCHEMES if name in policy.schemes)
            return _shared_client(policy.allow_private_addresses).get(uri, policy, schemes=allowed)
        return _fetch_remote(uri, scheme, policy, span)
    except (MissingExtraError, _NoDriverError) as err:
        if trusted:
            raise
        raise fetch_error(Code.UNSUPPORTED, f"{shown(uri)}: {err}") from err


def _check_span(uri: str, scheme: str | None, span: Span, policy: FetchPolicy) -> None:
    if scheme in ("data", *_WEB_SCHEMES):
        message = f"{shown(uri)}: parts are read of local files and of objects in stores only"
        raise fetch_error(Code.UNSUPPORTED, message)
    offset, size = span
    if min(span) < 0:
        raise fetch_error(Code.MALFORMED, f"{shown(uri)}: no file has {size} bytes from byte {offset} on")
    if size > policy.max_bytes:
        raise fetch_error(Code.TOO_LARGE, _too_large(uri, size, policy))


def _read_span(file: IO[bytes], uri: str, span: Span) -> bytes:
    offset, size = span
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise fetch_error(Code.CHANGED, f"{shown(uri)}: it ends before the {size} bytes from byte {offset} on")
    return data


def _check_scheme(uri: str, scheme: str, policy: FetchPolicy, trusted: bool) -> None:
    bucket = bucket_of(uri)
    if trusted or scheme in policy.schemes or bucket in policy.buckets:
        return
    if bucket is not None:
        raise fetch_error(
            Code.FORBIDDEN_URI,
            f"{shown(uri)}: object stores and hubs are read with the job's own credentials, and so documents may name "
            "only buckets and repositories that the job allows: " + setting("allow_buckets", bucket),
        )
    hint = "" if "//" in uri else f"; for a file whose name has a colon write ./{scheme}:… and " + _ALLOWED
    raise fetch_error(
        Code.FORBIDDEN_URI,
        f"{shown(uri)}: the scheme {scheme!r} is not allowed; allowed are {', '.join(policy.schemes) or 'none'}, "
        f"others by the option uri_schemes{hint}",
    )


def _shared_client(allow_private_addresses: bool) -> HttpClient:
    """Return the client that all threads of this process share.

    Each setting has a client of its own: a connection to a private address must not be reused where those are refused.
    """
    from .web import HttpClient

    with _CLIENTS_LOCK:
        client = _CLIENTS.get(allow_private_addresses)
        if client is None:
            client = HttpClient(allow_private_addresses=allow_private_addresses)
            _CLIENTS[allow_private_addresses] = client
    return client


def _reset_after_fork() -> None:
    """Drop the parent's connections and replace its lock, which another of its threads may have held."""
    global _CLIENTS_LOCK
    _CLIENTS_LOCK = threading.Lock()
    _CLIENTS.clear()


os.register_at_fork(after_in_child=_reset_after_fork)


def _fetch_local(uri: str, policy: FetchPolicy, trusted: bool, span: Span | None) -> Fetched:
    if not (trusted or policy.allow_local_files):
        raise fetch_error(
            Code.FORBIDDEN_URI,
            f"{shown(uri)}: a local file, which documents may name only with " + _ALLOWED,
        )
    # The name of a file that the job's reader listed may contain control characters, such as a line break.
    if not (trusted and scheme_of(uri) is None) or "\0" in uri:
        check_characters(uri)
    path = file_path(uri)
    try:
        # Checked before it is opened: opening alone can hang on a FIFO or wake a device.
        _check_regular(os.stat(path).st_mode, uri)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            _check_regular(status.st_mode, uri)
            if span is not None:
                return Fetched(_read_span(file, uri, span))
            if status.st_size > policy.max_bytes:
                raise fetch_error(Code.TOO_LARGE, _too_large(uri, status.st_size, policy))
            data = file.read(status.st_size + 1)
            if len(data) > status.st_size:  # it grew, or reports no size, like files in /proc
                data += file.read(policy.max_bytes + 1 - len(data))
    except (FileNotFoundError, NotADirectoryError) as err:
        raise fetch_error(Code.NOT_FOUND, f"{shown(uri)}: no such file") from err
    except UnicodeError as err:
        raise fetch_error(Code.MALFORMED, f"{shown(uri)}: the path is not valid Unicode") from err
    except OSError as err:
        message = f"{shown(uri)}: cannot be read: {(err.strerror or str(err)).lower()}"
        raise fetch_error(Code.FETCH_FAILED, message, transient=is_transient_error(err)) from err
    return Fetched(_check_size(data, uri, policy))


def _check_regular(mode: int, uri: str) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(mode), "a device")
    raise fetch_error(Code.FETCH_FAILED, f"{shown(uri)}: {kind}; only regular files are read")


def _fetch_remote(uri: str, scheme: str, policy: FetchPolicy, span: Span | None) -> Fetched:
    if "::" in uri:
        raise fetch_error(
            Code.FORBIDDEN_URI, f"{shown(uri)}: chains of file systems ('::') are not allowed; give the file's own URI"
        )
    deadline = Deadline(policy.timeout_s)
    try:
        retries = RetryPolicy(policy.retries + 1, FIRST_PAUSE_S)
        data = deadline.run(
            lambda: retry_store(lambda: _read_remote(uri, scheme, policy, span), retries, time_left=deadline.remaining)
        )
    except (ClipmillError, RowError):
        raise
    except (FileNotFoundError, NotADirectoryError) as err:
        raise fetch_error(Code.NOT_FOUND, f"{shown(uri)}: {refusal_at(err, uri) or 'no such file'}") from err
    except TimeoutError as err:
        late = f"{shown(uri)}: took longer than " + setting("fetch_timeout_s", policy.timeout_s)
        raise fetch_error(Code.FETCH_FAILED, late, transient=True) from err
    except Exception as err:  # each driver raises the errors of its client, which have no common base class
        reason = refusal_at(err, uri) or f"{type(err).__name__}: {str(err)[:200]}"
        message = f"{shown(uri)}: cannot be read: {reason}"
        raise fetch_error(Code.FETCH_FAILED, message, transient=is_transient_error(err)) from err
    return Fetched(_check_size(data, uri, policy))


def _open_file_system(uri: str, scheme: str) -> tuple[Any, str]:
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError as err:
        message = f"{shown(uri)}: fsspec has no file system for the scheme {scheme!r}"
        raise fetch_error(Code.FORBIDDEN_URI, message) from err
    except ImportError as err:
        if scheme in DRIVERS:
            raise MissingExtraError(*DRIVERS[scheme], f"reading {scheme}:// URIs") from err
        raise _NoDriverError(f"the scheme {scheme!r} needs a package that is not installed: {err}") from err
    return fsspec.core.url_to_fs(scheme + uri[len(scheme) :])


def _read_remote(uri: str, scheme: str, policy: FetchPolicy, span: Span | None) -> bytes:
    """Open and read an object. Both count against the deadline: drivers may ask servers for credentials on opening."""
    file_system, path = _open_file_system(uri, scheme)
    with file_system.open(path, "rb") as file:
        if span is not None:
            return _read_span(file, uri, span)
        size = getattr(file, "size", None)
        if size is not None and size > policy.max_bytes:
            raise fetch_error(Code.TOO_LARGE, _too_large(uri, size, policy))
        return file.read(policy.max_bytes + 1)


def _check_size(data: bytes, uri: str, policy: FetchPolicy) -> bytes:
    if len(data) > policy.max_bytes:
        raise fetch_error(Code.TOO_LARGE, f"{shown(uri)}: more than " + setting("max_fetch_bytes", policy.max_bytes))
    return data


def _too_large(uri: str, size: int, policy: FetchPolicy) -> str:
    return f"{shown(uri)}: {size} bytes, more than " + setting("max_fetch_bytes", policy.max_bytes)
