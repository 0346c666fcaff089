"""Every strategy passes the shared conformance suite; each also has its own promises."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable

import optuna
import pytest
from hypothesis import HealthCheck, given, settings

from agentopt.candidate import Candidate
from agentopt.cost import SubtaskCost
from agentopt.errors import ConfigError
from agentopt.search.base import Proposal, SearchSpace, Strategy, SubtaskSpace
from agentopt.search.baselines import GridStrategy, RandomStrategy
from agentopt.search.fallback import InsightSampler, OptunaStrategy, candidate_of, distributions, params_of
from agentopt.search.insights import initial_candidates
from agentopt.search.loop import LoopSearch
from agentopt.testing.landscape import SyntheticLandscape, synthetic_space
from agentopt.testing.strategies import (
    ScriptedRunner,
    check_strategy,
    check_strategy_tries_everything,
    trial_of,
)
from tests.test_search_space import SIZES, spaces

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "random": lambda: RandomStrategy(3),
    "grid": GridStrategy,
    "insight": lambda: OptunaStrategy(3),
    "tpe": lambda: OptunaStrategy(3, "tpe"),
}
every_strategy = pytest.mark.parametrize("make", STRATEGIES.values(), ids=STRATEGIES.keys())


def score(candidate: Candidate) -> float:
    """Some function of a candidate, with ties."""
    return sum(len(c.model) / 10 + c.num_samples % 4 for c in candidate.values()) / 20


def huge_space(max_units: float | None) -> SearchSpace:
    cost = SubtaskCost(128, 64, SIZES)
    return SearchSpace(
        tuple(SubtaskSpace(f"s{i}", tuple(SIZES), tuple(range(1, 101)), "", cost) for i in range(3)), max_units
    )


@every_strategy
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(space=spaces())
def test_strategies_keep_their_promises_in_generated_spaces(make: Callable[[], Strategy], space: SearchSpace) -> None:
    asyncio.run(check_strategy(make, space, score))


@every_strategy
async def test_strategies_keep_their_promises_on_the_synthetic_landscape(make: Callable[[], Strategy]) -> None:
    landscape = SyntheticLandscape()
    await check_strategy(make, landscape.space, landscape.observed, rounds=4, k=6)


@every_strategy
@pytest.mark.parametrize("max_units", [None, 20.0])
async def test_strategies_try_everything_in_a_small_space_and_stop(
    make: Callable[[], Strategy], max_units: float | None
) -> None:
    cost = SubtaskCost(128, 64, SIZES)
    subtasks = [SubtaskSpace("a", ("small", "tiny"), (1, 2, 5), "", cost)]
    subtasks.append(SubtaskSpace("b", ("tiny", "medium"), (1, 3), "", cost))
    await check_strategy_tries_everything(make(), SearchSpace(tuple(subtasks), max_units), score)


@every_strategy
@pytest.mark.parametrize("max_units", [None, 60.0])
async def test_strategies_propose_in_a_space_too_large_to_list(
    make: Callable[[], Strategy], max_units: float | None
) -> None:
    space = huge_space(max_units)
    trials = [trial_of(space, 0, Proposal(space.baseline, "baseline"), 0.1)]
    proposals = await make().propose(space, trials, 5)
    assert len({p.candidate for p in proposals}) == 5
    assert all(space.contains(p.candidate) for p in proposals)


async def test_random_draws_depend_on_the_seed_and_on_the_number_of_trials() -> None:
    space = synthetic_space()
    trials = [trial_of(space, 0, Proposal(space.baseline, "baseline"), 0.1)]
    first = await RandomStrategy(0).propose(space, trials, 3)
    assert first != await RandomStrategy(1).propose(space, trials, 3)
    assert first != await RandomStrategy(0).propose(space, [], 3)


async def test_random_reaches_every_candidate_about_equally_often() -> None:
    cost = SubtaskCost(128, 64, SIZES)
    space = SearchSpace((SubtaskSpace("a", ("tiny", "small"), (1, 2), "", cost),))
    drawn = [(await RandomStrategy(seed).propose(space, [], 1))[0].candidate for seed in range(400)]
    assert all(60 <= drawn.count(c) <= 140 for c in space.candidates())


async def test_the_first_few_grid_points_are_spread_over_models_and_counts() -> None:
    space = synthetic_space()
    first = [p.candidate for p in await GridStrategy().propose(space, [], 12)]
    assert len({c["retrieve"].model for c in first}) >= 4
    assert len({c["answer"].num_samples for c in first}) >= 5


async def test_the_fallback_begins_with_the_first_trials_of_insight_1() -> None:
    space = synthetic_space()
    proposals = await OptunaStrategy(0, proposer="fallback").propose(space, [], 5)
    assert [p.candidate for p in proposals] == initial_candidates(space)[:5]
    assert {p.proposer for p in proposals} == {"fallback"}


async def test_a_failed_or_pruned_trial_is_no_parent_of_the_next_ones() -> None:
    space = synthetic_space()
    first = initial_candidates(space)
    trials = [trial_of(space, i, Proposal(c, "initial"), 0.1) for i, c in enumerate(first)]
    odd = space.candidate({"retrieve": ("llama-3b", 30), "answer": ("llama-8b", 40)})
    trials.append(trial_of(space, len(trials), Proposal(odd, "x"), 0.9, "pruned"))
    near_odd = [p for p in await OptunaStrategy(0).propose(space, trials, 8) if p.candidate["answer"].num_samples > 30]
    good = trial_of(space, len(trials) - 1, Proposal(odd, "x"), 0.9)
    near_good = await OptunaStrategy(0).propose(space, [*trials[:-1], good], 8)
    assert all(p.candidate["retrieve"].num_samples != 30 for p in near_odd)
    assert all(_differs_in_one_subtask(p.candidate, odd) for p in near_good)


def _differs_in_one_subtask(a: Candidate, b: Candidate) -> bool:
    return sum(a[name] != b[name] for name in a) == 1


async def test_history_from_outside_the_space_is_left_out_without_failing() -> None:
    space = synthetic_space()
    foreign = space.candidate({"retrieve": ("llama-3b", 4), "answer": ("gpt-x", 1)})
    trials = [trial_of(synthetic_space(), 0, Proposal(space.baseline, "baseline"), 0.2)]
    trials.append(
        trial_of(
            SearchSpace(space.subtasks),
            1,
            Proposal(space.candidate({"retrieve": ("llama-3b", 4), "answer": ("llama-3b", 1)}), "x"),
            0.4,
        )
    )
    assert foreign not in space
    assert len(await OptunaStrategy(0).propose(space, trials, 3)) == 3


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_insight_sampler_serves_a_users_own_study_in_both_directions(direction: str) -> None:
    landscape = SyntheticLandscape()
    sign = 1 if direction == "maximize" else -1
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction=direction, sampler=InsightSampler(landscape.space, seed=1))
    seen = []

    def objective(trial: optuna.Trial) -> float:
        for subtask in landscape.space.subtasks:
            trial.suggest_categorical(f"{subtask.name}.model", subtask.models)
            trial.suggest_int(f"{subtask.name}.num_samples", 1, 90, log=True)
        candidate = candidate_of(landscape.space, trial.params)
        seen.append(candidate)
        return sign * landscape.observed(candidate)

    study.optimize(objective, n_trials=60)
    assert len(set(seen)) == 60
    assert all(landscape.space.contains(c) for c in seen)
    assert max(map(landscape.exact, seen)) > landscape.optimum - 0.03


def test_the_insight_sampler_goes_on_when_the_neighbourhoods_are_exhausted() -> None:
    landscape = SyntheticLandscape()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=InsightSampler(landscape.space, parents=1))
    seen = set()
    for _ in range(60):
        trial = study.ask(distributions(landscape.space))
        seen.add(candidate_of(landscape.space, trial.params))
        study.tell(trial, 1.0 if trial.number == 0 else 0.0)
    assert len(seen) == 60


def test_a_candidate_survives_the_way_through_an_optuna_study() -> None:
    space = synthetic_space()
    assert all(candidate_of(space, params_of(c)) == c for c in space.candidates()[::97])


def test_an_unknown_sampler_is_the_users_mistake() -> None:
    with pytest.raises(ConfigError, match="insight, tpe, but got 'genetic'"):
        OptunaStrategy(0, "genetic")


async def test_asking_optuna_leaves_its_logging_as_it_was() -> None:
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    await OptunaStrategy(0).propose(synthetic_space(), [], 1)
    assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    optuna.logging.set_verbosity(optuna.logging.WARNING)


async def test_the_plain_loop_spends_its_trials_and_stops() -> None:
    landscape = SyntheticLandscape()
    runner = ScriptedRunner(landscape.space, landscape.observed, max_trials=13)
    await LoopSearch(RandomStrategy(0), batch_size=5).run(landscape.space, runner)
    assert len(runner.trials) == 13
    assert {t.proposer for t in runner.trials} == {"baseline", "random"}


async def test_the_plain_loop_ends_when_nothing_is_left() -> None:
    space = SearchSpace((SubtaskSpace("a", ("tiny", "small"), (1, 2), "", SubtaskCost(128, 64, SIZES)),))
    runner = ScriptedRunner(space, score, max_trials=100)
    await LoopSearch(GridStrategy()).run(space, runner)
    assert len(runner.trials) == 4


@pytest.mark.parametrize("fail_at", [1, 4, 7, 11])
async def test_a_crashed_plain_loop_ends_with_the_trials_of_an_undisturbed_one(fail_at: int) -> None:
    landscape = SyntheticLandscape()
    whole = ScriptedRunner(landscape.space, landscape.observed, 13)
    await LoopSearch(OptunaStrategy(0), 5).run(landscape.space, whole)
    broken = ScriptedRunner(landscape.space, landscape.observed, 13, fail_at=fail_at)
    with pytest.raises(RuntimeError, match="went down"):
        await LoopSearch(OptunaStrategy(0), 5).run(landscape.space, broken)
    await LoopSearch(OptunaStrategy(0), 5).run(landscape.space, broken)
    assert broken.trials == whole.trials


def test_importing_the_search_loads_neither_langgraph_nor_optuna() -> None:
    code = (
        "import sys, agentopt.search, agentopt.search.base, agentopt.search.settings, agentopt.search.loop\n"
        "assert not {'langgraph', 'optuna', 'langchain_core'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
