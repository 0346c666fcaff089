"""`agentopt worker`."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from agentopt.api import aoptimize
from agentopt.cli.interrupts import second_interrupt_ends
from agentopt.cli.output import ignore_interrupted_tasks
from agentopt.core.database import check_names_file
from agentopt.core.errors import AgentoptError, ConfigError
from agentopt.models.session import journal_place, open_journal
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.runs.run_store import open_store
from agentopt.runs.workers.worker import work

LOOK_SECONDS = 2.0
"""Seconds between two looks for runs whose process died."""


def run_worker(storage: str, run: str | None) -> None:
    """`agentopt worker`: works until its run is over, or until Ctrl-C or SIGTERM.

    Args:
        storage: A path or a SQLAlchemy URL.
        run: The run to work for; any unless given.

    Raises:
        ConfigError: The storage cannot be opened, or is an SQLite database in memory.
    """
    check_names_file(storage)
    open_journal(storage).close()  # reports what is wrong with it
    ignore_interrupted_tasks()
    try:
        with suppress(KeyboardInterrupt), second_interrupt_ends(lambda: "stopped at once"):
            asyncio.run(_work(storage, run))
    except SQLAlchemyError as error:
        rule = f"the storage cannot be used: {str(error).partition(chr(10))[0]}"
        raise ConfigError(rule, remedy="check the database and its URL") from error


async def _work(storage: str, run: str | None) -> None:
    working = work(journal_place(storage), run=run, log=_log)
    if run:
        await working
        return
    continuing = asyncio.create_task(_continue_orphans(storage))
    try:
        await working
    finally:
        continuing.cancel()
        with suppress(asyncio.CancelledError):
            await continuing


async def _continue_orphans(storage: str) -> None:
    """Continue the runs whose process died, each once, as `optimize --resume` does."""
    tried: set[str] = set()
    while True:
        for run, name in (await asyncio.to_thread(orphans_of, storage)).items():
            if run not in tried:
                tried.add(run)
                _log(f"continues the run {name}, whose process died")
                try:
                    await _continue(run, storage)
                except AgentoptError as error:
                    _log(f"the run {name} cannot be continued here: {error}")
                else:
                    _log(f"the run {name} is finished")
        await asyncio.sleep(LOOK_SECONDS)


def orphans_of(storage: str) -> dict[str, str]:
    """Return the runs whose process died: id -> name; none while the storage cannot be reached, as during a restart."""
    try:
        with open_store(storage) as (store, _):
            return store.orphans()
    except AgentoptError as error:
        _log(f"runs whose process died cannot be looked for now: {error}")
        return {}


async def _continue(run: str, storage: str) -> None:
    with open_store(storage) as (store, _):
        opened = RunFolder.open(store.fetch(run, Config().runs.absolute(), storage))
    if opened.task is None:
        raise ConfigError("its task was built in Python", remedy=opened.resuming)
    config = opened.config
    # The folder keeps no password.
    journal = storage if config.journal == config.storage else config.journal
    await aoptimize(opened.task, config.model_copy(update={"storage": storage, "journal": journal}), resume=opened)


def _log(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
