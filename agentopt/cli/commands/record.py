"""`agentopt record`."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from agentopt.api import load
from agentopt.cli.output import interruptible, print_json, print_plain, stderr_console
from agentopt.core.candidate import Candidate
from agentopt.core.events import Note, Observer
from agentopt.core.files import check_writable
from agentopt.core.message_text import counted
from agentopt.models.session import open_session
from agentopt.report.bars import counting_bar
from agentopt.runs.config import Config, load_config
from agentopt.runs.ending import ending_once
from agentopt.search.recorded_landscape import Landscape, record


@dataclass(frozen=True, slots=True)
class RecordedLandscape:
    """The output of `agentopt record --json`.

    Attributes:
        file: The file of the landscape.
        candidates: Number of affordable candidates, each of which was evaluated.
        space: Number of all candidates.
        baseline: Score of the baseline.
        best: The candidate with the highest score.
        optimum: Its score.
    """

    file: Path
    candidates: int
    space: int
    baseline: float
    best: Candidate
    optimum: float


def run_recording(task: Path, out: Path, settings: Sequence[str], console: Console, *, as_json: bool = False) -> None:
    """`agentopt record`: a progress bar on stderr, then the summary of the recorded landscape on stdout."""
    check_writable(out, new_folder=True)
    config, stderr = load_config(settings), stderr_console()
    with interruptible(stderr), counting_bar(stderr, "candidates") as show:
        landscape = asyncio.run(_record(task, config, show, lambda event: print_plain(stderr, event.message)))
    landscape.save(out)
    best = max(landscape.space.candidates(), key=landscape.exact)
    base = landscape.exact(landscape.space.baseline)
    if as_json:
        size = landscape.space.size
        print_json(RecordedLandscape(out, len(landscape.scores), size, base, best, landscape.optimum))
        return
    print_plain(console, f"{out}: {landscape.about}")
    print_plain(
        console,
        f"{len(landscape.scores)} of {counted(landscape.space.size, 'candidate')} can be afforded; "
        f"baseline {base:.3f}, best {landscape.optimum:.3f}: {best}",
    )


async def _record(
    task: Path, config: Config, on_candidate: Callable[[int, int], None], observer: Observer
) -> Landscape:
    loaded, specs = load(task, config, agent=False)
    run = f"record {loaded.name} {uuid.uuid4().hex}"
    for subtask in loaded.subtasks:
        if subtask.demos:
            left_out = ", ".join(map(str, subtask.demos.count[1:]))
            rule = f"demonstrations are not recorded, so candidates with {left_out} of them are left out"
            observer(Note(f"subtask {subtask.name}: {rule}; `agentopt optimize` tries them"))
    caps, journal = config.budget.caps(), config.journal
    opening = open_session(specs, run, caps=caps, journal=journal, observer=observer)
    async with ending_once(observer), opening as session:
        return await record(loaded, session, seed=config.response_seed, on_candidate=on_candidate)
