"""The http(s) client: it connects only to an address that it has checked, and stops at the deadline.

The URLs in documents are untrusted. A general client resolves the name itself (so the checked address need not be the
one that it connects to), follows redirects anywhere, and applies its timeout to each read instead of the whole fetch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, NoReturn

from .. import __version__
from ..errors import MissingExtraError
from ..failures import Code, RowError
from ..files.retries import RetryPolicy, TransientFetchError, is_transient_status, read_retry_after
from ..messages import setting
from .fetch_policy import FIRST_PAUSE_S, Deadline, Fetched, FetchPolicy, inflate
from .uri import WebAddress, fetch_error, is_private_name, is_public, literal_address, proxy_options, scheme_of, shown

try:
    import httpcore
except ImportError as err:
    raise MissingExtraError("httpcore", "remote", "fetching http:// and https:// URIs") from err

# Resolves a host's name and a port to numeric addresses; raises OSError if there are none.
Resolver = Callable[[str, int], list[str]]
# Connects to a numeric address and port, with a timeout in seconds; raises httpcore's errors.
Connector = Callable[[str, int, float | None], httpcore.NetworkStream]

_LOGGER = logging.getLogger(__name__)
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_CONNECTIONS = 64  # more than the decoding threads of any worker
_KEEP_ALIVE_S = 15.0
_MAX_DRAINED_CHUNKS = 4  # reading the rest of a short error page is cheaper than opening a new connection

# Not an attribute of the connection, which outlives a fetch; httpcore handles a request in the thread that made it.
_DEADLINE: ContextVar[Deadline | None] = ContextVar("clipmill-fetch-deadline", default=None)


def resolve(host: str, port: int) -> list[str]:
    """Resolve a host's name, or a numeric address in any spelling that the system's resolver accepts."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def connect(address: str, port: int, timeout: float | None) -> httpcore.NetworkStream:
    """Open a TCP connection to a numeric address."""
    return httpcore.SyncBackend().connect_tcp(address, port, timeout=timeout)


class _ForbiddenAddressError(Exception):
    """A host has no address that is allowed."""


