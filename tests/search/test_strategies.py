"""Every strategy passes the shared conformance suite; each also has its own promises."""

from __future__ import annotations

import asyncio
import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import optuna
import pytest
from hypothesis import HealthCheck, given, settings

from agentopt.core.candidate import Candidate
from agentopt.core.cost import SubtaskCost
from agentopt.core.errors import ConfigError, StrategyError
from agentopt.core.records import Trial, TrialState
from agentopt.runs.config import Config
from agentopt.runs.strategies import check_search_settings
from agentopt.search.base import Proposal, SearchSpace, Strategy, SubtaskSpace
from agentopt.search.baselines import GridStrategy, RandomStrategy
from agentopt.search.built_in import as_search
from agentopt.search.insights import initial_candidates
from agentopt.search.optuna_strategy import OptunaStrategy
from agentopt.search.optuna_trials import candidate_of, distributions, params_of
from agentopt.search.samplers import POPULATION, SAMPLERS, InsightSampler
from agentopt.search.strategy_loop import LoopSearch
from agentopt.testing.strategies import (
    ScriptedRunner,
    check_strategy,
    check_strategy_tries_everything,
    trial_of,
)
from agentopt.testing.synthetic_landscape import COUNTS, SyntheticLandscape, synthetic_space
from agentopt.testing.toy import toy_task
from tests.search.test_space import SIZES, spaces

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "random": lambda: RandomStrategy(3),
    "grid": GridStrategy,
    "insight": lambda: OptunaStrategy(3),
    **{name: partial(OptunaStrategy, 3, name) for name in SAMPLERS if name not in ("insight", "gp")},
}
NOTHING: Any = None
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
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(space=spaces())
def test_strategies_conform_in_generated_spaces(make: Callable[[], Strategy], space: SearchSpace) -> None:
    asyncio.run(check_strategy(make, space, score))


@every_strategy
async def test_strategies_conform_on_the_synthetic_landscape(make: Callable[[], Strategy]) -> None:
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


async def test_random_samples_depend_on_the_seed_and_on_the_number_of_trials() -> None:
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


async def test_the_fallback_begins_with_the_start_of_the_settings() -> None:
    space = synthetic_space()
    proposals = await OptunaStrategy(0, start="paper", proposer="fallback").propose(space, [], 5)
    assert [p.candidate for p in proposals] == initial_candidates(space)[:5]
    assert {p.proposer for p in proposals} == {"fallback"}


async def test_a_failed_trial_is_ignored_and_a_pruned_one_is_never_the_best() -> None:
    space = synthetic_space()
    first = initial_candidates(space)
    trials = [trial_of(space, i, Proposal(c, "initial"), 0.1 + i / 100) for i, c in enumerate(first)]
    odd = Proposal(space.candidate({"retrieve": ("llama-3b", 30), "answer": ("llama-8b", 40)}), "x")

    async def after(score: float | None, state: TrialState) -> list[Candidate]:
        history = [*trials, trial_of(space, len(trials), odd, score, state)]
        return [p.candidate for p in await OptunaStrategy(0).propose(space, history, 6)]

    failed, hopeless = await after(None, "incomplete"), await after(0.0, "pruned")
    lucky, good = await after(0.9, "pruned"), await after(0.9, "complete")
    assert lucky == await after(0.1 + (len(first) - 1) / 100, "pruned"), "a partial score counts up to the best one"
    assert sum(_near(c, odd.candidate) for c in good) > sum(_near(c, odd.candidate) for c in hopeless)
    assert odd.candidate not in failed


def _near(a: Candidate, b: Candidate) -> bool:
    return any(a[name].model == b[name].model and abs(a[name].num_samples - b[name].num_samples) <= 20 for name in a)


async def test_a_batch_spreads_as_if_its_scores_were_as_predicted() -> None:
    landscape = SyntheticLandscape()
    space, first = landscape.space, initial_candidates(landscape.space)
    trials = [trial_of(space, i, Proposal(c, "initial"), landscape.observed(c)) for i, c in enumerate(first)]
    batch = [p.candidate for p in await OptunaStrategy(0).propose(space, trials, 6)]
    alone = [p.candidate for p in await OptunaStrategy(0).propose(space, trials, 1)]
    assert batch[0] == alone[0]
    assert sum(_differs_in_one_step(a, b) for a, b in itertools.pairwise(batch)) <= 2


def _differs_in_one_step(a: Candidate, b: Candidate) -> bool:
    return all(a[n].model == b[n].model for n in a) and sum(
        abs(COUNTS.index(a[n].num_samples) - COUNTS.index(b[n].num_samples)) for n in a
    ) <= 1  # fmt: skip


