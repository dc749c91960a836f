"""A headless chromium for tests of pages: what it logged, what it asked the network for, what it drew."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains

NEEDED = "these tests need Debian's chromium and chromium-driver: apt-get install -y chromium chromium-driver"

# Every canvas of a page, also those in the shadow trees of Bokeh's elements, with how many of its pixels are painted.
_CANVASES = """
function* within(root) {
  for (const element of root.querySelectorAll("*")) {
    yield element;
    if (element.shadowRoot) yield* within(element.shadowRoot);
  }
}
return [...arguments[0].children].flatMap(child => [child, ...within(child)])
  .flatMap(element => [element, ...(element.shadowRoot ? within(element.shadowRoot) : [])])
  .filter(element => element.tagName == "CANVAS" && element.width && element.height)
  .map(canvas => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data)
  .map(data => { let painted = 0; for (let n = 3; n < data.length; n += 4) painted += data[n] > 0; return painted; });
"""
_IDLE = "return window.Bokeh !== undefined && Object.values(Bokeh.index).length >= arguments[0]"


class Browser:
    """A page that is open, and what the browser says of it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, page: Path) -> None:
        """Open a file as a double click does, and wait until its plots are there."""
        self.driver.get(page.as_uri())
        plots = len(self.driver.find_elements("css selector", ".plot"))
        self.wait(lambda: not plots or self.driver.execute_script(_IDLE, plots))

    def wait(self, is_so: Any, seconds: float = 30.0) -> None:
        """Wait until something is so.

        Raises:
            AssertionError: If it is not so in time; with what the console says.
        """
        end = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < end, f"not so after {seconds} s; the console says {self.console()}"
            time.sleep(0.1)

    def painted(self, plot: Any) -> int:
        """Return how many pixels of a plot are painted."""
        return sum(self.driver.execute_script(_CANVASES, plot))

    def plots(self) -> list[Any]:
        return self.driver.find_elements("css selector", ".plot")

    def console(self) -> list[str]:
        """Return the warnings and errors of the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]

    def requests(self) -> list[str]:
        """Return what was asked for since the last call, data: and the browser's own pages left out."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith(("data:", "chrome:", "about:"))]

    def press(self, key: str) -> None:
        """Press a key, wherever the focus is."""
        ActionChains(self.driver).send_keys(key).perform()

    def resize(self, width: int, height: int = 900) -> None:
        """Give the window's inside a size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def move_to(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window."""
        chain = ActionChains(self.driver, duration=50)
        chain.w3c_actions.pointer_action.move_to_location(int(x), int(y))
        chain.perform()


@contextlib.contextmanager
def chromium(width: int = 1200, height: int = 1000, *options: str) -> Iterator[Browser]:
    """Start a headless chromium.

    Raises:
        AssertionError: If it is not installed, with the line that helps.
    """
    binary, service = shutil.which("chromium"), shutil.which("chromedriver")
    assert binary and service, NEEDED
    settings = webdriver.ChromeOptions()
    settings.binary_location = binary
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *options):
        settings.add_argument(option)
    settings.add_argument(f"--window-size={width},{height}")
    settings.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=settings, service=Service(service))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
