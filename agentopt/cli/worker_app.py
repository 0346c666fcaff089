"""The command line of `agentopt worker`: parses arguments and calls `commands`."""

from typing import Annotated

import typer


def worker(
    storage: Annotated[
        str,
        typer.Option(
            envvar="AGENTOPT_STORAGE",
            show_envvar=False,
            help="The journal of the runs to work for: a path or a SQLAlchemy URL. The environment variable "
            "AGENTOPT_STORAGE may have it instead, which other users of the machine do not see.",
        ),
    ],
    run: Annotated[str | None, typer.Option(metavar="ID", help="Work for this run only, and end with it.")] = None,
) -> None:
    """Evaluate examples for runs with `engine: processes`, on this or another machine, until Ctrl-C.

    Runs of the storage whose own process died are continued.
    """
    from agentopt.cli.commands.worker import run_worker

    run_worker(storage, run)