class _Stream(httpcore.NetworkStream):
    """A connection whose reads and writes stop at the deadline of the current fetch."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _time_left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _time_left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _time_left(timeout)))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def _time_left(timeout: float | None) -> float | None:
    deadline = _DEADLINE.get()
    if deadline is None:
        return timeout
    left = deadline.remaining()
    if left <= 0:
        raise httpcore.ReadTimeout("the deadline has passed")
    return left if timeout is None else min(left, timeout)


@dataclasses.dataclass(frozen=True, slots=True)
class _Backend(httpcore.NetworkBackend):
    """Resolves a name once and connects to one of its allowed addresses; those that are not allowed are ignored."""

    resolve: Resolver
    connect: Connector
    allow_private: bool

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        host = host.strip("[]")
        deadline = _DEADLINE.get() or Deadline(timeout or 30.0)
        try:
            found = deadline.run(lambda: self.resolve(host, port))  # the system's resolver has no timeout
        except TimeoutError as err:
            raise httpcore.ConnectTimeout("the host's name was not resolved in time") from err
        except OSError as err:
            raise httpcore.ConnectError(f"the host's name could not be resolved: {err.strerror or err}") from err
        addresses = [address for address in found if self.allow_private or is_public(address)]
        if not addresses:
            raise _ForbiddenAddressError(f"{host!r} has the address {', '.join(found)}, which is not public")
        for left in range(len(addresses), 0, -1):
            share = max(0.0, deadline.remaining()) / left
            try:
                return _Stream(self.connect(addresses[-left], port, _time_left(share)))
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if left == 1:
                    raise
        raise AssertionError("unreachable")


class HttpClient:
    """Fetches pages over pooled connections; safe to share between threads, not between processes.

    Proxies are taken from the environment when the client is made. A proxy resolves names itself and is trusted to
    refuse private addresses. Numeric addresses and names of private networks are refused all the same, and requests to
    localhost bypass the proxy.

    Args:
        allow_private_addresses: Whether to connect to addresses that are not public.
        resolve: Resolves names.
        connect: Opens connections.
        sleep: Waits between two attempts.
    """

    def __init__(
        self,
        *,
        allow_private_addresses: bool = False,
        resolve: Resolver = resolve,
        connect: Connector = connect,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._allow_private = allow_private_addresses
        self._sleep = sleep
        tls = httpcore.default_ssl_context()
        common: Any = {"max_connections": _MAX_CONNECTIONS, "keepalive_expiry": _KEEP_ALIVE_S, "ssl_context": tls}
        backend = _Backend(resolve, connect, allow_private_addresses)
        self._direct = httpcore.ConnectionPool(network_backend=backend, **common)
        self._proxies: dict[str, httpcore.ConnectionPool] = {}
        to_proxy = _Backend(resolve, connect, allow_private=True)  # a proxy often has a private address
        environment = urllib.request.getproxies_environment()
        for scheme in ("http", "https"):
            if proxy := environment.get(scheme) or environment.get("all"):
                self._proxies[scheme] = httpcore.HTTPProxy(**proxy_options(proxy), network_backend=to_proxy, **common)
        if self._proxies and not allow_private_addresses:
            _LOGGER.warning(
                "a proxy fetches %s and resolves names itself: it is trusted to refuse private addresses",
                " and ".join(f"{scheme}://" for scheme in self._proxies),
            )

    def __reduce__(self) -> NoReturn:
        raise TypeError("an HttpClient holds open connections and can't be pickled; make one where it is used")

    def close(self) -> None:
        """Close the open connections; the next fetch opens new ones."""
        for pool in (self._direct, *self._proxies.values()):
            pool.close()

    def get(self, uri: str, policy: FetchPolicy, *, schemes: tuple[str, ...] = ("http", "https")) -> Fetched:
        """Fetch a page; retry transient failures within the policy's timeout.

        Args:
            uri: An http(s) URI.
            policy: The limits; its `allow_private_addresses` is ignored in favour of the client's.
            schemes: The allowed schemes of this URI and of redirects.

        Raises:
            RowError: See `fetch`.
        """
        deadline = Deadline(policy.timeout_s)
        retries = RetryPolicy(policy.retries + 1, FIRST_PAUSE_S, sleep=self._sleep)
        token = _DEADLINE.set(deadline)
        try:
            return retries.call(lambda: self._follow(uri, policy, schemes), time_left=deadline.remaining)
        except TransientFetchError as err:
            raise _as_row_error(err) from err
        finally:
            _DEADLINE.reset(token)

    def _follow(self, uri: str, policy: FetchPolicy, schemes: tuple[str, ...]) -> Fetched:
        where, target = shown(uri), uri
        for _ in range(policy.max_redirects + 1):
            if scheme_of(target) not in schemes:
                raise fetch_error(Code.FORBIDDEN_URI, f"{where}: redirects may only go to {' and '.join(schemes)}")
            address = WebAddress.parse(target)
            with _translate_errors(where, policy), self._request(address) as response:
                location = _header(response, b"location")
                if response.status not in _REDIRECTS or not location:
                    return _read_response(response, where, policy)
                _drain(response)
            target = address.join(location)
            where = f"{shown(uri)} (redirected to {shown(target)})"
        raise fetch_error(Code.FETCH_FAILED, f"{where}: more than " + setting("max_redirects", policy.max_redirects))

    def _request(self, address: WebAddress) -> contextlib.AbstractContextManager[httpcore.Response]:
        pool, host = self._pool_for(address)
        return pool.stream(
            "GET",
            httpcore.URL(scheme=address.scheme, host=host, port=address.port, target=address.target),
            headers={
                "Host": address.authority,
                "User-Agent": f"clipmill/{__version__}",
                "Accept-Encoding": "identity",  # images and audio are compressed already
            },
            extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), _time_left(None))},
        )

    def _pool_for(self, address: WebAddress) -> tuple[httpcore.ConnectionPool, str]:
        """Return the pool for an address, and the host in the form that the pool expects."""
        proxy = self._proxies.get(address.scheme)
        number = literal_address(address.host)
        is_local = f".{address.host}".rstrip(".").endswith(".localhost") or (number and number.is_loopback)
        if proxy is None or is_local or urllib.request.proxy_bypass(address.authority):
            return self._direct, address.host
        if number and not self._allow_private and not is_public(str(number)):
            raise _ForbiddenAddressError(f"{address.host!r} has the address {number}, which is not public")
        if number is None and not self._allow_private and is_private_name(address.host):
            raise _ForbiddenAddressError(f"{address.host!r} is a name in private networks, which is not public")
        return proxy, address.bracketed_host


def _as_row_error(err: TransientFetchError) -> RowError:
    wait = f"; the server asked to wait {err.retry_after_s:g} s" if err.retry_after_s else ""
    tried = f" (tried {err.attempts} times)" if err.attempts > 1 else ""
    return fetch_error(Code.FETCH_FAILED, err.args[0] + wait + tried, transient=True)


@contextlib.contextmanager
def _translate_errors(where: str, policy: FetchPolicy) -> Iterator[None]:
    """Turn the errors of a request into the row's failure, or into a `TransientFetchError`."""
    try:
        yield
    except _ForbiddenAddressError as err:
        raise fetch_error(
            Code.FORBIDDEN_URI, f"{where}: {err}; " + setting("allow_private_addresses", True) + " allows it"
        ) from err
    except httpcore.TimeoutException as err:
        raise TransientFetchError(f"{where}: took longer than " + setting("fetch_timeout_s", policy.timeout_s)) from err
    except UnicodeError as err:  # from the resolver, for a label of more than 63 letters
        raise fetch_error(Code.MALFORMED, f"{where}: not a valid host name: {err}") from err
    except httpcore.ProxyError as err:
        message = f"{where}: the proxy refused: {err}"
        status = str(err)[:3]
        if status.isdecimal() and is_transient_status(int(status)):
            raise TransientFetchError(message) from err
        raise fetch_error(Code.FETCH_FAILED, message) from err
    except httpcore.NetworkError as err:
        if err.args and isinstance(err.args[0], ssl.SSLCertVerificationError):
            reason = f"the server's certificate is not valid: {err.args[0].verify_message}"
            raise fetch_error(Code.FETCH_FAILED, f"{where}: {reason}") from err
        raise TransientFetchError(f"{where}: connection failed: {err}") from err
    except httpcore.RemoteProtocolError as err:
        raise TransientFetchError(f"{where}: the response was truncated or is not HTTP: {err}") from err
    except httpcore.LocalProtocolError as err:
        raise fetch_error(Code.MALFORMED, f"{where}: the request is not valid HTTP: {err}") from err


