"""The command line of `agentopt storage`: parses arguments and calls `commands`."""

from typing import Annotated

import typer

from agentopt.cli.choices import JsonOption
from agentopt.cli.help_pages import UncutGroup
from agentopt.cli.output import stdout_console
from agentopt.cli.start_app import ConfigOption

storage_app = typer.Typer(
    cls=UncutGroup, no_args_is_help=True, help="Check, migrate and copy databases: journal, runs and jobs."
)

Place = Annotated[
    str, typer.Argument(metavar="URL|RUN", help="A SQLAlchemy URL, a database file, or the name or folder of a run.")
]


@storage_app.command("check")
def storage_check(place: Place, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Print the version and the rows of every table, and check that the database is whole.

    Exit code 1 if there is a problem.
    """
    from agentopt.cli.commands.storage import check_storage

    check_storage(place, config or [], stdout_console(), as_json=json)


@storage_app.command("migrate")
def storage_migrate(
    place: Place,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the changes without making them.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Change the tables to those of this version of agentopt."""
    from agentopt.cli.commands.storage import migrate_storage

    migrate_storage(place, config or [], stdout_console(), dry_run=dry_run, as_json=json)


@storage_app.command("copy")
def storage_copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="As URL|RUN of `storage check`.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="A SQLAlchemy URL or a database file, which may be new.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Copy everything of FROM into TO, and compare both. Nothing of TO is overwritten.

    The same command continues a copy that was stopped.
    """
    from agentopt.cli.commands.storage_copy import copy_storage

    copy_storage(source, target, config or [], stdout_console(), as_json=json)