async def test_the_gaussian_process_finds_the_best_of_a_smooth_score_in_a_space_too_large_to_list() -> None:
    space = huge_space(60.0)

    def smooth(candidate: Candidate) -> float:
        return sum(-abs(math.log(c.num_samples / 9)) + 0.5 * (c.model == "small") for c in candidate.values())

    runner = ScriptedRunner(space, smooth, max_trials=30)
    await LoopSearch(OptunaStrategy(1), 1).run(space, runner)
    assert max(t.score or 0.0 for t in runner.trials) > 0.5, "1.5 is the most; the first trials reach -5"


async def test_a_genetic_sampler_breeds_from_the_best_earlier_trials() -> None:
    space = synthetic_space()
    drawn = [p.candidate for p in await RandomStrategy(0).propose(space, [], 2 * POPULATION)]
    trials = [
        trial_of(space, i, Proposal(c, "x"), float(c["answer"].model in ("llama-3b", "qwen-7b")))
        for i, c in enumerate(drawn)
    ]
    children = [p.candidate for p in await OptunaStrategy(0, "nsga2").propose(space, trials, 10)]
    inherited = sum(c["answer"].model in ("llama-3b", "qwen-7b") for c in children)
    assert inherited >= 7, "3 or 4 of 10 by chance"


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
    assert not space.contains(foreign)
    assert len(await OptunaStrategy(0).propose(space, trials, 3)) == 3


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_insight_sampler_serves_a_users_own_study_in_both_directions(
    direction: Literal["maximize", "minimize"],
) -> None:
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


def test_the_insight_sampler_lets_a_study_continue_when_everything_was_tried() -> None:
    cost = SubtaskCost(128, 64, SIZES)
    space = SearchSpace((SubtaskSpace("a", ("tiny", "small"), (1, 2), "", cost),))
    study = optuna.create_study(direction="maximize", sampler=InsightSampler(space))
    for _ in range(7):
        study.tell(study.ask(distributions(space)), 1.0)
    assert {candidate_of(space, t.params) for t in study.trials[:4]} == set(space.candidates())


def test_a_candidate_is_converted_to_parameters_and_back_unchanged() -> None:
    space = synthetic_space()
    assert all(candidate_of(space, params_of(space, c)) == c for c in space.candidates()[::97])


def test_an_unknown_sampler_is_the_users_mistake() -> None:
    with pytest.raises(ConfigError, match=r"insight, tpe, .* but got 'genetic'"):
        OptunaStrategy(0, "genetic")


def test_a_sampler_without_its_package_is_rejected_with_the_remedy() -> None:
    if find_spec("torch"):
        pytest.skip("torch is installed here")
    with pytest.raises(ConfigError, match="pip install torch"):
        OptunaStrategy(0, "gp")


async def test_a_call_of_optuna_leaves_its_logging_unchanged() -> None:
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


class Returning:
    """A strategy whose `propose` returns what a function of the space returns."""

    def __init__(self, make: Callable[[SearchSpace], Any]) -> None:
        self._make = make

    async def propose(self, space: SearchSpace, trials: Sequence[Trial], k: int) -> Any:
        return self._make(space)


def unaffordable(space: SearchSpace) -> Candidate:
    every = replace(space, max_units=None).candidates()
    return next(candidate for candidate in every if not space.affords(candidate))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda space: None, "must return a list"),
        (lambda space: [1, 2], "must return a list of `Proposal`s"),
        (lambda space: [space.baseline], "must return a list of `Proposal`s"),
        (lambda space: "random", "must return a list"),
        (lambda space: [Proposal(NOTHING, "mine")], "must propose a `Candidate`"),
        (lambda space: [Proposal(space.baseline, NOTHING)], "name its proposer"),
        (lambda space: [Proposal(space.baseline, "mine")], "each candidate once, but proposed .* again"),
        (lambda space: [Proposal(space.candidates()[1], "mine")] * 2, "each candidate once"),
        (lambda space: [Proposal(unaffordable(space), "mine")], "its cost limit"),
        (lambda space: [Proposal(space.baseline.having("answer", model="none"), "mine")], "within the search space"),
        (lambda space: 1 / 0, "the strategy Returning failed: ZeroDivisionError"),
    ],
)
async def test_what_a_strategy_may_not_propose_ends_the_search_with_the_rule(
    make: Callable[[SearchSpace], Any], problem: str
) -> None:
    space = synthetic_space()
    runner = ScriptedRunner(space, score, max_trials=10)
    with pytest.raises(StrategyError, match=f"(?s){problem}.*remedy: "):
        await LoopSearch(Returning(make), 5).run(space, runner)
    assert len(runner.trials) == 1, "only the baseline was evaluated"


def test_a_class_is_no_strategy() -> None:
    name = "agentopt.search.baselines:RandomStrategy"
    with pytest.raises(ConfigError, match="RandomStrategy is a class"):
        check_search_settings(toy_task(), Config(strategy=name))
    with pytest.raises(ConfigError, match="got the class GridStrategy"):
        as_search(GridStrategy)


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
        "import sys, agentopt.search, agentopt.search.base, agentopt.search.settings, agentopt.search.strategy_loop\n"
        "assert not {'langgraph', 'optuna', 'langchain_core'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
