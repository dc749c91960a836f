"""When a fetch that failed is tried again, of media and of weights: after which failures, after how long, how often."""

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
    """A fetch failed, and another try may succeed.

    Attributes:
        retry_after_s: Seconds that the server asks to wait, None where it does not ask.
        attempts: How many tries in a row brought nothing, when `RetryPolicy.call` gives up.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.attempts = 1


@dataclasses.dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a fetch is tried again, and when it is given up.

    Attributes:
        attempts: Tries in a row that bring nothing, the first included.
        pause_s: Seconds before the second try, doubled before each further one and drawn within a quarter of that.
        max_pause_s: The most seconds that a pause takes, whatever the server asks for.
        sleep: Waits for so many seconds.
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
            attempt: Raises `TransientFetchError` where another try may help; every other error passes through.
            progress: How much has arrived so far; a try after which this is more starts the count anew.
            time_left: Seconds until the fetch must have ended: no pause is begun that lasts longer.
            on_retry: Called before each pause, with the error and the pause's seconds.

        Raises:
            TransientFetchError: The last one, when no further try is made.
        """
        failed, most = 0, progress()
        while True:
            try:
                return attempt()
            except TransientFetchError as err:
                arrived = progress()
                failed = 1 if arrived > most else failed + 1
                most = max(most, arrived)
                # Drawn, so that workers which failed together don't come back together.
                backoff_s = self.pause_s * 2 ** (failed - 1) * random.uniform(0.75, 1.25)
                pause_s = min(max(backoff_s, err.retry_after_s or 0.0), self.max_pause_s)
                if failed >= self.attempts or pause_s >= time_left():
                    err.attempts = failed
                    raise
                on_retry(err, pause_s)
            self.sleep(pause_s)


def is_transient_status(status: int) -> bool:
    """Tell whether a server that answers with this status may give the file on another try."""
    return status >= 500 or status in _TRANSIENT_STATUSES


def read_retry_after(value: str, clock: Callable[[], float] = time.time) -> float | None:
    """Return the seconds that a `Retry-After` header asks to wait; None if it is neither a number nor a date.

    Args:
        value: The header, empty where there is none.
        clock: Returns the seconds since 1970.
    """
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - clock())
    except (ValueError, OverflowError):
        return None
