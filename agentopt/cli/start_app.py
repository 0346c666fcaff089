"""The command line of `agentopt quickstart`, `init` and `doctor`: parses arguments and calls `commands`."""

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from agentopt.cli.choices import JsonOption, choice_option
from agentopt.cli.output import stdout_console

TemplateName = Literal["qa", "classify-then-write", "rag", "program"]

ConfigOption = Annotated[
    list[str] | None,
    typer.Option(
        "-c",
        "--config",
        metavar="SETTING",
        help="YAML file, or key=value. Repeatable; later values override earlier ones.",
    ),
]


def quickstart(
    hosted: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Run on this hosted model: PROVIDER/MODEL or a catalogue name. Repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the worst-case cost without calling a model.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Optimise the installed example task, on two small local models or on hosted ones."""
    from agentopt.cli.commands.quickstart import run_quickstart

    run_quickstart(hosted or [], config or [], dry_run, stdout_console(), as_json=json)


def doctor(
    endpoint: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Base URL to check, too. Repeatable.")
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Check Python, extras, engine, sandbox, keys (by name), local endpoints and cache. No paid call is made."""
    from agentopt.cli.commands.doctor import run_doctor

    run_doctor(config or [], endpoint or [], json, stdout_console())


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the new task.")] = Path("task"),
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", help="Data: .csv, .tsv, .xlsx, .parquet, .json, .jsonl, hf:..."),
    ] = None,
    template: Annotated[
        TemplateName, choice_option("--template", get_args(TemplateName), help="Form of the workflow.")
    ] = "qa",
    models: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL", help="Catalogue name or PROVIDER/MODEL. Repeatable. Default: by the keys that are set."
        ),
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the expected answer.")] = None,
    json: JsonOption = False,
) -> None:
    """Write a task folder from a data file: task, settings, models, and the data in splits."""
    from agentopt.cli.commands.init import InitOptions, run_init

    run_init(InitOptions(folder, source, template, models or [], target, json), stdout_console())
