"""The command line of `agentopt inspect` and `compare`: parses arguments and calls `commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from agentopt.cli.output import stdout_console
from agentopt.cli.start_app import ConfigOption

RecordedSplit = Literal["validation", "test"]


def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run name or run folder.")],
    trial: Annotated[int | None, typer.Option(metavar="N", help="Number of the trial. Default: the best one.")] = None,
    example: Annotated[
        str | None, typer.Option(metavar="ID", help="Show what every subtask was sent and answered on this example.")
    ] = None,
    split: Annotated[
        RecordedSplit | None, typer.Option(help="Default: validation, or the split that has the example.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show the examples of a trial of RUN, those that it lost against the baseline first, without a model call."""
    from agentopt.cli.commands.inspect import InspectOptions, inspect_run

    inspect_run(InspectOptions(run, trial, example, split, json), config or [], stdout_console())
