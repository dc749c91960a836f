"""Pytest plugin of `tools/mutants.py`: orders a room's tests and ends tests that hang."""

from __future__ import annotations

import functools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TEST_LIMIT_S = 60


class TestHungError(BaseException):
    """A test took too long. Not an `Exception`, so that the code under test does not handle it as a bad row."""

    __test__ = False


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the name of the mutated module."""
    parser.addoption("--mutated", default="", help="The module whose tests come first.")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put files that mention the mutated module first, and tests that need Java last."""
    module = config.getoption("--mutated")

    @functools.cache
    def names_it(path: Path) -> bool:
        return module in path.read_text(encoding="utf-8")

    items.sort(key=lambda item: ("spark" in item.keywords, not names_it(item.path)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[Any]:
    """End a test after a minute."""

    def hung(*_: object) -> None:
        raise TestHungError(f"{item.nodeid} took more than {TEST_LIMIT_S} s")

    signal.signal(signal.SIGALRM, hung)
    signal.alarm(TEST_LIMIT_S)
    try:
        return (yield)
    finally:
        signal.alarm(0)
