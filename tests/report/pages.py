"""Runs for the tests of the page: finished, killed, large and hostile, with scripted models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agentopt.api import load, optimize
from agentopt.core.events import Event, TrialDone
from agentopt.core.task import Task
from agentopt.models.base import Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.scripted import ScriptedModel
from agentopt.report.page.build import write_page
from agentopt.runs.archive import RunArchive, open_archive
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.runs.run_record import GuidelinesEntry
from agentopt.testing.prompt_toy import prompt_model, prompt_task
from agentopt.testing.toy import LARGE, toy_model, toy_task

HOSTILE = (
    "</script><script>globalThis.broken = 1</script>",
    "<img src=x onerror='globalThis.broken = 1'>",
    "line\u2028separator\u2029paragraph",
    "right\u202eto left\u200f mark",
    "half a pair \ud83d here",
    "&lt;b&gt; <b>bold</b> %{text} {{ 7 * 7 }} ${1}",
)
"""What a model may answer. None of it may run, end an element, or change what is beside it."""


AGENT_REPLIES = (
    f'{{"candidates": [{{"find": "{LARGE} x8", "answer": "{LARGE} x5"}}]}}',
    f'{{"candidates": [{{"find": "{LARGE} x1", "answer": "{LARGE} x5"}}]}}',
    "I cannot help with that. <b>",
)
"""Of an agent that proposes a good candidate, one of which the surrogate expects little, and then nothing readable."""


def settings(folder: Path, trials: int = 6) -> Config:
    given = {
        "runs": folder / "runs",
        "journal": str(folder / "journal.db"),
        "strategy": "random",
        "budget": {"trials": trials},
        "prompts": {"when": "never"},
    }
    return Config.model_validate(given)


def archive_in(folder: Path, task: Task) -> RunArchive:
    run = RunFolder.open(next((folder / "runs").iterdir()))
    return open_archive(run, *load(task, run.config, agent=False))


def finished(folder: Path, task: Task | None = None, model: ScriptedModel | None = None) -> RunArchive:
    task = task or toy_task()
    optimize(task, settings(folder), provider=model or toy_model())
    return archive_in(folder, task)


def killed(folder: Path) -> RunArchive:
    def kill(event: Event) -> None:
        if isinstance(event, TrialDone) and event.trial.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize(toy_task(), settings(folder), provider=toy_model(), callbacks=[kill])
    return archive_in(folder, toy_task())


def hostile(folder: Path) -> RunArchive:
    """A run whose models, task and targets are hostile; one answer has a million characters."""

    def answer(request: Request, repeat: int) -> str:
        message = request.messages[-1].content
        if message.startswith(("answer|validation-0|", "answer|test-0|")):
            return "x" * 1_000_000
        return HOSTILE[sum(message.encode(errors="replace")) % len(HOSTILE)]

    task = toy_task(validation=8, test=8)
    splits = {
        split: tuple(replace(e, target=HOSTILE[i % len(HOSTILE)]) for i, e in enumerate(examples))
        for split, examples in task.splits.items()
    }
    named = replace(task, name="</title><script>globalThis.broken = 1</script>", splits=splits)
    return finished(folder, replace(named, description=HOSTILE[0]), ScriptedModel(answer))


def with_agent(folder: Path, replies: Sequence[str] = AGENT_REPLIES) -> RunArchive:
    """A run whose agent has a price and gives these replies, the last one again and again."""
    toy, left = toy_model(), list(replies)

    def answer(request: Request, repeat: int) -> str:
        if request.model != "planner":
            return str(toy._answer(request, repeat))  # type: ignore[misc]
        if '"candidates"' not in request.messages[-1].content:
            return "{}"
        return left.pop(0) if len(left) > 1 else left[0]

    entry = {"name": "planner", "base_url": "http://127.0.0.1:9", "usd_per_1m_prompt": 1, "usd_per_1m_completion": 4}
    given = settings(folder, trials=12).model_dump() | {
        "models": [ModelSpec.model_validate(entry)],
        "strategy": "agent",
        "agent": {"model": "planner", "prompt": "full"},
    }
    optimize(toy_task(), Config.model_validate(given), provider=ScriptedModel(answer))
    return archive_in(folder, toy_task())


def prompted(folder: Path) -> RunArchive:
    """A run with a race of system prompts, whose winner is adopted, and with an agent's guidelines."""
    given = settings(folder, trials=4).model_dump() | {"prompts": {"when": "after"}}
    config = Config.model_validate(given)
    optimize(prompt_task(), config, provider=prompt_model())
    texts = ("Prefer the small model where it is right.\n- Raise num_samples last.", HOSTILE[0], "")
    guidelines = tuple(GuidelinesEntry(text, trials) for trials, text in enumerate(texts, 1))
    return replace(archive_in(folder, prompt_task()), guidelines=guidelines)


def page_in(folder: Path, archive: RunArchive) -> Path:
    return write_page(archive, folder / "page.html")
