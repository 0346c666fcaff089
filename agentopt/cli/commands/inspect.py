"""`agentopt inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from agentopt.cli.output import print_json
from agentopt.cli.run_names import archive_of
from agentopt.report.trace import print_trace, trial_examples_table
from agentopt.runs.inspection import InspectedSplit, inspect_example, inspect_trial


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """The options of `agentopt inspect`; see its help."""

    run: Path
    trial: int | None
    example: str | None
    split: InspectedSplit | None
    as_json: bool


def inspect_run(options: InspectOptions, settings: Sequence[str], console: Console) -> None:
    """`agentopt inspect`: prints the examples of a trial, or the trace of one of them."""
    archive = archive_of(options.run, settings, in_python="call agentopt.runs.inspection with an archive of the run")
    if options.example is None:
        trial = inspect_trial(archive, options.trial, options.split or "validation")
        if options.as_json:
            print_json(trial)
        else:
            console.print(trial_examples_table(trial))
        return
    example = inspect_example(archive, options.example, options.trial, options.split)
    if options.as_json:
        print_json(example)
    else:
        print_trace(example, console)
