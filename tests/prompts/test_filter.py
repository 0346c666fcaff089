"""The p1 filter: the formulas, what must not matter, what must be left out, and the verdict."""

from __future__ import annotations

import re
from dataclasses import astuple
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopt.core.stats import Estimator, Floats
from agentopt.prompts.covariance import cross_fit, noise_corrected_covariance, permutation_null, variance_parts
from agentopt.prompts.filter import Criteria, analyse, open_cells
from agentopt.prompts.subsets import best_subset, best_subsets, score

FAST = Criteria(permutations=200, splits=4)
seeds = st.integers(0, 2**32 - 1)
estimators = st.sampled_from(["unbiased", "paper"])


def answers(seed: int, p: Floats, m: int) -> Floats:
    """Right-or-wrong rewards with the chances p (N, K)."""
    drawn: Floats = (np.random.default_rng(seed).random((*p.shape, m)) < p[..., None]).astype(float)
    return drawn


def chances(seed: int, n: int = 6, k: int = 7) -> Floats:
    return np.clip(np.random.default_rng(seed).normal(0.5, 0.2, (n, k)), 0, 1)


def no_effect(seed: int, n: int = 16, k: int = 12) -> Floats:
    return np.tile(np.random.default_rng(seed).random(k), (n, 1))


def two_tell_apart(seed: int, n: int = 16, k: int = 12) -> Floats:
    """User prompts 3 and 8 favour the same system prompts; the others do not care."""
    p = no_effect(seed, n, k)
    p[:, 3] = p[:, 8] = np.linspace(0.05, 0.95, n)
    return p


def with_gaps(seed: int, table: Floats, keep: int = 2) -> Floats:
    """Some responses missing, at least `keep` left in each cell."""
    count = np.random.default_rng(seed).integers(keep, table.shape[2] + 1, table.shape[:2])
    return np.where(np.arange(table.shape[2]) < count[..., None], table, np.nan)


def direct_score(table: Floats, chosen: list[int], estimator: Estimator) -> float:
    """The formula of p1 (arXiv 2604.08801), cell by cell."""
    n, between, noise = len(table), [], 0.0
    for row in table[:, chosen]:
        kept = [cell[~np.isnan(cell)] for cell in row]
        between.append(np.mean([cell.mean() for cell in kept]))
        variances = [cell.var(ddof=1 if estimator == "unbiased" else 0) / len(cell) for cell in kept]
        noise += float(np.mean(variances)) / len(chosen)
    return float(np.var(between)) - (n - 1) / n**2 * noise


# ---- the covariance and its scores


@given(seeds, st.sets(st.integers(0, 6), min_size=1), estimators)
def test_a_score_from_the_covariance_is_the_direct_formula(seed: int, chosen: set[int], estimator: Estimator) -> None:
    table = with_gaps(seed, 3 * np.random.default_rng(seed).normal(100, 1, (6, 7, 5)))
    g = noise_corrected_covariance(table, estimator)
    assert score(g, tuple(chosen)) == pytest.approx(direct_score(table, sorted(chosen), estimator), abs=1e-9)


@pytest.mark.parametrize("m", [2, 4])  # the benchmark has the draws that 8 and 32 need
def test_only_the_unbiased_score_is_the_truth_on_average(m: int) -> None:
    p = chances(0, 8, 2)
    found = {
        estimator: np.array([noise_corrected_covariance(answers(i, p, m), estimator).mean() for i in range(1500)])
        for estimator in ("unbiased", "paper")
    }
    truth, error = p.mean(axis=1).var(), found["unbiased"].std() / np.sqrt(1500)
    assert abs(found["unbiased"].mean() - truth) < 3 * error
    assert found["paper"].mean() - truth > 3 * error


def test_signal_and_noise_add_up_to_the_variance_of_the_means() -> None:
    table = answers(1, chances(1, 6, 7), 4)
    parts = variance_parts(table)
    assert parts.signal + parts.noise == pytest.approx(table.mean(axis=(1, 2)).var())
    assert parts.ratio(7, 4) == pytest.approx(parts.signal / parts.noise)


