"""The start of a search and its surrogate: evidence, bounds, and the trials that inform it."""

from __future__ import annotations

import asyncio
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from agentopt.core.candidate import Candidate
from agentopt.core.records import Evaluation, ExampleResult, Trial, TrialState
from agentopt.search.base import Proposal, SearchSpace
from agentopt.search.gaussian_process import Grid
from agentopt.search.insight_strategy import InsightStrategy, measured
from agentopt.search.insights import initial_candidates
from agentopt.search.optuna_strategy import OptunaStrategy
from agentopt.search.proposer_names import BASELINE
from agentopt.search.settings import StartName
from agentopt.search.start import STARTS, first_candidates
from agentopt.search.strategy_loop import LoopSearch
from agentopt.search.surrogate import SEARCHING, WINDOW, Scores, most_promising, predict, window
from agentopt.testing.strategies import ScriptedRunner, trial_of
from agentopt.testing.synthetic_landscape import SyntheticChain, SyntheticLandscape, synthetic_space
from benchmarks.proposals import history
from benchmarks.proposals import space as space_of_settings


def first(start: StartName, space: SearchSpace, seed: int = 0) -> list[Candidate]:
    proposals = asyncio.run(InsightStrategy(seed, start, proposer="fallback").propose(space, [], 20))
    return [p.candidate for p in proposals]


@pytest.mark.parametrize("start", STARTS)
def test_the_search_begins_with_its_start_within_the_limit(start: StartName) -> None:
    for space in (synthetic_space(), synthetic_space(200), SyntheticChain(7).space):
        begun = first_candidates(space, start, 3)
        assert begun == first(start, space, 3)[: len(begun)]
        assert all(map(space.contains, begun))
        assert len(set(begun)) == len(begun)


def test_the_largest_start_is_one_pass_and_the_papers_every_model_of_every_subtask() -> None:
    (one,) = first_candidates(replace(synthetic_space(), max_units=None), "largest", 0)
    assert [(c.model, c.num_samples) for c in one.values()] == [("qwen-72b", 1)] * 2
    assert first_candidates(synthetic_space(), "paper", 0) == initial_candidates(synthetic_space())
    assert first_candidates(synthetic_space(), "none", 0) == []


def test_the_crossed_start_tries_another_model_in_every_subtask_at_once() -> None:
    space = replace(synthetic_space(), max_units=None)
    begun = first_candidates(space, "crossed", 1)
    assert len(begun) == 6
    for name in ("retrieve", "answer"):
        assert {c[name].model for c in begun} == set(space[name].models)
    assert begun != first_candidates(space, "crossed", 2)


def trials_to_close(landscape: SyntheticLandscape | SyntheticChain, start: StartName = "largest") -> float:
    runner = ScriptedRunner(landscape.space, landscape.observed, 40)
    asyncio.run(LoopSearch(InsightStrategy(1, start), 1).run(landscape.space, runner))
    near = (t.number + 1 for t in runner.trials if landscape.exact(t.candidate) >= landscape.optimum - 0.01)
    return next(near, math.inf)


def test_the_default_comes_close_in_few_trials() -> None:
    assert max(trials_to_close(SyntheticLandscape(seed, jitter=0.06)) for seed in (301, 302, 303)) <= 25


@pytest.mark.parametrize("sign", [1, -1])
def test_the_scores_decide_whether_the_insights_hold(sign: int) -> None:
    space = synthetic_space()
    grid = Grid(space, SEARCHING)
    rng = np.random.default_rng(0)
    points = grid.pool(rng)[:14]
    values = 0.5 + 0.1 * sign * grid.trend(points) + rng.normal(0, 0.005, len(points))
    scored = Scores([grid.candidate(p) for p in points], values, np.full(len(values), np.nan))
    informed, constant = predict(grid, points, scored, points[:0], points[:3])
    assert informed.weight + constant.weight == pytest.approx(1)
    assert (informed.weight > 0.8) if sign > 0 else (constant.weight > 0.8)


def test_a_pending_candidate_lowers_the_uncertainty_near_it_and_moves_no_mean() -> None:
    landscape = SyntheticLandscape(5)
    grid = Grid(landscape.space, SEARCHING)
    pool = grid.pool(np.random.default_rng(0))[:300]
    observed, pending = pool[:8], pool[8:10]
    scored = Scores([], np.array([landscape.observed(grid.candidate(p)) for p in observed]), np.full(8, np.nan))
    for before, after in zip(
        predict(grid, observed, scored, pending[:0], pool),
        predict(grid, observed, scored, pending, pool),
        strict=True,
    ):
        assert np.allclose(before.mean, after.mean, atol=0.35)
        assert (after.deviation <= before.deviation + 1e-9).all()
        assert (after.deviation[8:10] < 0.3 * before.deviation[8:10]).all()


def with_rows(number: int, candidate: Candidate, scores: dict[str, float], planned: int) -> Trial:
    results = tuple(ExampleResult(row, score) for row, score in scores.items())
    state: TrialState = "complete" if len(results) == planned else "pruned"
    return Trial(number, candidate, Evaluation("validation", planned, results, state), "x", 1.0)


