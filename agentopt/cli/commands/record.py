"""`agentopt record`."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from agentopt.api import load
from agentopt.models.session import open_session
from agentopt.report.bars import counting_bar
from agentopt.runs.config import Config, load_config
from agentopt.search.landscape import Landscape, record


def run_recording(task: Path, out: Path, settings: Sequence[str], console: Console) -> None:
    """`agentopt record`: one line of progress with the time left on stderr, then what was kept."""
    config, stderr = load_config(settings), Console(stderr=True)
    try:
        with counting_bar(stderr, "candidates") as show:
            landscape = asyncio.run(_record(task, config, show))
    except KeyboardInterrupt:
        stderr.print("stopped; run the command again to go on: what was answered is kept")
        sys.exit(130)
    landscape.save(out)
    console.print(f"{out}: {landscape.about}", markup=False, highlight=False, soft_wrap=True)
    best = max(landscape.space.candidates(), key=landscape.exact)
    base = landscape.exact(landscape.space.baseline)
    console.print(
        f"{len(landscape.scores)} candidates of {landscape.space.size} are affordable; baseline {base:.3f}, "
        f"best {landscape.optimum:.3f}: {best}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


async def _record(task: Path, config: Config, on_candidate: Callable[[int, int], None]) -> Landscape:
    loaded, specs = load(task, config, agent=False)
    run = f"record {loaded.name} {uuid.uuid4().hex}"
    async with open_session(specs, run, caps=config.budget.caps(), journal=config.journal) as session:
        return await record(loaded, session, seed=config.response_seed, on_candidate=on_candidate)
