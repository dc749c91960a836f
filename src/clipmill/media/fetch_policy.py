"""The limits of a fetch (`FetchPolicy`), its deadline and its result; and bounded decompression."""

from __future__ import annotations

import dataclasses
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from ..errors import SpecError
from ..failures import Code
from ..files.retries import TransientFetchError
from ..messages import setting
from .buckets import split_bucket
from .uri import fetch_error, scheme_of

_T = TypeVar("_T")

Span = tuple[int, int]
"""A part of a file: the byte at which it begins, and its bytes."""

DOCUMENT_SCHEMES = ("http", "https", "data")
LOCAL_SCHEMES = ("file", "local")
"""fsspec treats `local` like `file`, so both need `allow_local_files`."""
FIRST_PAUSE_S = 0.25
"""Seconds before the first retry of a fetch."""
_ZLIB_OR_GZIP = 47  # lets zlib detect the format by the header
_CHUNK_BYTES = 64 * 1024


def checked_schemes(given: Iterable[str]) -> tuple[str, ...]:
    """Return the schemes that a document's URI may have, in lower case.

    Raises:
        SpecError: If `given` is a text, or one of them is no scheme or that of local files.
    """
    if isinstance(given, str):
        raise SpecError(f"uri_schemes is the text {given!r}; give several: ({given!r},)")
    schemes = tuple(name.lower() for name in given)
    for name in schemes:
        holds = setting("uri_schemes") + f" holds {name!r}"
        if scheme_of(f"{name}:") != name:
            raise SpecError(holds + ", which is no scheme; write it without '://': 's3'")
        if name in LOCAL_SCHEMES:
            raise SpecError(holds, hint="local files are allowed by " + setting("allow_local_files", True))
    return schemes


def checked_buckets(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return the buckets that a document's URI may name, in the spelling of `bucket_of`.

    Args:
        given: Several such as `gs://photos`; or a text with one, or with several separated by commas.

    Raises:
        SpecError: If one of them is no bucket.
    """
    names = given.split(",") if isinstance(given, str) else given
    found = []
    for name in names:
        bucket, path = (isinstance(name, str) and split_bucket(name.rstrip("/"))) or ("", "")
        if not bucket or path:
            raise SpecError(
                setting("allow_buckets") + f" holds {name!r}, which is no bucket",
                hint="write it as 'gs://name', 's3://name', 'az://container',"
                " 'abfs://container@account.dfs.core.windows.net' or 'hf://datasets/owner/name', without a path",
            )
        found.append(bucket)
    return tuple(found)


@dataclasses.dataclass(frozen=True, slots=True)
class FetchPolicy:
    """Which URIs are fetched, and the limits of a fetch. Messages name the options of the spec that set them.

    Attributes:
        schemes: The schemes that a document's URI may have; kept in lower case. `file` is not allowed here but
            by `allow_local_files`.
        buckets: The buckets of object stores that a document's URI may name whatever `schemes` has; see
            `checked_buckets`. They are read with the credentials of this process.
        allow_local_files: Whether `file://` and plain paths in documents are read.
        allow_private_addresses: Whether http(s) may connect to loopback, private, link-local and other addresses that
            are not public.
        timeout_s: Seconds for a whole fetch with its redirects, retries and pauses. Local files have no timeout.
        max_bytes: The most bytes of content, after decoding.
        max_redirects: How many redirects are followed.
        retries: How often a fetch is retried after a transient failure (429, 5xx, a lost connection). Drivers of object
            stores retry beforehand, by rules of their own.
    """

    schemes: tuple[str, ...] = DOCUMENT_SCHEMES
    buckets: str | tuple[str, ...] = ()
    allow_local_files: bool = False
    allow_private_addresses: bool = False
    timeout_s: float = 30.0
    max_bytes: int = 64 * 2**20
    max_redirects: int = 5
    retries: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "schemes", checked_schemes(self.schemes))
        object.__setattr__(self, "buckets", checked_buckets(self.buckets))
        for field, least in (("max_bytes", 1), ("max_redirects", 0), ("retries", 0)):
            if getattr(self, field) < least:
                raise SpecError(f"{field} is {getattr(self, field)!r}; it must be at least {least}")
        if not self.timeout_s > 0:
            raise SpecError(f"timeout_s is {self.timeout_s!r}; it must be more than 0 seconds")


@dataclasses.dataclass(frozen=True, slots=True)
class Fetched:
    """The fetched content of a URI.

    Attributes:
        data: The bytes; empty if the file or page is empty.
        media_type: The media type from the server or the data: URI, in lower case without parameters; None if there
            is none. It is only a claim: check the bytes.
    """

    data: bytes = dataclasses.field(repr=False)
    media_type: str | None = None


class Deadline:
    """The time by which a fetch must end.

    Args:
        seconds: From now.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds left; 0 or less when the deadline has passed."""
        return self._end - time.monotonic()

    def run(self, function: Callable[[], _T]) -> _T:
        """Call a function that has no timeout of its own, such as a DNS lookup or a driver, and return its result.

        It runs in a thread, which is abandoned when the deadline passes.

        Raises:
            TimeoutError: If the deadline passes first.
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
    """Decompress gzip or zlib in chunks of bounded size, since a small body may expand to gigabytes.

    Args:
        chunks: The compressed bytes.
        where: The URI, for messages.
        max_bytes: The most compressed bytes. The caller checks the decompressed size.

    Raises:
        RowError: If the content is damaged or too large.
        TransientFetchError: If it is truncated.
    """
    inflater, received = zlib.decompressobj(wbits=_ZLIB_OR_GZIP), 0
    for chunk in chunks:
        received += len(chunk)  # counted, since an endless series of empty gzip members decompresses to nothing
        if received > max_bytes:
            raise fetch_error(
                Code.TOO_LARGE, f"{where}: more than " + setting("max_fetch_bytes", max_bytes) + ", compressed"
            )
        while True:
            if inflater.eof and chunk:
                inflater = zlib.decompressobj(wbits=_ZLIB_OR_GZIP)
            try:
                piece = inflater.decompress(chunk, _CHUNK_BYTES)
            except zlib.error as err:
                raise fetch_error(Code.FETCH_FAILED, f"{where}: the compressed response is damaged: {err}") from err
            yield piece
            chunk = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            if not chunk and (inflater.eof or len(piece) < _CHUNK_BYTES):
                break
    if received and not inflater.eof:
        raise TransientFetchError(f"{where}: the compressed response was truncated")
