"""`agentopt diagnose`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from agentopt.api import diagnose
from agentopt.core.candidate import load_candidate
from agentopt.core.events import Event
from agentopt.report.prompts import print_diagnosis
from agentopt.runs.config import load_config


def run_diagnosis(
    task: Path, subtask: str | None, candidate: Path | None, as_json: bool, settings: Sequence[str], console: Console
) -> None:
    """Print what the pilot of each subtask says; as a JSON list where `as_json`, with nothing else on stdout."""
    config = load_config(settings)
    chosen = load_candidate(candidate) if candidate else None
    progress = Console(stderr=True)

    def tell(event: Event) -> None:
        if event.kind != "example_done":
            progress.print(event.message, markup=False, highlight=False, soft_wrap=True)

    try:
        found = diagnose(task, config, subtask=subtask, candidate=chosen, observer=tell)
    except KeyboardInterrupt:
        progress.print("stopped; run the command again to go on: what was answered is kept")
        sys.exit(130)
    if as_json:
        print("[" + ",\n".join(each.to_json() for each in found) + "]")  # noqa: T201 - the output of the command
        return
    for diagnosis in found:
        print_diagnosis(diagnosis, console)
