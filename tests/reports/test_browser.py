"""The page in a real browser, opened from disk with the network off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import browser
import pytest

pytestmark = pytest.mark.skipif(browser.BINARY is None, reason="Chromium is not installed: apt-get install chromium")

LAYOUT = """(async () => {
  await Promise.all([...document.images].map(image => image.decode()));
  const outside = [...document.querySelectorAll('main *')].filter(
    node => !node.closest('.scroll') && node.getBoundingClientRect().right > innerWidth + 0.5);
  const visible = image => image.naturalWidth > 0 && image.checkVisibility() && image.clientWidth >= 300;
  return {
    width: innerWidth,
    page: document.documentElement.scrollWidth,
    figures: document.images.length,
    invisible: [...document.images].filter(image => !visible(image)).map(image => image.alt),
    outside: outside.map(node => node.tagName),
    small: [...document.querySelectorAll('td, th')].filter(cell => parseFloat(getComputedStyle(cell).fontSize) < 11.9).length,
    tables: document.querySelectorAll('table').length,
    broken: [...document.querySelectorAll('a[href^="#"]')].filter(link => !document.querySelector(link.hash)).length,
  };
})()"""


@pytest.fixture(scope="module")
def window() -> Iterator[browser.Browser]:
    with browser.Browser() as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [("quick", 400, True), ("study", 400, False), ("study", 1400, False), ("study", 1400, True)],
)
def test_page_in_chromium(
    name: str, width: int, dark: bool, window: browser.Browser, request: pytest.FixtureRequest
) -> None:
    page: Path = request.getfixturevalue(name) / "report" / "report.html"
    drawn = len(list((page.parent / "figures").glob("*.png")))
    window.open(page, width=width, dark=dark)
    layout = window.evaluate(LAYOUT)
    assert layout["width"] == width
    assert layout["page"] <= width, "the page scrolls sideways"
    assert layout["figures"] == drawn > 0
    assert layout["tables"] > 5
    assert not layout["invisible"]
    assert not layout["outside"]
    assert layout["small"] == layout["broken"] == 0
    background = window.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is not dark
    bad = [
        event
        for event in window.events
        if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
    ]
    assert not bad
    asked = [
        event["params"]["request"]["url"] for event in window.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith("data:")] == [page.resolve().as_uri()]


def test_the_browser_test_sees_a_broken_page(tmp_path: Path, window: browser.Browser) -> None:
    """What the test above looks for is found where it is present."""
    page = tmp_path / "broken.html"
    page.write_text(
        "<main><div style='width:2000px'>x</div><img src='data:image/png;base64,AAAA' alt='no picture'></main>"
        "<img src='https://example.org/x.png' alt='elsewhere'><script>nothing()</script>"
    )
    window.open(page, width=400)
    assert window.evaluate("document.documentElement.scrollWidth") > 400
    assert window.evaluate("[...document.images].every(image => image.naturalWidth == 0)")
    methods = [event["method"] for event in window.events]
    urls = [
        event["params"]["request"]["url"] for event in window.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert "https://example.org/x.png" in urls
    assert "Runtime.exceptionThrown" in methods
    assert "Log.entryAdded" in methods
