"""Choosing after a search: measured noise, shrunk scores, the best trial and a cheaper one as good."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.candidate import Candidate
from agentopt.core.records import Evaluation, ExampleResult, Trial, TrialState
from agentopt.core.two_way import two_way
from agentopt.search.posterior import TOLERANCE, choose, noise_variances, posterior, score_table
from agentopt.testing.synthetic_landscape import SyntheticLandscape

WORLD = SyntheticLandscape(0)
EVERY = WORLD.space.candidates()


def trial(number: int, candidate: Candidate, scores: list[float], state: TrialState = "complete") -> Trial:
    results = tuple(ExampleResult(f"e{i:03}", score) for i, score in enumerate(scores))
    return Trial(number, candidate, Evaluation("validation", 50, results, state), "test", WORLD.space.units(candidate))


def measured(rows: int, seed: int, trials: int = 12) -> list[Trial]:
    rng = np.random.default_rng(seed)
    chosen = random.Random(seed).sample(EVERY, trials)
    tables = (rng.random(rows) < WORLD.exact(candidate) for candidate in chosen)
    return [trial(i, c, table.astype(float).tolist()) for i, (c, table) in enumerate(zip(chosen, tables, strict=True))]


def test_the_recommended_trial_is_the_cheapest_within_the_tolerance() -> None:
    for seed in range(5):
        trials = measured(50, seed)
        chosen = choose(WORLD.space, trials)
        assert chosen is not None
        mean = posterior(WORLD.space, [t.candidate for t in trials], score_table(trials)).mean
        assert chosen.best_score == mean.max()
        assert chosen.recommended_score >= chosen.best_score - TOLERANCE
        cheaper = [m for t, m in zip(trials, mean, strict=True) if t.units < chosen.recommended.units]
        assert all(m < chosen.best_score - TOLERANCE for m in cheaper)


def test_scores_of_few_rows_are_shrunk_and_scores_of_many_are_not() -> None:
    few, many = measured(10, 1), measured(5000, 1)
    spread = {}
    for trials in (few, many):
        scores = score_table(trials)
        found = posterior(WORLD.space, [t.candidate for t in trials], scores)
        spread[len(scores[0])] = found.mean.std() / scores.mean(axis=1).std()
    assert spread[10] < 0.9
    assert spread[5000] == pytest.approx(1, abs=0.02)


def test_a_pruned_trial_informs_the_model_and_is_never_chosen() -> None:
    trials = [*measured(30, 2), trial(12, EVERY[0], [1.0] * 9, "pruned")]
    chosen = choose(WORLD.space, trials)
    assert chosen is not None
    assert 12 not in (chosen.best.number, chosen.recommended.number)
    assert chosen.contender is trials[-1]
    hopeless = choose(WORLD.space, [*measured(30, 2), trial(12, EVERY[0], [0.0] * 9, "pruned")])
    assert hopeless is not None
    assert hopeless.contender is None


def test_a_single_trial_and_trials_that_are_alike_are_chosen_as_they_are() -> None:
    one = choose(WORLD.space, [trial(0, EVERY[0], [1.0, 0.0, 1.0])])
    assert one is not None
    assert one.best_score == pytest.approx(2 / 3)
    alike = choose(WORLD.space, [trial(i, EVERY[i], [1.0, 0.0]) for i in (3, 200, 0)])
    assert alike is not None
    assert alike.best.units == min(WORLD.space.units(EVERY[i]) for i in (3, 200, 0))
    assert alike.saving == 0


@pytest.mark.parametrize("seed", range(4))
def test_of_trials_that_score_alike_the_cheapest_is_the_best_and_alone_on_the_front(seed: int) -> None:
    chosen = random.Random(seed).sample(EVERY, 10)
    trials = [trial(i, candidate, [float(i % 2)] * 12) for i, candidate in enumerate(chosen)]
    right, wrong = (sorted((t for t in trials if t.score == s), key=lambda t: t.units) for s in (1.0, 0.0))
    found = choose(WORLD.space, trials, tolerance=0.0)
    assert found is not None
    assert (found.best, found.recommended) == (right[0], right[0])
    assert found.pareto == tuple(t.number for t in (wrong[0], right[0]) if t is right[0] or t.units < right[0].units)
    assert {found.shrunk[t.number] for t in right} == {found.best_score}


def test_a_pruned_trial_that_scores_as_the_best_one_is_no_contender() -> None:
    right, wrong = (
        [trial(i, EVERY[9 * i], [score] * 12) for i in places] for score, places in ((1.0, (1, 2)), (0.0, (3, 4)))
    )
    found = choose(WORLD.space, [*right, *wrong, *(trial(i, EVERY[9 * i], [1.0] * 3, "pruned") for i in range(5, 9))])
    assert found is not None
    assert found.contender is None


@pytest.mark.parametrize("seed", range(5))
def test_no_shrunk_score_is_beyond_the_scores_of_all_rows(seed: int) -> None:
    best = sorted(EVERY, key=WORLD.exact)[-8:]
    rng = np.random.default_rng(seed)
    trials = [trial(i, c, (rng.random(24) < 0.97).astype(float).tolist()) for i, c in enumerate(best)]
    chosen = choose(WORLD.space, trials)
    assert chosen is not None
    assert 0 <= min(chosen.shrunk.values()) <= max(chosen.shrunk.values()) <= 1


def test_nothing_complete_is_no_choice() -> None:
    assert choose(WORLD.space, [trial(0, EVERY[0], [1.0], "pruned"), trial(1, EVERY[1], [], "incomplete")]) is None


def test_too_few_rows_are_reported_with_the_number_needed() -> None:
    trials = measured(12, 4)
    chosen = choose(WORLD.space, trials, tolerance=0.0001)
    assert chosen is not None
    assert chosen.recommended is chosen.best
    assert chosen.too_few_rows
    assert chosen.rows_needed > 1_000_000


@pytest.mark.parametrize("rows", [24, 400])
def test_rows_are_enough_if_nothing_cheaper_may_be_as_good(rows: int) -> None:
    cheap, dear = sorted(random.Random(rows).sample(EVERY, 2), key=WORLD.space.units)
    rng = np.random.default_rng(rows)
    bad, good = (rng.random(rows) < 0.05).astype(float).tolist(), (rng.random(rows) < 0.95).astype(float).tolist()
    dearer_is_better = choose(WORLD.space, [trial(0, cheap, bad), trial(1, dear, good)])
    cheapest_is_best = choose(WORLD.space, [trial(0, cheap, good), trial(1, dear, bad)])
    assert dearer_is_better is not None
    assert cheapest_is_best is not None
    assert (dearer_is_better.recommended.number, cheapest_is_best.recommended.number) == (1, 0)
    assert not dearer_is_better.too_few_rows
    assert not cheapest_is_best.too_few_rows


def test_the_best_and_the_recommended_trial_are_on_the_pareto_front() -> None:
    for seed in range(8):
        chosen = choose(WORLD.space, measured(24, seed))
        assert chosen is not None
        assert chosen.best.number == chosen.pareto[-1]
        assert chosen.recommended.number in chosen.pareto
        assert set(chosen.shrunk) == set(range(12))


def test_a_trial_that_a_later_one_completed_counts_once() -> None:
    scores = [1.0, 0.0, 1.0, 1.0]
    trials = [
        trial(0, EVERY[0], scores),
        trial(1, EVERY[9], scores[:2], "incomplete"),
        trial(2, EVERY[9], scores[::-1]),
    ]
    chosen = choose(WORLD.space, trials)
    alone = choose(WORLD.space, [trials[0], trials[2]])
    assert chosen is not None
    assert alone is not None
    assert chosen.shrunk == alone.shrunk
    assert 1 not in chosen.shrunk


def test_the_noise_of_a_score_is_the_residual_over_its_rows() -> None:
    trials = measured(40, 3)
    pruned = trial(12, EVERY[0], [1.0, 0.0] * 5, "pruned")
    noise = noise_variances([*trials, pruned])
    assert noise[12] == pytest.approx(4 * noise[0])
    chances = np.array([WORLD.exact(t.candidate) for t in trials])
    assert noise[0] == pytest.approx((chances * (1 - chances)).mean() / 40, rel=0.2)


@pytest.mark.parametrize("trials", [[], measured(40, 3)[:1], [trial(i, EVERY[i], [i / 9]) for i in range(9)]])
def test_without_rows_that_several_trials_share_no_noise_is_measured(trials: list[Trial]) -> None:
    assert noise_variances(trials) == {}


def test_candidates_outside_of_the_space_and_other_prompts_are_compared() -> None:
    other = EVERY[5].having("answer", model="unknown")
    prompted = EVERY[6].having("answer", system_prompt="Think.")
    trials = [trial(0, EVERY[5], [1.0, 0.0, 0.0]), trial(1, prompted, [1.0, 1.0, 1.0])]
    outside = Trial(2, other, trials[0].evaluation, "test", 1.0)
    chosen = choose(WORLD.space, [*trials, outside])
    assert chosen is not None
    assert chosen.best.number == 1


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 99))
def test_the_two_way_means_of_a_whole_table_are_its_means(trials: int, rows: int, seed: int) -> None:
    table = np.random.default_rng(seed).random((trials, rows))
    means, residual = two_way(table)
    assert means == pytest.approx(table.mean(axis=1))
    assert residual >= 0


def test_a_trial_with_the_difficult_rows_alone_is_not_taken_for_a_bad_one() -> None:
    table = np.add.outer([0.0, 0.1, 0.3], [0.0, 0.2, 0.4, 0.6])
    table[2, 2:] = np.nan
    means, residual = two_way(table)
    assert means - means[0] == pytest.approx([0, 0.1, 0.3], abs=1e-3)
    assert residual < 1e-5