def test_a_trial_stopped_on_difficult_rows_is_not_taken_for_a_bad_one_and_has_more_noise() -> None:
    space = synthetic_space()
    rng = np.random.default_rng(1)
    difficulty = np.sort(rng.random(40))
    rows = [f"row {i}" for i in range(40)]
    chosen = space.candidates()[::300][:8]

    def scores(skill: float, of: list[int]) -> dict[str, float]:
        return {rows[i]: float(rng.random() < np.clip(skill + 0.4 - difficulty[i], 0.02, 0.98)) for i in of}

    whole = [with_rows(i, c, scores(0.5 + 0.02 * i, list(range(40))), 40) for i, c in enumerate(chosen[:-1])]
    stopped = with_rows(7, chosen[-1], scores(0.55, list(range(30, 40))), 40)  # the ten most difficult rows
    found = measured(space, [*whole, stopped])
    assert found.mean[-1] > np.mean(list(stopped.evaluation.scores.values())) + 0.1
    assert found.noise[-1] > 1.5 * found.noise[:-1].max()


def test_an_incomplete_trial_informs_and_one_without_a_score_does_not() -> None:
    space = synthetic_space()
    a, b, c = space.candidates()[:3]
    partial = trial_of(space, 1, Proposal(b, "x"), 0.4, "incomplete")
    nothing = trial_of(space, 2, Proposal(c, "x"), None, "incomplete")
    assert list(measured(space, [trial_of(space, 0, Proposal(a, "x"), 0.3), partial, nothing]).candidates) == [a, b]


def test_right_or_wrong_scores_near_one_are_less_noisy_than_those_near_a_half() -> None:
    space = synthetic_space()
    rng = np.random.default_rng(2)
    chances = (0.5, 0.55, 0.6, 0.97)
    trials = [
        with_rows(i, c, {f"r{j}": float(rng.random() < p) for j in range(100)}, 100)
        for i, (c, p) in enumerate(zip(space.candidates()[::500], chances, strict=False))
    ]
    noise = measured(space, trials).noise
    assert noise[3] < 0.5 * noise[0]


@pytest.mark.parametrize("count", [1, 60, WINDOW, WINDOW + 1, 3000])
def test_the_window_keeps_the_best_and_is_bounded(count: int) -> None:
    scores = np.random.default_rng(0).random(count)
    kept = window(scores)
    assert kept == sorted(set(kept))
    assert len(kept) <= WINDOW
    assert set(np.argsort(-scores)[: WINDOW // 2].tolist()) <= set(kept)


def test_a_proposal_with_3000_trials_needs_little_memory() -> None:
    space = space_of_settings()
    trials = asyncio.run(history(space, 3000))
    strategy = OptunaStrategy(0)
    asyncio.run(strategy.propose(space, trials[:20], 1))  # loads the libraries
    tracemalloc.start()
    proposals = asyncio.run(strategy.propose(space, trials, 5))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len({p.candidate for p in proposals} - {t.candidate for t in trials}) == 5
    assert peak < 300e6


def test_more_candidates_than_the_pool_has_are_not_found() -> None:
    space = SyntheticChain(3).space
    tiny = replace(space, subtasks=tuple(replace(s, num_samples=(1,), models=s.models[:1]) for s in space.subtasks))
    scored = Scores([tiny.baseline], np.array([0.3]), np.array([np.nan]))
    assert most_promising(tiny, scored, [], [tiny.baseline], 0, [None, None]) == []
    assert most_promising(tiny, scored, [], [], 0, [None, None]) == [tiny.baseline]


@pytest.mark.parametrize("batch_size", [1, 3, 5])
@pytest.mark.parametrize("stopped_at", [2, 5, 8, 9])
def test_a_resumed_search_proposes_only_what_is_not_stored(batch_size: int, stopped_at: int) -> None:
    landscape = SyntheticLandscape(9)
    whole = ScriptedRunner(landscape.space, landscape.observed, 14)
    asyncio.run(LoopSearch(InsightStrategy(2), batch_size).run(landscape.space, whole))
    resumed = ScriptedRunner(landscape.space, landscape.observed, stopped_at)
    asyncio.run(LoopSearch(InsightStrategy(2), batch_size).run(landscape.space, resumed))
    resumed.max_trials, resumed.runs = 14, 0
    asyncio.run(LoopSearch(InsightStrategy(2), batch_size).run(landscape.space, resumed))
    assert [t.candidate for t in resumed.trials] == [t.candidate for t in whole.trials]
    assert resumed.runs - (14 - stopped_at) <= batch_size - 1, "at most the interrupted batch is proposed again"


def test_a_strategy_begins_where_the_stored_trials_end() -> None:
    landscape = SyntheticLandscape(9)
    runner = ScriptedRunner(landscape.space, landscape.observed, 4)
    asyncio.run(LoopSearch(InsightStrategy(2), 1).run(landscape.space, runner))
    assert [t.proposer for t in runner.trials] == [BASELINE, "optuna", "optuna", "optuna"]