@given(seeds, st.floats(0.1, 20), st.integers(1, 60))
def test_the_responses_needed_give_the_wanted_ratio(seed: int, wanted: float, user_prompts: int) -> None:
    parts = variance_parts(answers(seed, chances(seed), 4))
    needed = parts.responses_needed(wanted, user_prompts)
    if parts.signal_at(user_prompts) > 0:
        assert parts.ratio(user_prompts, needed) == pytest.approx(wanted)
    else:
        assert needed == np.inf


@given(seeds, estimators)
def test_the_order_of_system_prompts_responses_and_user_prompts_does_not_matter(
    seed: int, estimator: Estimator
) -> None:
    rng, table = np.random.default_rng(seed), with_gaps(seed, answers(seed, chances(seed), 5))
    g = noise_corrected_covariance(table, estimator)
    turn = rng.permutation(7)
    shuffled = rng.permuted(table, axis=2)[rng.permutation(6)][:, turn]
    np.testing.assert_allclose(noise_corrected_covariance(shuffled, estimator), g[np.ix_(turn, turn)], atol=1e-12)


@given(seeds, estimators)
def test_missing_responses_are_the_same_as_none(seed: int, estimator: Estimator) -> None:
    table = answers(seed, chances(seed), 3)
    padded = np.concatenate([table, np.full((6, 7, 2), np.nan)], axis=2)
    np.testing.assert_allclose(
        noise_corrected_covariance(padded, estimator), noise_corrected_covariance(table, estimator), atol=1e-12
    )


def test_a_system_prompt_without_responses_is_the_same_as_none() -> None:
    table = answers(2, chances(2), 4)
    padded = np.concatenate([table, np.full((1, 7, 4), np.nan)])
    np.testing.assert_allclose(noise_corrected_covariance(padded), noise_corrected_covariance(table), atol=1e-12)
    assert astuple(variance_parts(padded)) == pytest.approx(astuple(variance_parts(table)))


def test_an_empty_cell_costs_its_pairs_one_system_prompt_only() -> None:
    table = answers(3, chances(3), 4)
    table[0, 2] = np.nan
    g = noise_corrected_covariance(table)
    without = noise_corrected_covariance(table[1:])
    assert g[2, 4] == pytest.approx(without[2, 4] * (5 / 6) / (4 / 5))  # from divisor N of 5 to N of 6
    assert g[1, 4] == pytest.approx(noise_corrected_covariance(table[:, [1, 4]])[0, 1])


def test_a_user_prompt_without_repeats_is_left_out_and_named() -> None:
    table = answers(4, two_tell_apart(4), 8)
    table[:, 3, 1:] = np.nan
    result = analyse(table, criteria=FAST)
    assert result.unscored == (3,)
    assert 3 not in result.subset
    assert np.isnan(result.covariance[3]).all()
    assert analyse(table, estimator="paper", criteria=FAST).unscored == ()


# ---- finding the subset


@settings(max_examples=40)
@given(seeds, st.integers(1, 4))
def test_the_enumeration_finds_the_best_subset(seed: int, k: int) -> None:
    g = noise_corrected_covariance(answers(seed, chances(seed), 4))
    found = best_subset(g, k)
    table = answers(seed, chances(seed), 4)
    everything = [direct_score(table, list(c), "unbiased") for c in combinations(range(7), k)]
    assert found.search == "exact"
    assert found.score == pytest.approx(max(everything), abs=1e-12)
    assert found.score == pytest.approx(score(g, found.user_prompts), abs=1e-12)


def test_greedy_with_swaps_nearly_always_agrees_with_the_enumeration() -> None:
    stack = np.stack([noise_corrected_covariance(answers(i, chances(i, 8, 14), 4)) for i in range(150)])
    exact, climbed = (best_subsets(stack, 4, search)[0] for search in ("exact", "greedy with swaps"))
    assert (climbed <= exact + 1e-12).all()
    assert (climbed >= exact - 1e-12).mean() >= 0.99


