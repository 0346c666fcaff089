"""A prompt replaces the seed on held-out evidence, and the gain that is reported is shrunk by the whole race."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from agentopt.core.stats import Floats
from agentopt.prompts.adoption import adoption, one_sided_p_value, shrunk_gain

ROWS, REPEATS = 30, 4


def race(seed: int, gains: list[float]) -> Floats:
    """Responses of prompts with these gains over .5, all on every row."""
    rng = np.random.default_rng(seed)
    difficulty = rng.uniform(-0.3, 0.3, ROWS)
    chances = np.clip(0.5 + np.add.outer(gains, difficulty), 0, 1)
    return (rng.random((len(gains), ROWS, REPEATS)) < chances[..., None]).astype(float)


def won(wins: int, losses: int, same: int) -> tuple[dict[str, float], dict[str, float]]:
    one, other = [1.0] * wins + [0.0] * losses + [1.0] * same, [0.0] * wins + [1.0] * losses + [1.0] * same
    return ({f"v{i}": score for i, score in enumerate(scores)} for scores in (one, other))  # type: ignore[return-value]


def test_a_better_prompt_is_adopted_with_a_gain_near_the_true_one() -> None:
    found = [adoption(*won(13, 4, 33), race(seed, [0.0] * 7 + [0.25]), (7, 0)) for seed in range(20)]
    assert all(each.adopted for each in found)
    assert np.mean([each.gain for each in found]) == pytest.approx(0.23, abs=0.04)
    assert found[0].raw_gain == pytest.approx(9 / 50)


def test_where_the_race_shows_no_difference_a_lucky_validation_gains_nearly_nothing() -> None:
    found = [adoption(*won(8, 3, 13), race(seed, [0.0] * 8), (7, 0)) for seed in range(20)]
    assert np.mean([each.gain for each in found]) < 0.04
    assert found[0].raw_gain > 0.2


def test_validation_decides_also_against_the_race() -> None:
    rewards = race(1, [0.0] * 7 + [0.25])
    assert not adoption(*won(4, 13, 33), rewards, (7, 0)).adopted
    assert not adoption(*won(0, 0, 24), rewards, (7, 0)).adopted
    assert adoption(*won(0, 0, 24), rewards, (7, 0)).p_value == 0.5


def test_the_level_bounds_the_adoptions_of_equals() -> None:
    rng = np.random.default_rng(2)
    draws = rng.choice([-1.0, 0.0, 1.0], (500, 24), p=[0.15, 0.7, 0.15])
    share = np.mean([one_sided_p_value(each) < 0.2 for each in draws])
    assert share <= 0.2 + 2 * (0.2 * 0.8 / 500) ** 0.5


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_right_or_wrong_rows_get_the_mid_p_sign_test(wins: int, losses: int, same: int) -> None:
    differences = np.array([1.0] * wins + [-1.0] * losses + [0.0] * same)
    expected = binom.cdf(losses, wins + losses, 0.5) - binom.pmf(losses, wins + losses, 0.5) / 2
    assert one_sided_p_value(differences) == pytest.approx(expected)


def test_real_scores_get_a_one_sided_test() -> None:
    gains = np.random.default_rng(3).normal(0.1, 0.05, 30)
    assert one_sided_p_value(gains) < 0.001
    assert one_sided_p_value(-gains) > 0.99


@settings(max_examples=25)
@given(st.integers(2, 8), st.integers(0, 99), st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=30))
def test_swapping_the_two_prompts_turns_the_sign_of_the_gain(prompts: int, seed: int, rows: list[float]) -> None:
    rewards = race(seed, [0.0] * prompts)
    rewards[np.random.default_rng(seed).random(rewards.shape) < 0.3] = np.nan
    forward = shrunk_gain(rewards, (0, 1), np.array(rows))
    assert shrunk_gain(rewards, (1, 0), -np.array(rows)) == pytest.approx(-forward, abs=1e-9)
    assert abs(forward) <= 2


def test_later_rounds_among_the_prompts_left_do_not_make_them_better_than_those_that_are_out() -> None:
    rewards = race(4, [0.0] * 8)
    rewards[:6, 10:] = np.nan
    rewards[6:, 10:] = 1.0
    assert abs(shrunk_gain(rewards, (7, 0), np.zeros(24))) < 0.02


def test_no_shared_validation_row_is_refused() -> None:
    with pytest.raises(ValueError, match="validation rows that both prompts have"):
        adoption({"a": 1.0}, {"b": 1.0}, race(0, [0.0, 0.0]), (1, 0))
