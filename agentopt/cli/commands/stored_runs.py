"""`agentopt runs list` of a storage."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from agentopt.cli.commands.runs import RESULT_COLUMNS, RunLine, RunList, result_cells, run_table, unfinished_cells
from agentopt.cli.output import print_json, print_plain
from agentopt.core.database import without_password
from agentopt.core.errors import UserError
from agentopt.models.session import journal_place
from agentopt.runs.config import load_config
from agentopt.runs.result import parse_result
from agentopt.runs.run_store import open_store, user
from agentopt.runs.studies import best_scores


def storage_of(storage: str | None, is_of_all: bool, settings: Sequence[str]) -> str | None:
    """Return the storage whose runs are listed; None for the folder of runs.

    Args:
        storage: That of `--storage`.
        is_of_all: Whether `--all` is given.
        settings: `-c` options.

    Raises:
        UserError: `--all` is given without a storage.
    """
    place = storage or load_config(settings).storage
    if is_of_all and not place:
        rule = "--all lists the runs of all users of a storage, but there is none"
        raise UserError(rule, remedy="add --storage URL, or -c storage=URL")
    return place


def show_stored_runs(storage: str, console: Console, *, is_of_all: bool = False, as_json: bool = False) -> None:
    """`agentopt runs list --storage`."""
    with open_store(storage) as (store, _):
        runs = store.runs(None if is_of_all else user())
    found = [(run, parse_result(run.result) if run.result and not run.is_running else None) for run in runs]
    best = best_scores(journal_place(storage)) if any(result is None for _, result in found) else {}
    if as_json:
        print_json(RunList(tuple(RunLine.of(run.name, result, run.owner, best.get(run.run)) for run, result in found)))
        return
    rows = []
    for run, result in found:
        state = f"{'running' if run.is_running else 'stopped'} on {run.host}"
        cells = result_cells(result) if result else unfinished_cells(state, best.get(run.run))
        rows.append((run.name, run.owner, *cells))
    table = run_table(("run", "owner", *RESULT_COLUMNS), rows, console.width)
    console.print(table if found else f"no runs in {without_password(storage)}")
    stopped = [run for run, result in found if result is None and not run.is_running]
    if stopped:
        print_plain(console, "To resume:")
    names = Counter(run.name for run in runs)
    for run in stopped:
        name = run.name if names[run.name] == 1 else run.run  # of several with one name, it means the newest
        setting = f"storage={without_password(storage)}"
        print_plain(console, f"  {shlex.join(['agentopt', 'optimize', '--resume', name, '-c', setting])}")