def test_too_many_subsets_are_searched_greedily_and_the_result_reports_it() -> None:
    found = best_subset(noise_corrected_covariance(answers(5, chances(5, 8, 64), 4)), 16)
    assert found.search == "greedy with swaps"
    assert len(set(found.user_prompts)) == 16


# ---- how sure it is


def test_the_p_value_counts_the_choice_among_subsets() -> None:
    p_values = np.array(
        [permutation_null(answers(i, no_effect(i), 4), 2, permutations=99, seed=i).best_p_value for i in range(120)]
    )
    assert (p_values <= 0.1).mean() <= 0.19  # .1 and three standard errors
    assert 0.4 < p_values.mean() < 0.6


def test_a_real_effect_has_a_small_p_value_for_greedy_search_too() -> None:
    assert permutation_null(answers(6, two_tell_apart(6), 8), 2, permutations=99).best_p_value == 0.01
    wide = answers(7, chances(7, 10, 60), 8)
    assert permutation_null(wide, 12, permutations=60).best_p_value < 0.05


def test_the_null_is_the_same_for_the_same_seed_and_keeps_ragged_counts() -> None:
    table = with_gaps(8, answers(8, no_effect(8), 6))
    one, two = (permutation_null(table, 2, permutations=150, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.best, two.best)
    assert abs(one.all.mean()) < 3 * one.all.std() / np.sqrt(150) + 1e-4  # the noise is subtracted from the rest


def test_the_cross_fit_has_no_winners_curse() -> None:
    tables = [answers(i, no_effect(i), 4) for i in range(60)]
    crossed = np.array([cross_fit(table, 2, splits=3) for table in tables])
    chosen = np.array([best_subset(noise_corrected_covariance(table), 2).score for table in tables])
    assert abs(crossed.mean()) < 3 * crossed.std() / np.sqrt(60)
    assert chosen.mean() > 0.01


def test_the_cross_fit_finds_a_real_effect_and_needs_four_responses() -> None:
    truth = np.linspace(0.05, 0.95, 16).var()
    assert cross_fit(answers(9, two_tell_apart(9), 16), 2) == pytest.approx(truth, rel=0.4)
    assert np.isnan(cross_fit(answers(9, two_tell_apart(9), 2), 2))


def test_the_cross_fit_is_nan_if_user_prompts_that_were_decided_first_would_be_missing() -> None:
    table = answers(9, two_tell_apart(9), 8)
    table[:, [3, 8], 2:] = np.nan  # the best two were clear after two responses, the others were repeated
    assert np.isnan(cross_fit(table, 2))
    assert not np.isnan(cross_fit(np.delete(table, [3, 8], axis=1), 2))


# ---- the verdict


def test_prompts_that_agree_are_optimised_on_all() -> None:
    p = np.clip(np.linspace(0.2, 0.8, 12)[:, None] + np.random.default_rng(0).normal(0, 0.05, (12, 10)), 0, 1)
    result = analyse(answers(0, p, 4), criteria=FAST)
    assert result.verdict == "optimise on all"
    assert result.parts.mean_off_diagonal > 0.5 * result.parts.mean_diagonal


def test_two_user_prompts_that_discriminate_are_found_among_many_that_do_not() -> None:
    result = analyse(answers(1, two_tell_apart(1), 8), criteria=Criteria(ratio=8, permutations=200, splits=4))
    assert result.verdict == "optimise on these"
    assert result.subset == (3, 8)
    assert result.subset_ratio > 8 > result.ratio
    assert "on the chosen 2" in result.reason


def test_no_effect_is_not_worth_it_if_measured_precisely_and_otherwise_needs_more() -> None:
    p = no_effect(2)
    assert analyse(answers(2, p, 32), criteria=FAST).verdict == "not worth it"
    dim = analyse(answers(2, p, 2), criteria=FAST)
    assert dim.verdict == "measure more"
    wanted = re.search(r"about ([\d.]+) times as many responses per cell \(prompts\.repeats=(\d+)\)$", dim.reason)
    assert wanted
    assert int(wanted[2]) == pytest.approx(float(wanted[1]) * dim.intended[1], abs=1.2)


def test_an_effect_too_weak_for_the_intended_responses_is_not_worth_it() -> None:
    p = np.tile(np.linspace(0.45, 0.55, 8)[:, None], (1, 10))
    result = analyse(answers(3, p, 200), intended=(10, 1), criteria=FAST)
    assert result.verdict == "not worth it"
    assert result.all_p_value < 0.025
    expected = 2 * 7 / 8 * 0.2489 / np.linspace(0.45, 0.55, 8).var() / 10  # 41 per user prompt
    assert result.responses_needed == pytest.approx(expected, rel=0.4)


def test_user_prompts_that_are_always_right_or_wrong_are_named_and_not_worth_it() -> None:
    result = analyse(answers(4, np.tile([0.0, 1.0, 1.0, 0.0, 1.0], (6, 1)), 3), criteria=FAST)
    assert (result.always_wrong, result.always_right) == ((0, 3), (1, 2, 4))
    assert result.verdict == "not worth it"
    assert result.subset_p_value == 1.0


@pytest.mark.parametrize(
    ("reward", "reason"),
    [
        (1.0, "every answer is right, so there is nothing to optimise"),
        (0.0, "every answer is wrong, whatever the system prompt"),
    ],
)
def test_equal_answers_are_the_reason(reward: float, reason: str) -> None:
    result = analyse(np.full((4, 6, 2), reward), criteria=FAST)
    assert (result.verdict, result.reason) == ("not worth it", reason)


def test_pure_noise_is_seldom_called_worth_optimising() -> None:
    verdicts = [analyse(answers(i, no_effect(i, 8, 12), 4), criteria=FAST).verdict for i in range(100)]
    assert sum(v.startswith("optimise") for v in verdicts) <= 8


@pytest.mark.parametrize(
    ("table", "k_top", "rule"),
    [
        (np.zeros((3, 4)), 2, "rewards must have shape"),
        (np.full((3, 4, 2), np.inf), 2, "rewards must be finite"),
        (np.zeros((1, 4, 2)), 2, "two system prompts with responses are needed, but got 1"),
        (np.zeros((3, 4, 2)), 5, "k_top 5 and 4 usable"),
        (np.zeros((3, 4, 1)), 2, "k_top 2 and 0 usable"),
    ],
)
def test_rewards_that_cannot_be_analysed_are_rejected_with_the_rule(table: Floats, k_top: int, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        analyse(table, k_top=k_top)


# ---- cells to repeat


def test_cells_without_two_responses_are_open_and_cells_at_the_cap_are_closed() -> None:
    table = np.full((4, 5, 6), np.nan)
    table[:2] = answers(5, chances(5, 2, 5), 6)
    opened = open_cells(table, cap=6)
    assert not opened[:2].any()
    assert opened[2:].all()


def test_repeats_go_where_the_choice_is_open_and_end_with_the_choice_of_the_cap() -> None:
    full = answers(6, two_tell_apart(6), 8)
    have = np.full(full.shape[:2], 2)
    seen = np.where(np.arange(8) < have[..., None], full, np.nan)
    while (wanted := open_cells(seen, cap=8)).any():
        have += wanted
        seen = np.where(np.arange(8) < have[..., None], full, np.nan)
    chosen, fixed = (best_subset(noise_corrected_covariance(t), 2).user_prompts for t in (seen, full))
    assert chosen == fixed == (3, 8)
    assert have.sum() <= 0.5 * full.size


def test_user_prompts_that_are_almost_certainly_chosen_stay_open() -> None:
    table = np.full((16, 12, 8), np.nan)
    table[..., :6] = answers(6, two_tell_apart(6), 6)
    assert np.flatnonzero(open_cells(table, cap=8).all(axis=0)).tolist() == [3, 8]


def test_nothing_is_open_when_every_user_prompt_is_chosen() -> None:
    assert not open_cells(answers(7, chances(7, 6, 2), 2), k_top=2).any()
