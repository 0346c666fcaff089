"""`agentopt quickstart`: the task that is installed with agentopt, on local models or on a hosted one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from rich.console import Console

from agentopt.cli.commands.optimize import estimate_run, run_optimization
from agentopt.cli.output import notes_console, print_plain
from agentopt.core.errors import UserError
from agentopt.models.add_entry import add_entry
from agentopt.models.catalog import Catalog
from agentopt.models.providers import name_of
from agentopt.runs.config import load_config


def run_quickstart(
    hosted: str | None, settings: Sequence[str], dry_run: bool, console: Console, *, as_json: bool = False
) -> None:
    """Optimise the quickstart task, or estimate its cost.

    A hosted model that is not in the catalogue is added to the user's, unless this is a dry run.
    """
    (task, configs), notes = _shipped(), notes_console(console, as_json=as_json)
    if hosted is None:
        chosen = [str(configs / "quickstart.yaml")]
    else:
        name = _catalogue_name(hosted, settings, dry_run, notes)
        models = [f"task.subtasks.{subtask}.models={json.dumps([name])}" for subtask in ("find", "answer")]
        chosen = [str(configs / "quickstart-hosted.yaml"), *models]
    if dry_run:
        estimate_run(task, [*chosen, *settings], console, as_json=as_json)
    else:
        run_optimization(task, [*chosen, *settings], None, console, as_json=as_json)
        print_plain(notes, "Next: `agentopt init FOLDER --from FILE` makes a task of your own data.")


def _shipped() -> tuple[Path, Path]:
    """The folders of the task and of its settings: inside the package, or in a clone beside it."""
    package = Path(str(files("agentopt")))
    for task, configs in (
        (package / "shipped" / "quickstart", package / "shipped"),
        (package.parent / "tasks" / "quickstart", package.parent / "configs"),
    ):
        if (task / "task.yaml").is_file():
            return task, configs
    raise UserError("the quickstart task is not installed", where=package, remedy="reinstall agentopt")


def _catalogue_name(hosted: str, settings: Sequence[str], dry_run: bool, console: Console) -> str:
    if hosted in Catalog.load(*load_config(settings).models):
        return hosted
    if name_of(hosted) in Catalog.load(*load_config(settings).models):
        return name_of(hosted)
    if dry_run:
        rule = f"the model {hosted!r} is not in the catalogue, and a dry run adds nothing"
        raise UserError(rule, remedy=f"agentopt models add {hosted}")
    added = add_entry(hosted)
    print_plain(console, f"Added {added.name} to {added.file}")
    return added.name
