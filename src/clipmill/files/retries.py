"""Retries of fetches and of calls of object stores: which failures are retried, after how long and how often."""

from __future__ import annotations

import dataclasses
import errno
import math
import random
import socket
import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import ClipmillError

_T = TypeVar("_T")

_TRANSIENT_STATUSES = (408, 425, 429)  # beside every 5xx
# Errors of the operating system that a retry may overcome: a busy disk, a lost connection, a name that was not looked
# up. Drivers of object stores use them too, EREMOTEIO for an internal error of the store; the errors of aiohttp, which
# gcsfs passes on, have the numbers of lost connections and are no `ConnectionError`.
_TRANSIENT_ERRNOS = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT}
    | {errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ESHUTDOWN}
    | {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH}
    | {getattr(errno, "EREMOTEIO", errno.EIO), socket.EAI_AGAIN}
)
_PERMANENT = (
    *(FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError),
    *(ValueError, TypeError, NotImplementedError),
)


class TransientFetchError(Exception):
    """A fetch failed, and a retry may succeed.

    Attributes:
        retry_after_s: The pause that the server asked for, in seconds. None if it did not ask for one.
        attempts: Consecutive attempts without progress when `RetryPolicy.call` gave up.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.attempts = 1


@dataclasses.dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a fetch is retried, and when it is given up.

    Attributes:
        attempts: Maximum number of consecutive attempts without progress, including the first.
        pause_s: Seconds before the first retry. The pause doubles with each further retry, with a jitter of ±25 %.
        max_pause_s: Maximum pause in seconds, even if the server asks for more.
        sleep: Waits for a number of seconds.
    """

    attempts: int
    pause_s: float
    max_pause_s: float = math.inf
    sleep: Callable[[float], None] = time.sleep

    def call(
        self,
        attempt: Callable[[], _T],
        *,
        progress: Callable[[], int] = lambda: 0,
        time_left: Callable[[], float] = lambda: math.inf,
        on_retry: Callable[[TransientFetchError, float], None] = lambda err, pause_s: None,
    ) -> _T:
        """Call `attempt` until it succeeds, and return what it returns.

        Args:
            attempt: Raises `TransientFetchError` if a retry may help. All other errors are passed on.
            progress: Returns how much has arrived so far. An attempt that increases it resets the count of attempts.
            time_left: Returns the seconds until the fetch's deadline. No pause is started that would exceed it.
            on_retry: Called before each pause, with the error and the pause in seconds.

        Raises:
            TransientFetchError: The last one, when there are no more retries.
        """
        failed, most = 0, progress()
        while True:
            try:
                return attempt()
            except TransientFetchError as err:
                arrived = progress()
                failed = 1 if arrived > most else failed + 1
                most = max(most, arrived)
                # Random, so that workers which failed at the same time don't retry at the same time.
                backoff_s = self.pause_s * 2 ** (failed - 1) * random.uniform(0.75, 1.25)
                pause_s = min(max(backoff_s, err.retry_after_s or 0.0), self.max_pause_s)
                if failed >= self.attempts or pause_s >= time_left():
                    err.attempts = failed
                    raise
                on_retry(err, pause_s)
            self.sleep(pause_s)


STORE_RETRIES = RetryPolicy(attempts=4, pause_s=0.5, max_pause_s=10.0)
"""Beyond the retries of the drivers, which end after a few seconds."""


def retry_store(
    call: Callable[[], _T], policy: RetryPolicy | None = None, *, time_left: Callable[[], float] = lambda: math.inf
) -> _T:
    """Return what a call of an object store's driver returns; call again after an error that a retry may overcome.

    Args:
        call: It must be safe to repeat: a store may have done what it was asked for although its answer was lost.
        policy: `STORE_RETRIES` by default.
        time_left: As `RetryPolicy.call` takes it.
    """

    def attempt() -> _T:
        try:
            return call()
        except Exception as err:
            if is_transient_error(err):
                raise TransientFetchError(str(err)) from err
            raise

    try:
        return (policy or STORE_RETRIES).call(attempt, time_left=time_left)
    except TransientFetchError as err:
        assert err.__cause__ is not None
        raise err.__cause__ from None


def is_transient_error(err: Exception) -> bool:
    """Return whether a retry may help after an error of a file system. In doubt it may: a retry costs little."""
    if isinstance(err, OSError) and err.errno is not None:
        return isinstance(err, ConnectionError) or err.errno in _TRANSIENT_ERRNOS
    status = getattr(getattr(err, "response", None), "status_code", None)  # of the usual HTTP clients
    if isinstance(status, int):
        return is_transient_status(status)
    return not isinstance(err, (*_PERMANENT, ClipmillError)) and "Credential" not in type(err).__name__


def is_failing_store(err: Exception) -> bool:
    """Return whether an error while a file in a store was read is that of the store, and the file may be whole.

    Unlike `is_transient_error`, it is not in doubt: errors of other libraries are about what the file holds.
    """
    is_of_store = isinstance(err, OSError) or type(err).__module__.partition(".")[0] in _CLIENTS
    return is_of_store and is_transient_error(err) and (type(err) is not OSError or err.errno is not None)


_CLIENTS = frozenset(
    {"adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "requests", "s3fs", "urllib3"}
    | {"httpcore", "httpx", "httpx2", "huggingface_hub"}  # of the hub
)


def is_transient_status(status: int) -> bool:
    """Return whether a retry may succeed after this HTTP status."""
    return status >= 500 or status in _TRANSIENT_STATUSES


def read_retry_after(value: str, clock: Callable[[], float] = time.time) -> float | None:
    """Return the pause in seconds that a `Retry-After` header asks for; None if it is neither a number nor a date."""
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    import email.utils  # late, since it takes as long as the rest of this room

    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - clock())
    except (ValueError, OverflowError):
        return None
