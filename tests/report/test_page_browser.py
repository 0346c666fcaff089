"""The page in Chromium, driven by Playwright: no error, no request, every plot, the keyboard, accessibility."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agentopt.core.records import Evaluation
from agentopt.report.page.build import write_page
from agentopt.runs.archive import RunArchive
from tests.report.pages import HOSTILE, finished, hostile, killed, page_in

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = [
    name for name, found in (("chromium", CHROMIUM), ("playwright", find_spec("playwright"))) if not found
]  # fmt: skip
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}: apt-get install chromium, .[dev]"),
]

SIZES = pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1400, "light"),
        (400, "dark"),
        pytest.param(1400, "dark", marks=pytest.mark.slow),
        pytest.param(400, "light", marks=pytest.mark.slow),
    ],
)
"""Each width and each scheme once; with `-m slow` the other pairs, because rules of a width and of a scheme differ."""
PATIENCE = 120_000
"""Milliseconds until a wait fails: long, because the suite runs beside others on few cores."""


@dataclass
class Opened:
    """A page, with what it logged and requested."""

    page: Any
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def expect_of(locator: Any) -> Any:
    from playwright.sync_api import expect

    return expect(locator)


def opened(
    chromium: Any, file: Path, *, width: int = 1400, scheme: str = "light", ready: str = "html[data-ready]"
) -> Opened:
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(PATIENCE)
    found = Opened(page)
    page.on("console", lambda message: found.messages.append(message.text))
    page.on("pageerror", lambda error: found.messages.append(str(error)))
    page.on("request", lambda request: found.requests.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector(ready)
    return found


def check(found: Opened) -> None:
    """No message, no request but of files, every plot drawn, nothing wider than the screen."""
    page = found.page
    assert found.messages == []
    assert all(url.startswith(("file://", "data:", "blob:")) for url in found.requests), found.requests
    assert page.locator(".plot").count() == page.locator(".plot .main-svg:first-child").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels)), levels


def axe_findings(page: Any) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    # Without `resultTypes` it also describes each element that follows a rule, which takes as long again.
    violations = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html']}" for v in violations]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> RunArchive:
    return finished(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def finished_page(finished_run: RunArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_in(tmp_path_factory.mktemp("page"), finished_run)


@SIZES
def test_the_page_of_a_finished_run_opens(chromium: Any, finished_page: Path, width: int, scheme: str) -> None:
    found = opened(chromium, finished_page, width=width, scheme=scheme)
    check(found)
    assert axe_findings(found.page) == []
    found.page.close()


def test_a_dark_page_is_printed_black_on_white_and_no_table_is_cut(chromium: Any, finished_page: Path) -> None:
    found = opened(chromium, finished_page, width=720, scheme="dark")  # A4 without its margins
    found.page.emulate_media(media="print", color_scheme="dark")
    assert found.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    colours = "[...new Set([...document.querySelectorAll('.plot text')].map(t => getComputedStyle(t).fill))]"
    assert found.page.evaluate(colours) == ["rgb(0, 0, 0)"]
    found.page.close()


def test_a_row_opens_its_trace_and_the_filter_narrows_the_rows(chromium: Any, finished_page: Path) -> None:
    found = opened(chromium, finished_page)
    page = found.page
    rows = page.locator("#examples tbody tr")
    everything = rows.count()
    page.select_option("#pick-filter", "won")
    won = rows.count()
    page.select_option("#pick-filter", "lost")
    assert won + rows.count() <= everything
    page.select_option("#pick-filter", "all")
    page.locator("#examples td button").first.click()
    page.wait_for_selector("#trace h4")
    assert "Subtask find" in page.inner_text("#trace")
    assert page.locator("#examples th").all_inner_texts()[3:] == ["target", "output", "tokens"]
    output, target = (rows.first.locator(f"[data-label={name}]").inner_text() for name in ("output", "target"))
    assert output == target
    page.locator("#examples th button").first.click()
    assert page.locator("#examples th[aria-sort=ascending]").count() == 1
    check(found)
    assert axe_findings(page) == []
    page.close()


def test_a_click_on_a_point_of_the_front_opens_its_trial(chromium: Any, finished_page: Path) -> None:
    page = opened(chromium, finished_page).page
    plot = page.locator("[data-figure=front] .plot")
    plot.scroll_into_view_if_needed()
    point = plot.locator(".scatterlayer .trace").first.locator("path.point").last
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    hovered = page.wait_for_selector("[data-figure=front] .hoverlayer .hovertext").text_content()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    pick = page.locator("#pick-trial")
    expect_of(pick).to_be_focused(timeout=PATIENCE)
    assert re.findall(r"trial (\d+)", hovered)[:1] == [pick.input_value()]
    page.close()


def test_a_tie_is_rounded_as_in_the_terminal(chromium: Any, finished_run: RunArchive, tmp_path: Path) -> None:
    archive = finished_run
    scores = {f"{score:.3f}": score for score in (0.5625, 0.6875, 0.0625, 0.9375)}

    def with_scores(evaluation: Evaluation) -> Evaluation:
        results = [replace(r, score=s) for r, s in zip(evaluation.results, scores.values(), strict=False)]
        return replace(evaluation, results=(*results, *evaluation.results[len(results) :]))

    trials = tuple(replace(trial, evaluation=with_scores(trial.evaluation)) for trial in archive.trials)
    page = opened(chromium, page_in(tmp_path, replace(archive, trials=trials, tests={}))).page
    shown = set(page.locator("#examples tbody td").all_inner_texts())
    assert {"0.562", "0.688", "0.062", "0.938"} == set(scores) <= shown
    page.close()


def test_every_control_is_reached_by_tab(chromium: Any, finished_page: Path) -> None:
    page = opened(chromium, finished_page).page
    page.evaluate("""() => {
        const wanted = 'a[href], button, select, summary, [tabindex="0"]';
        globalThis.left = new Set([...document.querySelectorAll(wanted)].filter(e => e.checkVisibility()));
        document.addEventListener('focusin', event => left.delete(event.target));
    }""")
    for _ in range(page.evaluate("left.size") + 5):
        page.keyboard.press("Tab")
    assert page.evaluate("[...left].map(e => e.outerHTML.slice(0, 100))") == []
    page.close()


def test_the_page_of_a_killed_run_opens(chromium: Any, tmp_path: Path) -> None:
    found = opened(chromium, page_in(tmp_path, killed(tmp_path)))
    check(found)
    assert "The run was stopped: 3 trials so far" in found.page.inner_text("#verdict")
    assert axe_findings(found.page) == []
    found.page.close()


def test_hostile_texts_are_shown_as_they_are(chromium: Any, tmp_path: Path) -> None:
    found = opened(chromium, page_in(tmp_path, hostile(tmp_path)), width=400)
    page = found.page
    for place in range(4):
        page.locator("#examples td button").nth(place).click()
        page.wait_for_selector("#trace h4")
        if place == 0:  # an answer of a million characters, which a browser needs minutes to lay out
            assert page.evaluate("document.querySelector('#trace').textContent.length") < 200_000
            assert page.get_by_role("button", name="Show all 1,000,000 characters").count() == 4
    shown = page.evaluate("document.body.textContent")
    assert sum(text.encode(errors="replace").decode() in shown for text in HOSTILE) >= len(HOSTILE) - 1
    assert page.evaluate("globalThis.broken === undefined")
    assert page.locator("main img, main b, main script").count() == 0
    check(found)
    page.close()


def test_traces_beside_the_page_are_loaded_when_a_trial_is_opened(
    chromium: Any, finished_run: RunArchive, tmp_path: Path
) -> None:
    page = write_page(finished_run, tmp_path / "page.html", every_trial=True, most_embedded=0)
    found = opened(chromium, page)
    found.page.locator("#examples td button").first.click()
    found.page.wait_for_selector("#trace h4")
    assert any(url.endswith(".js") for url in found.requests)
    check(found)
    found.page.close()
