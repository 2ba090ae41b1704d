"""A real browser for the tests of the pages: the machine's own Chromium, driven by Playwright, opened on files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MISSING = "no Chromium for the pages"
# Every width of a page in light and dark: two of the four stand for all in the quick tests.
ON_EVERY_SCREEN = pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (390, "dark"),
        pytest.param(1280, "dark", marks=pytest.mark.soak),
        pytest.param(390, "light", marks=pytest.mark.soak),
    ],
)
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str:
    """Return the path of the machine's browser; skip the test, which is told at the end of the run, without one."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if not found:
        pytest.skip(MISSING)
    return found


@contextmanager
def start_browser() -> Iterator[Browser]:
    """Yield the running browser."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 not for the tests without a browser

    program = find_browser()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page, and everything that it should not do: requests that leave the folder, errors, messages of the console."""

    def __init__(self, browser: Browser, *, width: int = 1280, scheme: str = "light") -> None:
        """Open an empty page."""
        size = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=size, color_scheme=scheme, accept_downloads=True)  # type: ignore[arg-type]
        self.faults: list[str] = []
        self.page = self.watch(self.context.new_page())

    def watch(self, page: Page) -> Page:
        """Note the faults of a page."""
        page.on(
            "request", lambda each: None if each.url.startswith(("file:", "blob:")) else self.faults.append(each.url)
        )
        page.on("console", lambda each: self.faults.append(each.text))
        page.on("pageerror", lambda each: self.faults.append(str(each)))
        page.set_default_timeout(10_000)
        return page

    def open(self, file: Path, address: str = "") -> Page:
        """Open a file, at an address (`#…`) within it."""
        self.page.goto(f"{file.as_uri()}{address}")
        return self.page

    def find_overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        found: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return found

    def find_small_texts(self) -> list[str]:
        """Return the visible texts of less than 12 pixels."""
        found: list[str] = self.page.evaluate(
            """() => [...document.querySelectorAll("body *")]
            .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) && e.offsetParent)
            .filter((e) => parseFloat(getComputedStyle(e).fontSize) < 12).map((e) => e.textContent.trim())"""
        )
        return found

    def list_barriers(self) -> list[str]:
        """Return what axe finds that keeps people out: its serious and critical findings."""
        from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415

        found = Axe().run(self.page, options={"preload": False}).response["violations"]
        return [
            f"{each['id']}: {each['nodes'][0]['html'][:200]} {each['nodes'][0]['failureSummary'][:200]}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]


def go(page: Page, address: str) -> None:
    """Have the page Explore show an address, and wait until it does."""
    page.evaluate("(address) => { delete document.body.dataset.ready; location.hash = address; }", address)
    page.wait_for_function("document.body.dataset.ready")


def read_figures(page: Page) -> dict[tuple[str, str, str], str]:
    """The figures that a page shows, by place, period and KPI: every link to one, with its text."""
    found = {}
    for address, text in page.eval_on_selector_all(
        "main a[href*='kpi=']:not(.all-seen a)",
        "(links) => links.map((a) => [a.getAttribute('href'), (a.querySelector('strong') || a).textContent])",
    ):
        found[read_address(address)] = text.strip()
    return found


def read_address(address: str) -> tuple[str, str, str]:
    """The place, period and KPI that an address of the page Explore names."""
    given = {key: values[0] for key, values in parse_qs(address.partition("#")[2]).items()}
    return given.get("place", "company"), given["period"], given["kpi"]


def describe_missing(reasons: Iterable[str]) -> str:
    """Return the loud line for the end of a test run, given why tests were skipped; empty if none lacked a browser."""
    count = sum(MISSING in reason for reason in reasons)
    if not count:
        return ""
    return f"NOT RUN: {count} tests, for there is {MISSING}. Install it (such as `apt-get install chromium`)."
