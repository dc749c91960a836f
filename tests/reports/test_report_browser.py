"""The page in a real browser: nothing is logged or asked for, plots are drawn, hovering shows what a point is."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from cli_helpers import run
from pictures import encode
from report_helpers import EVIL, SPEC, clustered, page_of, write_plain
from selenium.webdriver.common.keys import Keys
from storage_jobs import do, lines

from clipmill.encoders import EncoderSpec
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.indexes.build import IndexOptions, build_index

pytestmark = pytest.mark.browser


def photographs(tmp_path: Path, rows: int = 12) -> Path:
    """Write a dataset of captions and pictures, with names that are meant to be code."""
    records = []
    for number in range(rows):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30 + number, 3), np.uint8)
        (tmp_path / f"{number}.png").write_bytes(encode(pixels))
        records.append({"id": f"{EVIL}{number}", "caption": f"{EVIL} $$x$$", "photo": str(tmp_path / f"{number}.png")})
    records.append({"id": EVIL, "caption": "", "photo": "/nowhere.png"})
    spec = EncoderSpec(SPEC.model, device="cpu", allow_local_files=True)
    plan = ColumnPlan.of({"photo": "image", "caption": "text"})
    do(str(tmp_path / "out"), lines(tmp_path / "in.jsonl", *records), plan, spec=spec, rows=3)
    return tmp_path / "out"


def index(tmp_path: Path) -> Path:
    write_plain(tmp_path / "v.parquet", clustered(600), id=[f"row-{n}" for n in range(600)])
    build_index([str(tmp_path / "v.parquet")], str(tmp_path / "index"), IndexOptions(factory="IVF8,SQ8", queries=50))
    return tmp_path / "index"


@pytest.mark.parametrize(("make", "plots"), [(photographs, 8), (index, 3)])
def test_plots_are_drawn_and_nothing_is_logged_or_asked_for(browser: Browser, tmp_path: Path, make, plots) -> None:
    page_of(tmp_path, make(tmp_path))
    page = tmp_path / "report.html"
    browser.open(page)
    drawn = browser.plots()
    assert len(drawn) == plots
    for plot in drawn:
        browser.wait(lambda plot=plot: browser.painted(plot) > 1000)
    assert browser.console() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.driver.title.endswith("– clipmill report")  # no name was run as code


def test_an_empty_place_for_a_plot_is_seen_as_empty(browser: Browser, tmp_path: Path) -> None:
    """The check itself: a page that logs, asks the network, and draws nothing."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<div class=plot><canvas width=9 height=9></canvas></div><script>console.error('oh')</script>"
        "<img src='http://127.0.0.1:9/a.png'>"
    )
    browser.driver.get(page.as_uri())
    seen: list[str] = []
    browser.wait(lambda: len(seen) > 1 or bool(seen.extend(browser.requests())))
    assert "http://127.0.0.1:9/a.png" in seen
    assert any("oh" in line for line in browser.console())
    assert [browser.painted(plot) for plot in browser.plots()] == [0]


POINT = """
function* below(view) {
  yield view;
  for (const inner of view.children_views()) yield* below(inner);
}
const views = Object.values(Bokeh.index).flatMap(view => [...below(view)]);
const cloud = views.find(view => view.glyph?.model.type == "Scatter" && view.model.data_source.data[arguments[0]]);
const {x, y, name} = cloud.model.data_source.data, inside = cloud.plot_view.canvas_view.el.getBoundingClientRect();
const {x_scale, y_scale} = cloud.coordinates;
return [inside.left + x_scale.compute(x[0]), inside.top + y_scale.compute(y[0]), name[0]];
"""
TOOLTIP = """
function* within(root) {
  for (const element of root.querySelectorAll("*")) {
    yield element;
    if (element.shadowRoot) yield* within(element.shadowRoot);
  }
}
const found = [...within(document)].find(element => element.classList.contains("clipmill-hover"));
if (!found) return null;
const image = found.querySelector("img");
return [found.textContent, image && image.src.slice(0, 23), image && image.naturalWidth,
  [...found.querySelectorAll("*")].map(element => element.tagName).join(" ")];
"""


def hover(browser: Browser, column: str) -> tuple[str, list]:
    """Move the mouse to the first point of a cloud that has a column, and return its name and what is shown."""
    figure = next(plot for plot in browser.plots())
    browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
    place = browser.driver.execute_script(POINT, column)
    x, y, name = place
    browser.move_to(x - 60, y - 60)
    browser.move_to(x, y)
    browser.wait(lambda: browser.driver.execute_script(TOOLTIP))
    return name, browser.driver.execute_script(TOOLTIP)


def test_hovering_shows_the_thumbnail_of_a_point(browser: Browser, tmp_path: Path) -> None:
    page_of(tmp_path, photographs(tmp_path), "--column", "photo_embedding")
    browser.open(tmp_path / "report.html")
    name, (text, source, width, tags) = hover(browser, "picture")
    assert name in text and name.startswith("<script>")
    assert source == "data:image/jpeg;base64," and width == 30
    assert tags == "IMG DIV"
    assert browser.driver.title.endswith("– clipmill report") and browser.console() == []


