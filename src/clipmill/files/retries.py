"""Retries of failed fetches, of media and of weights: which failures are retried, after how long and how often."""

from __future__ import annotations

import dataclasses
import email.utils
import math
import random
import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

_TRANSIENT_STATUSES = (408, 425, 429)  # beside every 5xx


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


def is_transient_status(status: int) -> bool:
    """Return whether a retry may succeed after this HTTP status."""
    return status >= 500 or status in _TRANSIENT_STATUSES


def read_retry_after(value: str, clock: Callable[[], float] = time.time) -> float | None:
    """Return the pause in seconds that a `Retry-After` header asks for; None if it is neither a number nor a date."""
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - clock())
    except (ValueError, OverflowError):
        return None
