"""Retries of fetches: which failures are retried, the pauses between attempts, and when they end."""

from __future__ import annotations

import errno
import socket

import pytest

from clipmill.files.retries import (
    RetryPolicy,
    TransientFetchError,
    is_failing_store,
    is_transient_error,
    is_transient_status,
    read_retry_after,
    retry_store,
)


class Fetch:
    """A fetch that fails as planned. Each attempt has the bytes that arrive and the pause the server asks for."""

    def __init__(self, *plan: tuple[int, float | None]) -> None:
        self.plan, self.arrived, self.slept = list(plan), 0, []

    def __call__(self) -> str:
        if not self.plan:
            return "content"
        count, retry_after_s = self.plan.pop(0)
        self.arrived += count
        raise TransientFetchError("cut off", retry_after_s)

    def run(self, attempts: int, pause_s: float = 1.0, max_pause_s: float = 60.0, **options) -> str:
        policy = RetryPolicy(attempts, pause_s, max_pause_s, sleep=self.slept.append)
        return policy.call(self, progress=lambda: self.arrived, **options)


def test_pauses_double_until_the_fetch_succeeds():
    """Each has a jitter of a quarter."""
    fetch = Fetch((0, None), (0, None), (0, None))
    assert fetch.run(4) == "content"
    assert fetch.slept == [pytest.approx(expected, rel=0.25) for expected in (1, 2, 4)]


def test_the_last_failure_is_raised_with_the_number_of_attempts():
    fetch = Fetch(*[(0, None)] * 3)
    with pytest.raises(TransientFetchError) as caught:
        fetch.run(3)
    assert caught.value.attempts == 3 and len(fetch.slept) == 2 and not fetch.plan


def test_progress_resets_the_count_of_attempts():
    """Only consecutive attempts without progress count, and pauses start short again."""
    fetch = Fetch((0, None), (10, None), (0, None), (10, None), (0, None))
    assert fetch.run(3) == "content"
    assert max(fetch.slept) < 3


def test_pauses_follow_the_servers_retry_after():
    """They are at least as long as without it, and at most `max_pause_s`."""
    fetch = Fetch((0, 9.0), (0, 0.0), (0, 3600.0))
    assert fetch.run(4) == "content"
    assert fetch.slept[0] == 9.0 and fetch.slept[1] >= 1.5 and fetch.slept[2] == 60.0


def test_no_pause_exceeds_the_time_left():
    fetch = Fetch((0, None), (0, 5.0))
    with pytest.raises(TransientFetchError) as caught:
        fetch.run(9, pause_s=0.1, time_left=lambda: 4.0)
    assert caught.value.attempts == 2 and len(fetch.slept) == 1


def test_on_retry_is_called_before_each_pause():
    calls: list[tuple[str, float]] = []
    fetch = Fetch((0, 9.0))
    fetch.run(2, on_retry=lambda err, pause_s: calls.append((str(err), pause_s)))
    assert calls == [("cut off", 9.0)] and fetch.slept == [9.0]


def test_other_errors_are_passed_on():
    def attempt() -> None:
        raise ValueError("lasting")

    with pytest.raises(ValueError, match="lasting"):
        RetryPolicy(5, 1.0, sleep=lambda _: pytest.fail("waited")).call(attempt)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 60.0),
        ("Wed, 21 Oct 2015 07:26:00 GMT", 0.0),
        ("", None),
        ("-1", None),
        ("soon", None),
        ("١", None),
    ],
)
def test_retry_after_is_a_number_of_seconds_or_a_date(value: str, seconds: float | None):
    """A date in the past means no pause."""
    assert read_retry_after(value, clock=lambda: 1445412420.0) == seconds


def test_transient_statuses():
    assert [status for status in range(200, 600) if is_transient_status(status)] == [408, 425, 429, *range(500, 600)]


def test_a_lost_connection_may_come_back_whatever_the_client_calls_it():
    """Errors of aiohttp, which gcsfs passes on, have numbers of the operating system, and are no `ConnectionError`."""
    import aiohttp

    for number in (errno.ECONNRESET, errno.ECONNREFUSED, errno.EPIPE, errno.EHOSTUNREACH, errno.ENETUNREACH):
        for made in (OSError, aiohttp.ClientOSError):
            error = made(number, "lost")
            assert is_transient_error(error) and is_failing_store(error), repr(error)
    for error in (socket.gaierror(socket.EAI_AGAIN, "name"), aiohttp.ClientOSError(socket.EAI_AGAIN, "name")):
        assert is_transient_error(error) and is_failing_store(error)


@pytest.mark.parametrize("number", [None, 0], ids=["without a number", "with one"])
@pytest.mark.parametrize("kind", [FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError])
def test_what_does_not_pass_is_asked_once(kind, number):
    numbers = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES, FileExistsError: errno.EEXIST}
    asked = []

    def call() -> None:
        asked.append(1)
        raise kind("x") if number is None else kind(numbers.get(kind, errno.EISDIR), "x")

    policy = RetryPolicy(5, 1.0, sleep=lambda _: pytest.fail("waited"))
    with pytest.raises(kind):
        retry_store(call, policy)
    assert asked == [1]
