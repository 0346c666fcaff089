"""The command line of `agentopt inspect` and `compare`: parses arguments and calls `commands`."""

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from agentopt.cli.choices import JsonOption, choice_option
from agentopt.cli.output import stdout_console
from agentopt.cli.start_app import ConfigOption

RecordedSplit = Literal["validation", "test"]
Role = Literal["baseline", "best", "recommended"]
SPLITS = get_args(RecordedSplit)


def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run name or run folder.")],
    trial: Annotated[int | None, typer.Option(metavar="N", help="Number of the trial. Default: the best one.")] = None,
    example: Annotated[
        str | None, typer.Option(metavar="ID", help="Show what every subtask was sent and answered on this example.")
    ] = None,
    split: Annotated[
        RecordedSplit | None,
        choice_option("--split", SPLITS, help="Default: validation, or the split that has the example."),
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the examples of a trial of RUN, those that it lost against the baseline first, without a model call."""
    from agentopt.cli.commands.inspect import InspectOptions, inspect_run

    inspect_run(InspectOptions(run, trial, example, split, json), config or [], stdout_console())


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run names or run folders.")],
    split: Annotated[RecordedSplit, choice_option("--split", SPLITS, help="Split to compare on.")] = "test",
    role: Annotated[
        Role, choice_option("--role", get_args(Role), help="Which candidate of each run is compared.")
    ] = "best",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an HTML page to this file.")] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compare the best candidates of two or more runs on the examples that they share, without a model call."""
    from agentopt.cli.commands.compare import CompareOptions, run_comparison

    run_comparison(CompareOptions(runs, role, split, json, out), config or [], stdout_console())
