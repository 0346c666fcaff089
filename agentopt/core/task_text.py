"""A task as text: the `repr` of `Task`, and what a notebook shows of one."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

from agentopt.core.message_text import counted
from agentopt.core.yaml_models import shortened

LIMITS = {"max_usd": "USD", "max_seconds": "s", "max_units": "units"}
"""A field of the task that limits what a candidate costs per example -> its unit."""


def task_text(task: Any) -> str:
    """Return the name, the subtasks, the numbers of examples and the cost limits of a `Task`, a line each."""
    return "\n".join("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in _lines(task))


def task_html(task: Any) -> str:
    """Return the text of a `Task`, escaped."""
    return f"<pre>{html.escape(task_text(task))}</pre>"


def _lines(task: Any) -> Iterator[str]:
    yield shortened(f"Task {task.name}: {task.description}" if task.description else f"Task {task.name}")
    for subtask in task.subtasks:
        yield f"  {_subtask(subtask)}"
    if task.program:
        yield f"  program: {shortened(' '.join(task.program.command) or str(task.program.function))}"
    yield f"  examples: {', '.join(f'{len(rows)} {split}' for split, rows in task.splits.items()) or 'none'}"
    limits = {unit: limit for name, unit in LIMITS.items() if (limit := getattr(task, name)) is not None}
    if limits:
        yield f"  at most {', '.join(f'{limit:g} {unit}' for unit, limit in limits.items())} per example"


def _subtask(subtask: Any) -> str:
    reads = f" (reads {', '.join(subtask.reads)})" if subtask.reads else ""
    counts = ", ".join(map(str, subtask.num_samples))
    varied = [f"{axis.name} {', '.join(map(str, axis.values))}" for axis in subtask.settings]
    models = f"{counted(len(subtask.models), 'model')} {', '.join(subtask.models)}"
    parts = [models, f"samples {counts} by {subtask.fusion.method}", *varied]
    return f"{subtask.name}{reads}: {'; '.join(parts)}"
