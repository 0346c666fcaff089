"""`agentopt` without a command: the next step in this folder."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

from agentopt.cli.output import print_plain
from agentopt.runs.folder import UnreadableRun, list_runs
from agentopt.runs.result import load_result

HELP = "`agentopt --help` lists all commands, `agentopt doctor` checks the installation."


def show_next_step(here: Path, console: Console) -> None:
    """Print what is here, and the command that follows: a run, a task, or neither."""
    runs = [run for run in list_runs(here / "runs") if not isinstance(run, UnreadableRun)]
    tasks = [file.parent for file in (here / "task.yaml", *sorted(here.glob("*/task.yaml"))) if file.is_file()]
    if runs:
        last = max(runs, key=lambda run: run.path.stat().st_mtime)
        name, named = last.path.name, shlex.quote(last.path.name)
        resuming = f"  agentopt optimize --resume {named}{last.tracking}"
        if last.is_locked:
            lines = [f"The run {name} is running.", f"  agentopt report {named} --live"]
        elif (last.path / "result.json").is_file():
            lines, result = [f"The last run here is {name}.", f"  agentopt runs show {named}"], load_result(last.path)
            if result.unparsed:
                lines = [f"The last run here is {name}: {result.unparsed}.", f"  agentopt inspect {named}"]
            elif result.unsearched:
                lines = [f"The run {name} {result.unsearched}.", resuming]
            else:
                lines.append(f"  agentopt gate {named}")
        else:
            lines = [f"The run {name} was stopped.", resuming]
    elif tasks:
        task = tasks[0]
        config = ["-c", str((task / "config.yaml").relative_to(here))] if (task / "config.yaml").is_file() else []
        command = ["agentopt", "optimize", str(task.relative_to(here)), *config, "--dry-run"]
        lines = [f"There is a task in {task.relative_to(here)}.", f"  {shlex.join(command)}"]
    else:
        lines = ["No task is here.", "  agentopt quickstart", "  agentopt init FOLDER --from data.csv"]
    for line in (*lines, HELP):
        print_plain(console, line)