def test_hovering_shows_the_text_of_a_point(browser: Browser, tmp_path: Path) -> None:
    page_of(tmp_path, photographs(tmp_path), "--column", "caption_embedding")
    browser.open(tmp_path / "report.html")
    _, (text, source, _, tags) = hover(browser, "text")
    assert f"{EVIL} $$x$$" in text and source is None and tags == "DIV DIV"
    assert browser.requests() == [(tmp_path / "report.html").as_uri()]  # no library for formulas either


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both kinds of pages, with failures, near-duplicates and long names in them."""
    tmp_path = tmp_path_factory.mktemp("pages")
    data = photographs(tmp_path)
    page_of(tmp_path, data, "--duplicates-above", "0.2")
    sheet = tmp_path / "sheet.html"
    given = [data, "--column", "photo_embedding", "red", f"{EVIL} " * 9, "-k", "3", "--columns", "photo,caption"]
    assert run("search", *given, "--html", sheet) == 0
    return {"report": tmp_path / "report.html", "search": sheet}


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_window(browser: Browser, pages: dict[str, Path], width: int) -> None:
    for page in pages.values():
        browser.resize(width)
        browser.open(page)
        inside, window = browser.driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert window == width and inside <= width, page


WORDS = """
const ground = element => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (colour != "rgba(0, 0, 0, 0)") return colour;
  }
};
return [...document.querySelectorAll("body *")]
  .filter(one => [...one.childNodes].some(node => node.nodeType == 3 && node.textContent.trim()))
  .filter(one => one.getClientRects().length && !["SCRIPT", "STYLE"].includes(one.tagName))
  .map(one => [getComputedStyle(one).color, ground(one), one.outerHTML.slice(0, 80)]);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_the_ground(browser: Browser, pages: dict[str, Path], scheme: str) -> None:
    """Contrast as WCAG reckons it, 4.5 for text, of every word on both pages, whichever scheme the reader has."""
    for page in pages.values():
        browser.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        browser.open(page)
        words = browser.driver.execute_script(WORDS)
        assert len(words) > 20 and (luminance(words[0][1]) < 0.1) == (scheme == "dark")
        for ink, ground, where in words:
            low, high = sorted([luminance(ground), luminance(ink)])
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ground, ink, where)


FOCUS = """
const focused = document.activeElement, outline = one => getComputedStyle(one).outlineStyle;
const ring = [focused, focused.closest(".plot")].some(one => one && outline(one) == "solid");
const {top, bottom, left, right} = focused.getBoundingClientRect();
const isSeen = top < innerHeight && bottom > 0 && left < innerWidth && right > 0;
return [focused.tagName, focused.getAttribute("href") || focused.className, ring && isSeen];
"""


def tab_stops(browser: Browser) -> list[tuple[str, str]]:
    """Press Tab until the page's end, and return what got the focus; each shows that it has it."""
    stops: list[tuple[str, str]] = []
    while True:
        browser.press(Keys.TAB)
        tag, what, is_seen = browser.driver.execute_script(FOCUS)
        if tag == "BODY":
            return stops
        assert is_seen, (tag, what)
        stops.append((tag, what))
        assert len(stops) < 100


def test_every_link_and_hit_is_reached_with_the_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["search"])
    links = [("A", "#main"), ("A", "#query-1"), ("A", "#query-2")]
    assert tab_stops(browser) == links + [("LI", "")] * 6
    assert browser.console() == [] and browser.requests() == [pages["search"].as_uri()]
    browser.open(pages["report"])
    stops = tab_stops(browser)
    sections = ["failures", "vectors-1", "vectors-2", "job"]
    assert stops[:5] == [("A", f"#{name}") for name in ("main", *sections)]
    tables = browser.driver.find_elements("css selector", ".wide[tabindex]")  # which may scroll
    assert len(stops) == 5 + len(browser.plots()) + len(tables) and len(tables) == 2
    for name in sections:
        assert browser.driver.find_elements("id", name)


def test_a_reader_may_skip_to_the_content(browser: Browser, pages: dict[str, Path]) -> None:
    for page in pages.values():
        browser.open(page)
        browser.press(Keys.TAB)
        browser.press(Keys.ENTER)
        assert browser.driver.execute_script("return document.activeElement.id") == "main"


def test_headings_landmarks_and_images_have_names(browser: Browser, pages: dict[str, Path]) -> None:
    """No level of heading is left out, and every image says what it shows."""
    for page in pages.values():
        browser.open(page)
        levels, images, landmarks = browser.driver.execute_script(
            "const all = what => [...document.querySelectorAll(what)];"
            "return [all('h1, h2, h3, h4').map(one => +one.tagName[1]), all('img').map(one => one.alt),"
            " all('header, nav, main').map(one => one.tagName)]"
        )
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        assert images and all(images)
        assert landmarks == ["HEADER", "NAV", "MAIN"]


def test_near_duplicates_stand_side_by_side(browser: Browser, pages: dict[str, Path]) -> None:
    """With both pictures, on a phone too."""
    browser.resize(360)
    browser.open(pages["report"])
    pairs = browser.driver.execute_script(
        "return [...document.querySelectorAll('.duplicates li')].filter(pair => pair.querySelector('img')).map(pair =>"
        " [...pair.querySelectorAll('.side')].map(side => [side.getBoundingClientRect(), side.querySelector('img')])"
        " .map(([box, image]) => [box.top, box.left, image.naturalWidth]))"
    )
    assert pairs
    for first, second in pairs:
        assert first[0] == second[0] and first[1] < second[1] and first[2] > 0 < second[2]


def luminance(colour: str) -> float:
    """Return the relative luminance of `rgb(r, g, b)`, 0 to 1."""
    parts = [int(part) / 255 for part in colour.strip("rgb()").split(",")]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
