"""The live page in Chromium: it follows the run without a reload, and what the reader opened stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.report.live_pages import LiveRun
from tests.report.test_page_browser import PATIENCE, Opened, axe_findings, check, chromium, pytestmark

__all__ = ["chromium", "pytestmark"]


def opened(chromium: Any, address: str, width: int) -> Opened:
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE)
    found = Opened(page)
    page.on("console", lambda message: found.messages.append(message.text))
    page.on("pageerror", lambda error: found.messages.append(str(error)))
    page.on("request", lambda request: found.requests.append(request.url))
    page.goto(address)
    page.evaluate("globalThis.isNotReloaded = true")
    return found


def check_live(found: Opened, address: str) -> None:
    """As `check`, but every request is to the page's address."""
    assert all(url.startswith((address, "data:", "blob:")) for url in found.requests), found.requests
    found.requests.clear()
    check(found)
    assert found.page.evaluate("globalThis.isNotReloaded")
    assert axe_findings(found.page) == []


def rows(page: Any, count: int) -> None:
    page.wait_for_selector(f"#trials tbody tr:nth-child({count}):last-child")


@pytest.mark.parametrize("widths", [(1400, 400), pytest.param((400, 1400), marks=pytest.mark.slow)])
def test_the_page_follows_the_run_and_keeps_what_the_reader_opened(
    chromium: Any, tmp_path: Path, widths: tuple[int, int]
) -> None:
    run = LiveRun(tmp_path, stops=(0, 2))
    with run.serving():
        found = opened(chromium, run.address, widths[0])
        page = found.page
        page.wait_for_selector("#activity:not(:empty)")
        assert "Waiting for the first trial" in page.inner_text("main")
        assert not page.is_visible("#verdict")
        assert axe_findings(page) == []

        run.start()
        rows(page, 1)
        assert not page.is_visible("#wait")
        page.locator("#examples td button").first.click()
        page.wait_for_selector("#trace h4")
        page.locator("#trace summary").first.click()
        page.locator("#examples th button").nth(1).click()
        example = page.inner_text("#examples tr.chosen button")

        run.go_on()
        rows(page, 3)
        assert page.locator("#trace details[open] > summary").count() == 1
        assert page.inner_text("#examples tr.chosen button") == example
        assert page.locator("#examples th[aria-sort=ascending]").count() == 1
        assert page.evaluate("document.activeElement.closest('#examples th') !== null")
        check_live(found, run.address)
        page.select_option("#pick-trial", "2")
        page.select_option("#pick-filter", "won")
        shown = page.locator("#examples tbody tr").count()

        page.set_viewport_size({"width": widths[1], "height": 900})
        run.go_on()
        run.end()
        page.wait_for_selector("#connection:has-text('has ended')")
        page.wait_for_selector("header .kicker:has-text('finished')")
        assert page.locator("#trials tbody tr").count() == 6
        assert (page.input_value("#pick-trial"), page.input_value("#pick-filter")) == ("2", "won")
        assert page.locator("#examples tbody tr").count() == shown
        check_live(found, run.address)
        page.close()
