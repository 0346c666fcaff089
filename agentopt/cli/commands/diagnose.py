"""`agentopt diagnose`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agentopt.api import diagnose
from agentopt.cli.loading import load_shown
from agentopt.cli.output import interruptible, notes_console, print_json, print_plain, stderr_console
from agentopt.cli.run_names import candidate_of
from agentopt.core.budget import Usage
from agentopt.core.events import Event
from agentopt.core.message_text import counted
from agentopt.evaluation.candidate_check import checked_candidate
from agentopt.models.api_keys import unset_keys
from agentopt.models.session import check_priced
from agentopt.report.formatting import usage_cells
from agentopt.report.prompts import Diagnoses, print_diagnosis
from agentopt.report.tables import titled
from agentopt.runs.agent_model import with_agent_model
from agentopt.runs.config import Config
from agentopt.runs.prompt_phase import pilot_subtasks
from agentopt.runs.worst_case import estimate_diagnosis

PilotEstimate = dict[str, Usage]
"""The output of `agentopt diagnose --dry-run --json`: `SUBTASK: responses`, `SUBTASK: prompt writer` and `total`."""


def run_diagnosis(
    task: Path, subtask: str | None, candidate: Path | None, as_json: bool, settings: Sequence[str], console: Console
) -> None:
    """`agentopt diagnose`: progress on stderr; the diagnosis of each subtask on stdout, as a JSON list if `as_json`."""
    chosen, config = candidate_of(candidate, settings)
    progress = stderr_console()

    def observe(event: Event) -> None:
        if event.logged:
            print_plain(progress, event.message)

    with interruptible(progress):
        loaded = load_shown(task, config, progress)
        found = diagnose(loaded, config, subtask=subtask, candidate=chosen, callbacks=[observe])
    if as_json:
        print_json(tuple(found), Diagnoses)
        return
    for diagnosis in found:
        print_diagnosis(diagnosis, console)


def estimate_pilots(
    task: Path, subtask: str | None, candidate: Path | None, as_json: bool, settings: Sequence[str], console: Console
) -> None:
    """`agentopt diagnose --dry-run`: the worst case of each subtask's pilot, without a model call."""
    given, config = candidate_of(candidate, settings)
    loaded, specs = load_shown(task, config, stderr_console())
    config = with_agent_model(config, loaded, specs)
    chosen = checked_candidate(given or loaded.baseline, loaded)
    subtasks = pilot_subtasks(loaded, config, subtask, chosen)
    check_priced(specs.values(), config.budget.caps(), *config.purpose_caps().values())
    parts: dict[str, Usage] = {}
    for name in subtasks:
        responses, writing = estimate_diagnosis(loaded, specs, config, chosen, name)
        parts |= {f"{name}: responses": responses, f"{name}: prompt writer": writing}
    parts["total"] = sum(parts.values(), Usage())
    if as_json:
        print_json(parts, PilotEstimate)
    else:
        _show_parts(parts, config, console)
    notes = notes_console(console, as_json=as_json)
    for variable, names in unset_keys(specs.values()).items():
        print_plain(notes, f"Warning: {variable} is not set; it has the API key of {', '.join(names)}")


def _show_parts(parts: Mapping[str, Usage], config: Config, console: Console) -> None:
    prompts, table = config.prompts, Table()
    for column in ("part", "calls", "prompt tokens", "completion tokens", "USD"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, usage in parts.items():
        table.add_row(name, *usage_cells(usage))
    console.print(titled("Worst case of the pilot, before caps; no model was called", table))
    console.print(
        f"At most {counted(prompts.variants, 'system prompt')} (prompts.variants) on "
        f"{counted(prompts.pilot_user_prompts, 'user prompt')} (prompts.pilot_user_prompts) with "
        f"{counted(prompts.repeats, 'response')} each (prompts.repeats). Every cell gets two; "
        "further ones are drawn only if they could change the result. Responses in the journal cost nothing.",
        markup=False,
        highlight=False,
    )
