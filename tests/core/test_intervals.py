"""Intervals of a mean cover at their level, also at small n, and the test of a zero mean holds under skew."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, multinomial, ttest_1samp

from agentopt.core.intervals import mean_ends, mean_p_value, paired_proportion_ends, proportion_ends
from agentopt.core.repeats import repeated_mean
from agentopt.core.stats import mean_interval, paired_difference

reals = st.lists(st.floats(-1, 1, allow_nan=False), min_size=2, max_size=30).map(np.array)


@given(n=st.integers(1, 200), data=st.data())
def test_the_interval_of_a_proportion_is_the_exact_one(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    expected = binomtest(successes, n).proportion_ci(method="exact")
    assert proportion_ends(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("n", [6, 10, 24, 60])
def test_the_interval_of_a_proportion_covers_everywhere(n: int) -> None:
    ends = np.array([proportion_ends(x, n) for x in range(n + 1)])
    for p in np.linspace(0.005, 0.995, 100):
        covered = (ends[:, 0] <= p) & (p <= ends[:, 1])
        assert binom.pmf(np.arange(n + 1)[covered], n, p).sum() >= 0.95


@pytest.mark.parametrize("n", [6, 10, 24, 60])
@pytest.mark.parametrize("moved", [0.02, 0.1, 0.3, 0.7, 0.9])
def test_the_interval_of_a_paired_difference_covers_exactly_counted(n: int, moved: float) -> None:
    wins, losses = (x.ravel() for x in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    possible = wins + losses <= n
    wins, losses = wins[possible], losses[possible]
    ends = np.array([paired_proportion_ends(int(b), int(c), n) for b, c in zip(wins, losses, strict=True)])
    for share in (0.0, 0.1, 0.25, 0.5, 1.0):
        p = np.array([moved * share, moved * (1 - share), 1 - moved])
        chances = multinomial.pmf(np.stack([wins, losses, n - wins - losses], axis=1), n, p)
        covered = (ends[:, 0] <= p[0] - p[1]) & (p[0] - p[1] <= ends[:, 1])
        assert chances[covered].sum() >= 0.93


@given(n=st.integers(1, 60), data=st.data())
def test_swapping_wins_and_losses_mirrors_the_interval(n: int, data: st.DataObject) -> None:
    wins = data.draw(st.integers(0, n))
    losses = data.draw(st.integers(0, n - wins))
    low, high = paired_proportion_ends(wins, losses, n)
    assert paired_proportion_ends(losses, wins, n) == pytest.approx((-high, -low))
    assert -1 <= low <= (wins - losses) / n + 1e-12
    assert (wins - losses) / n - 1e-12 <= high <= 1


def test_few_values_get_the_student_interval() -> None:
    values = np.array([0.1, 0.5, 0.4, 0.9, 0.3])
    low, high = mean_ends(values)
    expected = ttest_1samp(values, 0).confidence_interval()
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_many_symmetric_values_get_nearly_the_student_interval() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.1, 200)
    expected = ttest_1samp(values, 0).confidence_interval()
    assert mean_ends(values) == pytest.approx((expected.low, expected.high), abs=0.002)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "least"), [(60, 0.93), (200, 0.93)])
def test_the_interval_of_skewed_values_covers(n: int, least: float) -> None:
    rng, runs = np.random.default_rng(n), 800
    inside = 0
    for seed in range(runs):
        low, high = mean_ends(rng.lognormal(0, 1, n), seed=seed)
        inside += low <= np.exp(0.5) <= high
    error = (least * (1 - least) / runs) ** 0.5
    assert inside / runs >= least - 2 * error


@settings(max_examples=25)
@given(reals)
def test_the_p_value_is_a_probability_and_ignores_the_sign(values: np.ndarray) -> None:
    p_value = mean_p_value(values)
    assert 0 < p_value <= 1
    assert mean_p_value(-values) == pytest.approx(p_value, abs=2e-3)


@settings(max_examples=40)
@given(st.lists(st.floats(-1, 1, allow_nan=False), min_size=1, max_size=5).map(np.array))
def test_fewer_than_six_values_are_never_significant(values: np.ndarray) -> None:
    assert mean_p_value(values) > 0.05


def test_skewed_values_with_mean_0_are_seldom_called_different() -> None:
    rng, runs = np.random.default_rng(3), 300
    false = sum(mean_p_value(rng.exponential(1, 24) - 1, seed) <= 0.05 for seed in range(runs))
    assert false / runs <= 0.07 + 2 * (0.07 * 0.93 / runs) ** 0.5


def test_no_movement_is_no_evidence_and_constant_movement_is_much() -> None:
    assert mean_p_value(np.zeros(12)) == 1.0
    assert mean_p_value(np.full(12, 0.25)) < 0.001


@pytest.mark.parametrize(
    ("scores", "approximate"),
    [
        ([0.2, 0.4, 0.6, 0.8, 0.3], True),  # too few to see the skewness
        ([i / 20 for i in range(20)], False),
        ([0.1] * 17 + [0.5, 0.9, 1.0], True),
        ([0.9] * 55 + [0.0, 0.1, 0.2, 0.0], True),
        ([0.9] * 56 + [0.0, 0.1, 0.2, 0.0], False),  # 60 scores
        ([1.0] * 20 + [0.0], False),  # the binomial interval is exact
        ([0.4] * 12, False),  # without spread, the bound is exact, too
    ],
)
def test_the_interval_of_few_skewed_scores_is_marked(scores: list[float], approximate: bool) -> None:
    assert mean_interval(scores).approximate == approximate
    by_id = {f"{n:03}": score for n, score in enumerate(scores)}
    assert paired_difference(by_id, dict.fromkeys(by_id, 0.0)).interval.approximate == approximate
    repeated = np.repeat(np.array(scores)[:, None], 2, axis=1)
    assert repeated_mean(repeated).interval.approximate == approximate
