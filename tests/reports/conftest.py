"""The browser that all tests of pages share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import Browser, chromium


@pytest.fixture(scope="session")
def shared_browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def browser(shared_browser: Browser) -> Iterator[Browser]:
    """Each test sees its own page's messages and requests, and leaves no screen and no scheme behind."""
    shared_browser.driver.get("about:blank")
    shared_browser.console()
    shared_browser.requests()
    yield shared_browser
    shared_browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    shared_browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
