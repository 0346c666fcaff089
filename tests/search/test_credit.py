"""The trials are shared between agent and surrogate by what either earned."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from agentopt.core.candidate import Candidate
from agentopt.core.records import Trial
from agentopt.models.scripted import ScriptedModel
from agentopt.search.agent import AgentSearch
from agentopt.search.base import Proposal
from agentopt.search.credit import is_agents_turn, turn_size
from agentopt.search.insight_strategy import InsightStrategy
from agentopt.search.proposer_names import BASELINE, INITIAL, SURROGATE
from agentopt.search.settings import AgentSettings
from agentopt.testing.strategies import ScriptedRunner, trial_of
from agentopt.testing.synthetic_landscape import SyntheticLandscape, synthetic_space
from benchmarks.search import worlds
from benchmarks.search_agents import BOUNDS, scripted, trials

LANDSCAPE = "synthetic, two subtasks, strengths shifted by up to .06"


SPACE = synthetic_space()


@cache
def candidates_of_the_space() -> list[Candidate]:
    return SPACE.candidates()


def history(*entries: tuple[str, float]) -> list[Trial]:
    space, candidates = SPACE, candidates_of_the_space()
    first = [(BASELINE, 0.1), (INITIAL, 0.2), *entries]
    return [trial_of(space, i, Proposal(candidates[i], who), score) for i, (who, score) in enumerate(first)]


def test_the_first_turn_is_the_agents() -> None:
    assert is_agents_turn(history(), "agent")


def share_of(agent_earns: Sequence[bool], rounds: int = 60) -> float:
    """Share of the trials that an agent gets which earns in these turns, and never again."""
    entries: list[tuple[str, float]] = []
    earns, best = iter(agent_earns), 0.2
    for _ in range(rounds):
        turn = is_agents_turn(history(*entries), "agent")
        wins = next(earns, False) if turn else False
        best += 0.01 * wins
        entries.append(("agent" if turn else SURROGATE, best if wins else 0.0))
    return sum(who == "agent" for who, _ in entries) / rounds


def test_an_agent_that_earns_nothing_steps_back_and_keeps_a_floor() -> None:
    entries: list[tuple[str, float]] = [("agent", 0.0)] * 3
    entries += [(SURROGATE, 0.3 + i / 100) for i in range(8)]
    assert not is_agents_turn(history(*entries), "agent")
    entries += [(SURROGATE, 0.0)] * 40
    assert is_agents_turn(history(*entries), "agent"), "it is asked again after a while"


def test_an_agent_that_earns_gets_most_of_the_trials() -> None:
    assert share_of([True] * 60) > 0.6 > share_of([])


def test_an_agent_that_earns_gets_larger_turns() -> None:
    won = [("agent", 0.3), ("agent", 0.4), (SURROGATE, 0.1), ("agent", 0.5)]
    assert [turn_size(history(*won[:n]), "agent", 3) for n in (0, 1, 2, 3, 4)] == [1, 2, 3, 3, 3]
    assert turn_size(history(*won, ("agent", 0.1)), "agent", 3) == 1


def test_an_agent_that_never_earns_gets_the_floor_also_if_nothing_else_earns() -> None:
    assert 0.08 < share_of([]) <= 0.15
    assert share_of([True, True, False]) <= 0.3, "one that stopped earning steps back"


@pytest.mark.parametrize("kind", BOUNDS)
def test_a_search_with_any_agent_ends(kind: str) -> None:
    assert trials(kind, worlds()["recorded, quickstart"](401), 401) <= 4


def test_a_search_without_an_agent_is_the_surrogates() -> None:
    landscape = SyntheticLandscape(3)
    runner = ScriptedRunner(landscape.space, landscape.observed, 8)
    settings = AgentSettings(model=None, style="shared")
    search = AgentSearch(None, settings, InsightStrategy(0, proposer="fallback"), "", None)
    asyncio.run(search.run(landscape.space, runner))
    assert [t.proposer for t in runner.trials] == [BASELINE, INITIAL] + [SURROGATE] * 6


@pytest.mark.parametrize("fail_at", [2, 4, 6])
def test_an_interrupted_search_with_turns_ends_with_the_same_trials(fail_at: int, tmp_path: Path) -> None:
    world, landscape = worlds()[LANDSCAPE](5), SyntheticLandscape(5, jitter=0.06)

    def search(checkpoints: Path) -> AgentSearch:
        model: ScriptedModel = scripted("worst", world, 5)
        settings = AgentSettings(model="scripted", style="shared")
        return AgentSearch(model, settings, InsightStrategy(0, proposer="fallback"), "", checkpoints)

    whole = ScriptedRunner(landscape.space, landscape.observed, 9)
    asyncio.run(search(tmp_path / "whole.db").run(landscape.space, whole))
    broken = ScriptedRunner(landscape.space, landscape.observed, 9, fail_at=fail_at)
    with pytest.raises(RuntimeError, match="went down"):
        asyncio.run(search(tmp_path / "broken.db").run(landscape.space, broken))
    asyncio.run(search(tmp_path / "broken.db").run(landscape.space, broken))
    assert len(broken.trials) == 9
    assert len({t.candidate for t in broken.trials}) == 9
    assert {t.proposer for t in whole.trials} == {t.proposer for t in broken.trials}
