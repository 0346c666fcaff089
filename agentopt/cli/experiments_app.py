"""The command line of `agentopt reproduce` and `record`: parses arguments and calls `commands`."""

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from agentopt.cli.choices import JsonOption
from agentopt.cli.output import stdout_console
from agentopt.cli.start_app import ConfigOption

Paper = Literal["agenttts", "p1"]


def reproduce(
    paper: Annotated[str, typer.Argument(metavar="|".join(get_args(Paper)), help="The paper.")],
    table: Annotated[
        str, typer.Option(metavar="NAME", help="agenttts: 1, ablation or robustness; p1: aime or ifbench.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the runs; the same folder resumes them.")] = Path("reproduced"),
    data: Annotated[Path, typer.Option(help="Folder of the data files.")] = Path("data/papers"),
    configs: Annotated[Path | None, typer.Option(help="Folder of the experiments. Default: configs/papers.")] = None,
    row: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Run this row only. Repeatable.")] = None,
    column: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Run this column only. Repeatable.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, max=1000, help="Number of seeds. Default: 3.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the cost without calling a model.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Run the experiments of a paper, and print its table beside the paper's figures."""
    from agentopt.cli.commands.reproduce import ReproduceOptions, estimate_reproduction, run_reproduction

    chosen = (tuple(row or ()), tuple(column or ()), seeds)
    options = ReproduceOptions(paper, table, out / f"{paper}-{table}", data, configs, *chosen, json)
    command = estimate_reproduction if dry_run else run_reproduction
    command(options, config or [], stdout_console())


def record(
    task: Annotated[Path, typer.Argument(metavar="TASK", help="Task folder, such as tasks/quickstart.")],
    out: Annotated[Path, typer.Option(help="Output file, such as mytask.npz.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Evaluate every affordable candidate of TASK once, so that searches on it can be measured without model calls."""
    from agentopt.cli.commands.record import run_recording

    run_recording(task, out, config or [], stdout_console(), as_json=json)
