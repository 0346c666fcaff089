"""Make `docs/images/report.png`, the README's picture of a run's page, with Playwright and Debian's Chromium.

Usage: python tools/screenshots.py [FOLDER]. The run is scripted, so no model is called.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import sync_playwright

from agentopt.api import LoadedTask, optimize
from agentopt.core.task import Task
from agentopt.models.catalog import ModelSpec
from agentopt.report.page.build import write_page
from agentopt.runs.archive import open_archive
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.testing.toy import toy_model, toy_task

PRICES = {"small": 0.1, "large": 0.6}
"""Model -> USD per 1M tokens."""
IMAGE = "report.png"


def example_task() -> Task:
    """The toy task with models that have a price."""
    task = toy_task(validation=40, test=60)
    subtasks = tuple(replace(subtask, models=tuple(PRICES)) for subtask in task.subtasks)
    return replace(task, name="two-step answers", subtasks=subtasks, max_units=None)


def page_of_run(folder: Path) -> Path:
    """Run the example task, and return the run's page."""
    quality = {("find", "small"): 0.3, ("find", "large"): 0.9, ("answer", "small"): 0.7, ("answer", "large"): 0.75}
    specs = {
        name: ModelSpec(name=name, base_url="http://127.0.0.1:9/v1", usd_per_1m_prompt=p, usd_per_1m_completion=4 * p)
        for name, p in PRICES.items()
    }
    os.chdir(folder)  # so that the picture shows no path of a machine
    config = Config.model_validate(
        {
            "runs": "runs",
            "journal": str(folder / "journal.db"),
            "strategy": "random",
            "budget": {"trials": 24},
            "prompts": {"when": "never"},
        }
    )
    loaded = LoadedTask(example_task(), specs)
    result = optimize(loaded, config, provider=toy_model(quality))
    return write_page(open_archive(RunFolder.open(result.run), *loaded)).absolute()


def main() -> None:
    """Write the picture."""
    images = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images").absolute()
    images.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = page_of_run(Path(folder))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 1270})
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-ready]")
        page.screenshot(path=images / IMAGE)
        browser.close()
    print(f"{images / IMAGE}: {(images / IMAGE).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
