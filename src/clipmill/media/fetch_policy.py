"""What bounds a fetch: what a URI may be and may cost, the moment at which it must have ended, and what comes of it."""

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
from .uri import fetch_error, scheme_of

_T = TypeVar("_T")

LOCAL_SCHEMES = ("file", "local")
"""fsspec reads the second as the first: it must not be a way past the rule."""
_ZLIB_OR_GZIP = 47  # zlib's word for: tell by the header
_PIECE = 64 * 1024


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
            if name in LOCAL_SCHEMES:
                raise SpecError(
                    setting("uri_schemes") + f" holds {name!r}",
                    hint="local files are allowed by " + setting("allow_local_files", True),
                )
        object.__setattr__(self, "schemes", schemes)
        for field, least in (("max_bytes", 1), ("max_redirects", 0), ("retries", 0)):
            if getattr(self, field) < least:
                raise SpecError(f"{field} is {getattr(self, field)!r}; it must be at least {least}")
        if not self.timeout_s > 0:
            raise SpecError(f"timeout_s is {self.timeout_s!r}; it must be more than 0 seconds")


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
        RowError: Damaged or too large.
        TransientFetchError: Cut off.
    """
    inflater, received = zlib.decompressobj(wbits=_ZLIB_OR_GZIP), 0
    for chunk in chunks:
        received += len(chunk)  # an endless row of empty gzip members comes to nothing
        if received > max_bytes:
            raise fetch_error(
                Code.TOO_LARGE, f"{where}: more than " + setting("max_fetch_bytes", max_bytes) + ", compressed"
            )
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
        raise TransientFetchError(f"{where}: the compressed answer was cut off")
