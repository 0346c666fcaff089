"""Who earned what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentopt.core.budget import Usage
from agentopt.core.candidate import Candidate
from agentopt.runs.earnings import Earned, earned
from agentopt.runs.result import TrialLine, load_result

OLD = Path(__file__).parent.parent / "data" / "0.1.0" / "finished"
CALLS = Usage(calls=3, prompt_tokens=100, completion_tokens=20, usd=0.5)


def line(number: int, proposer: str, score: float | None, state: Any = "complete") -> TrialLine:
    return TrialLine(number, proposer, state, score, 4, 1.0, Candidate.of({}))


def test_each_proposer_earns_the_rises_of_its_complete_trials() -> None:
    trials = [
        line(0, "baseline", 0.2),
        line(1, "initial", 0.5),
        line(2, "agent", 0.4),
        line(3, "surrogate", 0.9, "pruned"),
        line(4, "agent", 0.75),
        line(5, "surrogate", None, "incomplete"),
        line(6, "agent", 0.75 + 1e-12),
        line(7, "surrogate", 0.8),
    ]
    rounded = [replace(row, gain=round(row.gain, 9)) for row in earned(trials, {"agent": CALLS, "samples": Usage(9)})]
    assert rounded == [
        Earned("baseline", 1, 0, 0, 0.2),
        Earned("initial", 1, 1, 0.3, 0.5),
        Earned("agent", 3, 1, 0.25, 0.75 + 1e-12, CALLS),
        Earned("surrogate", 3, 1, 0.05, 0.8),
    ]


def test_without_a_score_nothing_is_earned() -> None:
    assert earned([], {}) == ()
    after = earned([line(0, "baseline", None, "incomplete"), line(1, "agent", 0.3)], {})
    assert after == (Earned("baseline", 1), Earned("agent", 1, best=0.3))


@pytest.mark.parametrize("name", ["agent", "agent_hpo", "a plugin's own"])
def test_the_agent_of_a_strategy_has_its_calls(name: str) -> None:
    found = earned([line(0, "baseline", 0.2), line(1, "fallback", 0.3), line(2, name, 0.1)], {"agent": CALLS})
    assert [(row.proposer, row.usage) for row in found] == [("baseline", None), ("fallback", None), (name, CALLS)]


def test_an_agent_without_a_trial_is_shown_with_its_calls() -> None:
    before = ("baseline", "archive", "prompts before", "initial", "surrogate", "fallback", "prompts after")
    found = earned([line(i, name, 0.2) for i, name in enumerate(before)], {"agent": CALLS})
    assert found[-1] == Earned("agent", usage=CALLS)
    assert all(row.usage is None for row in found[:-1])


def test_a_result_of_an_earlier_version_has_proposers() -> None:
    result = load_result(OLD)
    assert sum(row.trials for row in result.proposers) == len(result.trials)
