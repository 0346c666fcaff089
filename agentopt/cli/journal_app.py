"""The command line of `agentopt journal`: parses arguments and calls `commands.journal`."""

from pathlib import Path
from typing import Annotated

import typer

from agentopt.cli.choices import JsonOption
from agentopt.cli.help_pages import UncutGroup
from agentopt.cli.output import stdout_console
from agentopt.core.errors import UserError

journal_app = typer.Typer(
    cls=UncutGroup, no_args_is_help=True, help="Show, export and remove the stored responses of models."
)

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "-c", "--config", metavar="SETTING", help="YAML file, or key=value, such as journal=PATH. Repeatable."
    ),
]


@journal_app.command("size")
def journal_size(json: JsonOption = False, config: Settings = None) -> None:
    """Print how many responses are stored, how old they are and how much disk they take."""
    from agentopt.cli.commands.journal import show_size

    show_size(config or [], stdout_console(), as_json=json)


@journal_app.command("list")
def journal_list(json: JsonOption = False, config: Settings = None) -> None:
    """List the models with stored responses."""
    from agentopt.cli.commands.journal import list_models

    list_models(config or [], stdout_console(), as_json=json)


@journal_app.command("prune")
def journal_prune(
    older_than: Annotated[str, typer.Option(metavar="AGE", help="Such as 30d, 12h or 2w.")],
    json: JsonOption = False,
    config: Settings = None,
) -> None:
    """Remove the responses that are older than AGE. What runs spent stays recorded."""
    from agentopt.cli.commands.journal import prune_journal

    prune_journal(older_than, config or [], stdout_console(), as_json=json)


@journal_app.command("forget")
def journal_forget(
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="A model, as `agentopt journal list` names it.")
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Run name or run folder.")] = None,
    json: JsonOption = False,
    config: Settings = None,
) -> None:
    """Remove the responses of one model, or all those to the requests of one run."""
    if (model is None) == (run is None):
        raise UserError("exactly one of --model and --run must be given", remedy="add one of them")
    from agentopt.cli.commands.journal import forget_responses

    forget_responses(model, run, config or [], stdout_console(), as_json=json)


@journal_app.command("export")
def journal_export(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON lines file to write. Default: stdout.")] = None,
    config: Settings = None,
) -> None:
    """Write every stored response with its request as one line of JSON."""
    from agentopt.cli.commands.journal import export_journal

    export_journal(out, config or [], stdout_console())
