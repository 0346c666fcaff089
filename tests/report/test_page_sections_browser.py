"""In Chromium: the sections of prompts and guidelines, in both schemes and at both widths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.report.pages import HOSTILE, page_in, prompted
from tests.report.test_page_browser import check, chromium, opened, pytestmark, serious_findings

__all__ = ["chromium", "pytestmark"]

SIZES = pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (400, "light"), (400, "dark")])


@pytest.fixture(scope="module")
def prompted_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompted")
    return page_in(folder, prompted(folder))


@SIZES
def test_prompts_and_guidelines_are_drawn(chromium: Any, prompted_page: Path, width: int, scheme: str) -> None:
    found = opened(chromium, prompted_page, width=width, scheme=scheme)
    page = found.page
    assert page.locator("#guidelines > li").count() == 3
    assert HOSTILE[0] in page.inner_text("#guidelines")
    assert page.locator("#races .plot .heatmaplayer image").count() == 1
    assert page.locator("#diffs ins").count() >= 1
    check(found)
    assert serious_findings(page) == []
    assert unreached(page) == []
    page.close()


def unreached(page: Any) -> list[str]:
    """The visible controls that Tab does not reach, and those that show no focus."""
    page.evaluate("""() => {
        const wanted = 'a[href], button, select, summary, [tabindex="0"]';
        globalThis.left = new Set([...document.querySelectorAll(wanted)].filter(e => e.checkVisibility()));
        document.addEventListener('focusin', event => {
            if (getComputedStyle(event.target).outlineStyle !== 'none') left.delete(event.target);
        });
    }""")
    for _ in range(page.evaluate("left.size") + 5):
        page.keyboard.press("Tab")
    return list(page.evaluate("[...left].map(e => e.outerHTML.slice(0, 100))"))
