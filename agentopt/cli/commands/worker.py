"""`agentopt worker`."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from agentopt.core.errors import ConfigError
from agentopt.models.session import journal_place, open_journal
from agentopt.runs.workers.worker import work


def run_worker(storage: str, run: str | None) -> None:
    """`agentopt worker`: works until its run is over, or until Ctrl-C or SIGTERM.

    Args:
        storage: A path or a SQLAlchemy URL.
        run: The run to work for; any unless given.

    Raises:
        ConfigError: The storage cannot be opened.
    """
    open_journal(storage).close()  # reports what is wrong with it
    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(work(journal_place(storage), run=run, log=_log))
    except SQLAlchemyError as error:
        rule = f"the storage cannot be used: {str(error).partition(chr(10))[0]}"
        raise ConfigError(rule, remedy="check the database and its URL") from error


def _log(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
