"""The token lengths of the expected case: of this task's responses, of the model's others, or assumed."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agentopt import Config, evaluate
from agentopt.core.task import Program, Task, TokenLengths
from agentopt.models.base import Choice
from agentopt.models.catalog import Supports
from agentopt.models.journal import Journal
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.expected_case import expected_case, expected_usd
from agentopt.runs.expected_lengths import LEAST_RESPONSES, ExpectedLengths, expected_lengths
from agentopt.runs.worst_case import estimate
from agentopt.search.from_task import search_space
from agentopt.testing.company import company_specs, company_task

THINKS = {"supports": Supports(reasoning_effort=True)}
SPECS = {spec.name: spec.model_copy(update=THINKS) for spec in company_specs("http://127.0.0.1:9/v1")}


def task_of(*models: str, words: str = "", validation: int = 30) -> Task:
    """The company's task on these models, and with other prompts if words are given."""
    task = company_task(validation=validation, test=4)
    subtasks = tuple(replace(s, models=models, system_prompt=s.system_prompt + words) for s in task.subtasks)
    return replace(task, subtasks=subtasks)


def answered(folder: Path, *tasks: Task) -> Journal:
    """A journal with the baselines' responses: 5 tokens of answers, 40 of thoughts."""
    model = ScriptedModel(lambda request, repeat: Choice("word", 45, reasoning_tokens=40))
    for task in tasks:
        config = Config(models=list(SPECS.values()), journal=str(folder / "j.db"))
        evaluate(task, config=config, split="validation", provider=model)
    return Journal(folder / "j.db")


def lengths_of(task: Task, journal: Journal) -> ExpectedLengths:
    return asyncio.run(expected_lengths(task, {model: SPECS[model] for model in task.models}, journal, 0))


def test_responses_of_this_task_give_the_lengths_whatever_the_task_says(tmp_path: Path) -> None:
    task = task_of("mini", "nano")
    with closing(answered(tmp_path, task, task_of("nano"))) as journal:
        found = lengths_of(task, journal)
    for subtask in task.subtasks:
        for model in ("mini", "nano"):  # no trial has had both models' responses in one workflow
            one = found.of(subtask, model)
            assert (one.answer, one.thoughts, one.source) == (5, 40, "task")
            assert one.prompt > 0
    (note,) = found.notes()
    assert note == "expected token lengths: the means of this task's responses in the journal (mini and nano)"


@pytest.mark.parametrize("has_tokens", [True, False])
def test_a_model_that_has_answered_other_tasks_thinks_as_long_as_there(tmp_path: Path, *, has_tokens: bool) -> None:
    task = task_of("mini", "nano")
    lengths = TokenLengths(20, 7) if has_tokens else None
    task = replace(task, subtasks=tuple(replace(s, tokens=lengths) for s in task.subtasks))
    with closing(answered(tmp_path, task_of("mini", words=" Be brief."))) as journal:
        found = lengths_of(task, journal)
    one, other = (found.of(task.subtasks[0], model) for model in ("mini", "nano"))
    assert (one.answer, one.thoughts, one.source) == (7 if has_tokens else 5, 40, "model")
    assert other.source == "assumed"
    assert other.thoughts == (task.subtasks[0].max_tokens - other.answer) / 2
    source, thinking = found.notes()
    assert "the means of the model's responses to other tasks (mini); " in source
    assert source.endswith("`tokens` of the task (nano)" if has_tokens else "half of max_tokens (nano)")
    assert thinking.startswith("nano may think before answering: the expected case counts thoughts of half")


def test_few_responses_to_other_tasks_are_no_estimate(tmp_path: Path) -> None:
    few = (LEAST_RESPONSES - 1) // 2  # each row has two responses
    with closing(answered(tmp_path, task_of("mini", words=" Be brief.", validation=few))) as journal:
        found = lengths_of(task_of("mini"), journal)
    assert found.of(found.task.subtasks[0], "mini").source == "assumed"


def test_a_program_is_not_run_for_its_lengths(tmp_path: Path) -> None:
    task = task_of("mini")
    with closing(answered(tmp_path, task)) as journal:
        found = lengths_of(replace(task, program=Program(("python", "program.py"))), journal)
    assert found.recorded == {}
    assert found.of(task.subtasks[0], "mini").source == "model"


def test_the_expected_case_and_the_usd_of_each_model_have_the_same_measured_lengths(tmp_path: Path) -> None:
    task, config = task_of("mini"), Config(strategy="optuna", budget={"trials": 4})
    space = search_space(task, SPECS)
    worst = estimate(task, space, SPECS, config, None)
    with closing(answered(tmp_path, task)) as journal:
        lengths = lengths_of(task, journal)
        expected = expected_case(task, space, SPECS, config, worst, journal, lengths)
    assumed = expected_case(task, space, SPECS, config, worst)
    assert expected.test.completion_tokens == 45 * 4 * 3 * 2 * sum(task.subtasks[0].num_samples) / 3
    assert expected.total.usd < assumed.total.usd / 2
    for line, subtask in zip(expected_usd(task, space, lengths), task.subtasks, strict=True):
        usd = SPECS["mini"].prices.usd(lengths.of(subtask, "mini").prompt, 45)
        assert f"mini x1 {1000 * usd:.3g}, " in line


@pytest.mark.parametrize(("effort", "thinks"), [(None, False), ("low", True)])
def test_a_model_that_thinks_on_request_is_expected_to_think_if_it_is_requested(
    effort: str | None, thinks: bool
) -> None:
    spec = SPECS["nano"].model_copy(update={"litellm": "anthropic/claude-haiku-4-5", "base_url": None})
    task = task_of("nano")
    task = replace(task, subtasks=tuple(replace(s, effort=effort) for s in task.subtasks))
    found = ExpectedLengths(task, {"nano": spec})
    assert bool(found.of(task.subtasks[0], "nano").thoughts) == thinks
