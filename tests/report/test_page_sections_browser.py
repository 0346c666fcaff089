"""In Chromium: the page of a large run, the sections of prompts and guidelines, and the comparison of runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentopt.cli.run_names import archive_of
from agentopt.core.files import write_output
from agentopt.report.comparison import comparison_page
from agentopt.runs.run_comparison import compare_runs
from tests.cli.recorded import record_run, words, write_task
from tests.report.large_page import EXAMPLES, TRIALS
from tests.report.pages import HOSTILE, page_in, prompted, with_agent
from tests.report.test_page_browser import SIZES, axe_findings, check, chromium, opened, pytestmark

__all__ = ["chromium", "pytestmark"]

ROOT = Path(__file__).parents[2]


def test_the_page_of_many_trials_is_small_and_opens(chromium: Any, tmp_path: Path) -> None:
    """In a process of its own, whose peak memory is its own."""
    built = subprocess.run(
        [sys.executable, "-m", "tests.report.large_page", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert float(built.stdout.split()[2]) < 500
    page = tmp_path / "large.html"
    assert page.stat().st_size < 6_000_000
    found = opened(chromium, page)
    assert found.page.locator("#trials tbody tr").count() == TRIALS
    assert found.page.locator("#examples tbody tr").count() == EXAMPLES
    found.page.locator("#examples td button").first.click()
    found.page.wait_for_selector("#trace h4")
    check(found)
    found.page.set_viewport_size({"width": 400, "height": 900})
    finalists = "document.querySelector('#finalists .scroll')"
    assert found.page.evaluate(f"{finalists}.scrollWidth <= {finalists}.clientWidth"), "a column for each candidate"
    assert axe_findings(found.page) == []
    found.page.close()


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
    first = "After 1 trial\n\nPrefer the small model where it is right.\n- Raise num_samples last."
    assert page.locator("#guidelines > li").first.inner_text() == first
    prompt = page.locator("#races th", has_text="system prompt").last.bounding_box()
    assert prompt["x"] + prompt["width"] <= width
    assert page.locator("#races .plot .heatmaplayer image").count() == 1
    assert page.locator("#diffs ins").count() >= 1
    check(found)
    assert axe_findings(page) == []
    assert unreached(page) == []
    page.close()


@pytest.fixture(scope="module")
def agent_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agent")
    return page_in(folder, with_agent(folder))


@SIZES
def test_who_earned_what_is_drawn(chromium: Any, agent_page: Path, width: int, scheme: str) -> None:
    found = opened(chromium, agent_page, width=width, scheme=scheme)
    page = found.page
    headings = page.locator("main section:visible > h2").all_inner_texts()
    assert headings[:4] == ["Verdict", "Best score so far", "Who earned what", "Score and cost"]
    rows = page.locator("#proposers table").first.locator("tbody tr")
    assert rows.first.locator("td").first.inner_text() == "baseline"
    by_trials = page.locator("#proposers table").first.get_by_role("button", name="trials")
    by_trials.click()
    by_trials.click()
    counts = [int(text) for text in rows.locator("td:nth-child(2)").all_inner_texts()]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]
    assert page.locator("#proposers table").count() == 2
    check(found)
    assert axe_findings(page) == []
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


@pytest.fixture(scope="module")
def compared_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The comparison of two runs on one task, one that shares no row with them, and one with a hostile name."""
    folder = tmp_path_factory.mktemp("compared")
    planted, other = write_task(folder), write_task(folder, name="<b>other", rows=words("other"))
    runs = [record_run(folder, planted), record_run(folder, planted, trials=1), record_run(folder, other)]
    page = folder / "comparison.html"
    write_output(page, comparison_page(compare_runs([archive_of(run, [], in_python="") for run in runs])))
    return page


@SIZES
def test_the_comparison_of_runs_opens(chromium: Any, compared_page: Path, width: int, scheme: str) -> None:
    found = opened(chromium, compared_page, width=width, scheme=scheme, ready="main table")
    page = found.page
    assert found.messages == []
    assert all(url.startswith(("file://", "data:")) for url in found.requests), found.requests
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("table").count() == 2
    assert page.locator("main b").count() == 0
    assert axe_findings(page) == []
    assert unreached(page) == []
    page.close()
