"""The prompt style `full`: what the agent is shown, how its reply is read, and what the search does with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import validate

from agentopt.core.candidate import Candidate
from agentopt.core.events import FallbackUsed, GuidelinesWritten
from agentopt.core.records import Evaluation, ExampleResult, Trial
from agentopt.models.base import Request
from agentopt.models.scripted import ScriptedModel
from agentopt.search.agent import AgentSearch
from agentopt.search.agent_reply import read_reply
from agentopt.search.base import Proposal
from agentopt.search.credit import expected
from agentopt.search.full_prompt import (
    REASON,
    FullReply,
    Outlook,
    full_prompt,
    full_schema,
    full_system_message,
    read_full,
)
from agentopt.search.insight_strategy import InsightStrategy
from agentopt.search.run_view import FailedExample
from agentopt.search.settings import AgentSettings
from agentopt.search.surrogate import Expectation
from agentopt.testing.strategies import ScriptedRunner
from agentopt.testing.synthetic_landscape import SyntheticLandscape, synthetic_space

SPACE = synthetic_space()
BEST = SPACE.candidate({"retrieve": ("qwen-32b", 5), "answer": ("llama-3b", 10)})
SETTINGS = AgentSettings(model="agent", style="shared", prompt="full", prior=False)


def trial(number: int, candidate: Candidate, scores: Sequence[float], state: str = "complete") -> Trial:
    results = tuple(ExampleResult(f"row {i}", score) for i, score in enumerate(scores))
    evaluation = Evaluation("validation", 4, results, state)  # type: ignore[arg-type]
    return Trial(number, candidate, evaluation, "agent", SPACE.units(candidate))


TRIALS = [trial(0, SPACE.baseline, [0, 0, 1, 0]), trial(1, BEST, [1, 1, 1, 0]), trial(2, BEST, [0, 0], "pruned")]


def test_the_system_message_has_sizes_and_the_cost_of_every_choice() -> None:
    text = full_system_message(SPACE, SETTINGS, "answer questions").content
    assert "Task: answer questions" in text
    assert "- qwen-32b, 32 billion parameters" in text
    assert "at most 900 units" in text
    row = next(line for line in text.splitlines() if line.startswith("  | qwen-32b"))
    assert len(row.split("|")) == len(SPACE["retrieve"].num_samples) + 3
    assert f"{SPACE['retrieve'].cost.units('qwen-32b', 90):.4g}" in row
    assert "With more samples" in text
    without = SETTINGS.model_copy(update={"insight_2": False})
    assert "With more samples" not in full_system_message(SPACE, without, "").content


def test_the_prompt_has_every_trial_the_effects_and_what_is_left() -> None:
    failed = FailedExample("Who?", "Ann", 0.0, "Bob", "wrong", {"retrieve": "a page", "answer": "x" * 1000})
    outlook = Outlook(12, 1.5, [Expectation(BEST, 0.71234, 0.02)], [failed], "more samples")
    lines = full_prompt(SPACE, TRIALS, outlook, 3).splitlines()
    assert lines[2] == f"| 0 | llama-3b x1 | llama-3b x1 | 0.250 | 0.217 | 4 | {TRIALS[0].units:.4g} | complete |"
    assert lines[3].startswith("| 1 | qwen-32b x5 | llama-3b x10 | 0.750 | 0.217 | 4 | ")
    assert lines[4].endswith("| 0.000 | 0.000 | 2 | " + f"{TRIALS[2].units:.4g} | stopped early |")
    assert any(line.startswith("- retrieve: llama-3b 0.250 (0.250) of 1; qwen-7b untried;") for line in lines)
    assert "Left: 12 trials and about 1.5 USD." in lines
    assert f"Trial 1, the best so far, leaves {900 - SPACE.units(BEST):.4g} units of the limit unused." in lines
    assert "- retrieve: qwen-32b x5, answer: llama-3b x10: 0.712 +- 0.020" in lines
    assert "  output of retrieve: a page" in lines
    assert "  expected: Ann" in lines
    assert max(map(len, lines)) < 700
    assert "Your previous reason: more samples" in lines
    assert "at most 3 candidates" in lines[-2]


def test_a_prompt_without_trials_or_money_has_neither() -> None:
    text = full_prompt(SPACE, [], Outlook(5), 1)
    assert "Left: 5 trials." in text
    assert "most promising" not in text
    assert "USD" not in text


def reply(*candidates: Candidate, **others: Any) -> str:
    listed = [
        {"role": "explore", "choices": {n: {"model": c.model, "n": c.num_samples} for n, c in candidate.items()}}
        for candidate in candidates
    ]
    return json.dumps({"reason": "try it", "candidates": listed, "measure_again": [], "stop": False} | others)


def test_the_schema_admits_what_is_read() -> None:
    text = reply(BEST, measure_again=[2])
    validate(json.loads(text), json.loads(full_schema(SPACE, 2)))
    read = read_reply(text, SPACE, (), 2)
    assert read.proposals == (Proposal(BEST, "agent", "explore"),)
    assert read_full(text) == FullReply("try it", (2,), stops=False)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("", FullReply()),
        ("I will not.", FullReply()),
        ('{"reason": 3, "measure_again": "all", "stop": "yes"}', FullReply()),
        ('{"stop": true, "measure_again": [true, 1.5, 4, "x"]}', FullReply("", (4,), stops=True)),
        ('```json\n{"reason": "a\\n b", "measure_again": 7}\n```', FullReply("a b", (7,))),
        (json.dumps({"reason": "x" * 5000}), FullReply("x" * REASON)),
        ('{"reason": "cut off", "candidates": [{"role": "expl', FullReply()),
    ],
)
def test_whatever_the_agent_writes_is_read_or_left_out(text: str, read: FullReply) -> None:
    assert read_full(text) == read


def test_a_subtask_called_choices_is_read_without_nesting() -> None:
    renamed = replace(SPACE, subtasks=(replace(SPACE["retrieve"], name="choices"), SPACE["answer"]))
    flat = '{"candidates": [{"choices": {"model": "qwen-7b", "n": 1}, "answer": {"model": "qwen-7b", "n": 1}}]}'
    assert [str(p.candidate) for p in read_reply(flat, renamed, (), 1).proposals] == [
        "choices: qwen-7b x1, answer: qwen-7b x1"
    ]


class ViewedRunner(ScriptedRunner):
    """A runner that shows what is left, and stops trials of two large models early."""

    def __init__(self, max_trials: int) -> None:
        super().__init__(SPACE, SyntheticLandscape(3).observed, max_trials)
        self.completed: list[int] = []
        self.usd_left = 2.0

    async def failed_examples(self, trial: Trial, count: int) -> Sequence[FailedExample]:
        return [FailedExample("Who?", "Ann", 0.0, f"output of trial {trial.number}", "", {})][:count]

    async def complete(self, trial: Trial, note: str, *, in_search: bool) -> Trial:
        assert in_search
        self.completed.append(trial.number)
        self._trials[trial.number] = replace(trial, evaluation=replace(trial.evaluation, state="complete"), note=note)
        return self._trials[trial.number]

    def stop_early(self, number: int) -> None:
        evaluation = replace(self._trials[number].evaluation, state="pruned")
        self._trials[number] = replace(self._trials[number], evaluation=evaluation)


def searched(answer: Any, runner: ScriptedRunner, settings: AgentSettings = SETTINGS) -> ScriptedModel:
    model = ScriptedModel(answer)
    search = AgentSearch(model, settings, InsightStrategy(0, proposer="fallback"), "", None)
    asyncio.run(search.run(SPACE, runner))
    return model


def as_expected(runner: ScriptedRunner) -> Callable[[Request, int], str]:
    """An agent that proposes what the surrogate expects most of."""
    return lambda request, repeat: reply(expected(SPACE, runner.trials, 1, 0)[0].candidate)


def test_one_call_a_turn_proposes_and_shows_what_fails() -> None:
    runner = ViewedRunner(4)
    model = searched(as_expected(runner), runner)
    assert (runner.trials[2].proposer, runner.trials[2].note) == ("agent", "explore")
    assert len([r for r in model.requests if "Every trial:" in r.messages[1].content]) == len(model.requests)
    first = model.requests[0].messages[1].content
    assert "2 USD" in first
    assert "output of trial" in first
    assert next(e.text for e in runner.events if isinstance(e, GuidelinesWritten)) == "try it"


def test_an_agent_that_stops_is_not_called_until_there_is_something_better() -> None:
    runner = ViewedRunner(9)
    model = searched(lambda request, repeat: reply(stop=True), runner)
    reasons = [e.reason for e in runner.events if isinstance(e, FallbackUsed)]
    assert reasons[0] == "the agent expects nothing better: try it"
    best = [max(t.score or 0 for t in runner.trials[: i + 1]) for i in range(len(runner.trials))]
    assert 1 <= len(model.requests) <= 1 + len(set(best[2:]))
    assert len(runner.trials) == 9


def test_a_trial_that_was_stopped_early_is_completed_on_request_once() -> None:
    runner = ViewedRunner(4)
    asyncio.run(runner.run(Proposal(BEST, "archive")))
    runner.stop_early(1)
    searched(lambda request, repeat: reply(measure_again=[1, 0, 77]), runner)
    assert runner.completed == [1]
    assert runner.trials[1].note == "completed, because the agent requested it"
    assert len(runner.trials) == 4


@pytest.mark.parametrize("text", ["", "no", reply(), reply(SPACE.baseline), '{"candidates": [1, 2]}', reply(stop=1)])
def test_an_unusable_reply_costs_no_trial(text: str) -> None:
    runner = ViewedRunner(5)
    searched(lambda request, repeat: text, runner)
    assert [t.proposer for t in runner.trials[:2]] == ["baseline", "initial"]
    assert {t.proposer for t in runner.trials[2:]} <= {"fallback", "surrogate"}
    assert len(runner.trials) == 5


def test_no_example_is_shown_if_none_may_be() -> None:
    runner = ViewedRunner(4)
    model = searched(lambda request, repeat: reply(BEST), runner, SETTINGS.model_copy(update={"failed_examples": 0}))
    assert all("Failed example" not in request.messages[1].content for request in model.requests)


def test_a_runner_without_a_view_shows_trials_alone() -> None:
    runner = ScriptedRunner(SPACE, SyntheticLandscape(3).observed, 4)
    model = searched(as_expected(runner), runner)
    assert runner.trials[2].proposer == "agent"
    text = model.requests[0].messages[1].content
    assert "Failed example" not in text
    assert "most promising" in text
