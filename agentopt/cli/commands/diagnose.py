"""`agentopt diagnose`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from agentopt.api import diagnose
from agentopt.cli.output import interruptible, print_plain
from agentopt.cli.run_names import candidate_of
from agentopt.core.events import Event
from agentopt.report.prompts import print_diagnosis


def run_diagnosis(
    task: Path, subtask: str | None, candidate: Path | None, as_json: bool, settings: Sequence[str], console: Console
) -> None:
    """`agentopt diagnose`: progress on stderr; the diagnosis of each subtask on stdout, as a JSON list if `as_json`."""
    chosen, config = candidate_of(candidate, settings)
    progress = Console(stderr=True)

    def observe(event: Event) -> None:
        if event.logged:
            print_plain(progress, event.message)

    with interruptible(progress):
        found = diagnose(task, config, subtask=subtask, candidate=chosen, callbacks=[observe])
    if as_json:
        print("[" + ",\n".join(each.to_json() for each in found) + "]")  # noqa: T201 - the output of the command
        return
    for diagnosis in found:
        print_diagnosis(diagnosis, console)
