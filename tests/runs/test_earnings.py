"""Who earned what."""

from __future__ import annotations

from typing import Any

from agentopt.core.candidate import Candidate
from agentopt.runs.earnings import Earned, earned
from agentopt.runs.result import TrialLine


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
        line(6, "agent", 0.75),
        line(7, "surrogate", 0.8),
    ]
    rounded = [Earned(e.proposer, e.trials, e.raised, round(e.gain, 9)) for e in earned(trials)]
    assert rounded == [
        Earned("baseline", 1, 0, 0),
        Earned("initial", 1, 1, 0.3),
        Earned("agent", 3, 1, 0.25),
        Earned("surrogate", 3, 1, 0.05),
    ]


def test_without_a_score_nothing_is_earned() -> None:
    assert earned([]) == ()
    assert earned([line(0, "baseline", None, "incomplete"), line(1, "agent", 0.3)])[1] == Earned("agent", 1, 0, 0)
