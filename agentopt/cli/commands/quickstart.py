"""`agentopt quickstart`: the task that is installed with agentopt, on local models or on a hosted one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console

from agentopt.cli.commands.optimize import estimate_run, run_optimization
from agentopt.cli.output import notes_console, print_plain
from agentopt.core.errors import UserError
from agentopt.models.add_entry import add_entry, entry_for, user_catalog
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.model_table import similar_model
from agentopt.models.providers import name_of
from agentopt.runs.config import load_config


def run_quickstart(
    hosted: Sequence[str], settings: Sequence[str], dry_run: bool, console: Console, *, as_json: bool = False
) -> None:
    """Optimise the quickstart task, or estimate its cost.

    A hosted model that is not in the catalogue is added to the user's; a dry run reads it from the bundled table.
    """
    (task, configs), notes = _shipped(), notes_console(console, as_json=as_json)
    if not hosted:
        chosen = [str(configs / "quickstart.yaml"), *settings]
    else:
        named = [_catalogue_name(one, settings, dry_run, notes) for one in hosted]
        names = json.dumps(list(dict.fromkeys(name for name, _ in named)))
        models = [f"task.subtasks.{subtask}.models={names}" for subtask in ("find", "answer")]
        chosen = [str(configs / "quickstart-hosted.yaml"), *models, *settings]
        chosen += [_with_entries(chosen, new)] if (new := [entry for _, entry in named if entry]) else []
    if dry_run:
        estimate_run(task, chosen, console, as_json=as_json)
    else:
        run_optimization(task, chosen, None, console, as_json=as_json)
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


def _catalogue_name(
    hosted: str, settings: Sequence[str], dry_run: bool, notes: Console
) -> tuple[str, dict[str, Any] | None]:
    """The name of a hosted model, which is added to the user's catalogue if necessary; in a dry run, its entry.

    Raises:
        UserError: Its price is not known, without which the run's cap in USD cannot hold. Nothing is added.
    """
    catalog = Catalog.load(*load_config(settings).models)
    if known := next((name for name in (hosted, name_of(hosted)) if name in catalog), None):
        if known != hosted:  # the entry may have another endpoint than the provider's
            print_plain(notes, f"{known} is in the catalogue: {catalog[known].litellm or catalog[known].base_url}")
        return known, None
    (entry, is_known), name = entry_for(hosted), name_of(hosted)
    if not is_known and entry.get("price") != "free":
        similar = similar_model(hosted)
        adding = f"add it by `agentopt models add {hosted}`, and its price to the entry"
        rule = f"the price of the model {hosted!r} is not known, and the quickstart has a cap in USD"
        raise UserError(rule, remedy=f"did you mean {similar}? Otherwise {adding}" if similar else adding)
    if dry_run:
        print_plain(notes, f"{name} is not in the catalogue yet: without --dry-run, it is added to {user_catalog()}")
        return name, {"name": name, **entry}
    added = add_entry(hosted)
    print_plain(notes, f"Added {added.name} to {added.file}")
    return added.name, None


def _with_entries(settings: Sequence[str], new: Sequence[Mapping[str, Any]]) -> str:
    """The setting that adds catalogue entries to those of the settings."""
    given = load_config(settings).models
    entries = [one.model_dump(exclude_unset=True) if isinstance(one, ModelSpec) else str(one) for one in given]
    return f"models={json.dumps([*entries, *new])}"