def _read_response(response: httpcore.Response, where: str, policy: FetchPolicy) -> Fetched:
    if not 200 <= response.status < 300:
        _drain(response)
        raise _status_error(response.status, where, read_retry_after(_header(response, b"retry-after")))
    declared = _header(response, b"content-length")
    if declared.isdecimal() and int(declared) > policy.max_bytes:
        raise fetch_error(
            Code.TOO_LARGE, f"{where}: {declared} bytes, more than " + setting("max_fetch_bytes", policy.max_bytes)
        )
    encoding = _header(response, b"content-encoding").lower()
    chunks: Iterable[bytes] = response.iter_stream()
    if encoding not in ("", "identity"):
        if encoding not in ("gzip", "x-gzip", "deflate"):
            message = f"{where}: the server sent Content-Encoding {encoding!r}; it must be identity, gzip or deflate"
            raise fetch_error(Code.FETCH_FAILED, message)
        chunks = inflate(chunks, where, policy.max_bytes)
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > policy.max_bytes:
            raise fetch_error(Code.TOO_LARGE, f"{where}: more than " + setting("max_fetch_bytes", policy.max_bytes))
    media_type = _header(response, b"content-type").partition(";")[0].strip().lower()
    return Fetched(bytes(body), media_type or None)


def _status_error(status: int, where: str, retry_after_s: float | None) -> Exception:
    if status in (404, 410):
        return fetch_error(Code.NOT_FOUND, f"{where}: the server answered {status}: there is no such page")
    if is_transient_status(status):
        return TransientFetchError(f"{where}: the server answered {status}", retry_after_s)
    hints = {401: "; it needs a login", 403: "; access is denied"}
    return fetch_error(Code.FETCH_FAILED, f"{where}: the server answered {status}{hints.get(status, '')}")


def _header(response: httpcore.Response, name: bytes) -> str:
    for key, value in response.headers:
        if key.lower() == name:
            return value.decode("utf-8", "replace").strip()
    return ""


def _drain(response: httpcore.Response) -> None:
    with contextlib.suppress(httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
        for _ in itertools.islice(response.iter_stream(), _MAX_DRAINED_CHUNKS):
            pass
