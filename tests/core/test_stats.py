"""Intervals cover, verdicts are careful, and an equal trial is rarely stopped."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from agentopt.core import stats
from agentopt.core.stats import mean_interval, paired_difference, verdict

unit = st.floats(0, 1, allow_nan=False)
right_or_wrong = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60)


def by_id(scores: list[float]) -> dict[str, float]:
    return {f"e{i}": float(score) for i, score in enumerate(scores)}


def trial_pair(rng: np.random.Generator, n: int, moved: float, gap: float) -> tuple[dict[str, float], dict[str, float]]:
    """Right-or-wrong scores of a challenger that is worse by `gap`; the two differ on a share `moved`."""
    draw = rng.random(n)
    loses_here, wins_here = draw < (moved + gap) / 2, (draw >= (moved + gap) / 2) & (draw < moved)
    same = rng.integers(0, 2, n)
    return by_id(np.where(loses_here, 0, np.where(wins_here, 1, same)).tolist()), by_id(
        np.where(loses_here, 1, np.where(wins_here, 0, same)).tolist()
    )


# ---- mean_interval


@given(right_or_wrong)
def test_right_or_wrong_scores_get_the_exact_interval(scores: list[float]) -> None:
    expected = binomtest(int(sum(scores)), len(scores)).proportion_ci(method="exact")
    interval = mean_interval(scores)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert interval.confidence == 0.95


@settings(max_examples=25)
@given(st.lists(unit, min_size=1, max_size=30))
def test_an_interval_holds_the_mean_and_has_a_width(scores: list[float]) -> None:
    interval = mean_interval(scores)
    slack = 1e-9 + 0.02 * (max(scores) - min(scores))  # resampling shifts its ends on very skewed scores
    assert interval.low - slack <= np.mean(scores) <= interval.high + slack
    if max(scores) == min(scores):
        assert interval.high > interval.low


def test_one_score_gives_a_wide_interval() -> None:
    interval = mean_interval([0.4])
    assert interval.low < 0.02
    assert interval.high > 0.98


def test_like_scores_narrow_with_their_number_and_never_to_nothing() -> None:
    widths = [mean_interval([0.4] * n).high - mean_interval([0.4] * n).low for n in (2, 10, 100)]
    assert widths == sorted(widths, reverse=True)
    assert 0.02 < widths[-1] < 0.05


def test_like_scores_outside_0_to_1_bound_nothing() -> None:
    assert mean_interval([7.0, 7.0]).high == math.inf


def test_real_scores_outside_0_to_1_are_resampled() -> None:
    interval = mean_interval(np.random.default_rng(0).normal(50, 10, 100).tolist())
    assert 46 < interval.low < 50 < interval.high < 54


def test_a_mean_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    intervals = [mean_interval(rng.beta(2, 3, 40).tolist()) for _ in range(60)]
    assert sum(i.low <= 0.4 <= i.high for i in intervals) >= 53


def test_more_confidence_is_wider() -> None:
    scores = [0.1, 0.5, 0.4, 0.9, 0.3, 0.6]
    narrow, wide = mean_interval(scores, confidence=0.5), mean_interval(scores, confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("scores", [[], [0.5, math.nan]])
def test_no_scores_and_scores_that_are_not_numbers_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one score, and finite ones"):
        mean_interval(scores)


# ---- paired_difference and verdict


def test_only_examples_that_both_have_count() -> None:
    difference = paired_difference({"x": 1.0, "y": 0.5, "z": 0.0}, {"y": 0.25, "x": 0.5, "w": 1.0})
    assert difference.n == 2
    assert difference.mean == pytest.approx(0.375)


def test_scores_that_differ_in_their_last_digits_do_not_differ() -> None:
    scores = {f"row-{place}": 0.1 * place for place in range(12)}
    noisy = {row: score + (1 + place % 5) * 1e-16 for place, (row, score) in enumerate(scores.items())}
    found = paired_difference(noisy, scores)
    assert (found.mean, found.p_value) == (0.0, 1.0)
    assert verdict(found) == "not distinguishable"


@settings(max_examples=25)
@given(st.lists(st.tuples(unit, unit), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_a_difference_turns_its_sign_when_the_two_change_places_and_ignores_order(pairs, random) -> None:  # type: ignore[no-untyped-def]
    a, b = by_id([x for x, _ in pairs]), by_id([y for _, y in pairs])
    forward, back = paired_difference(a, b), paired_difference(b, a)
    assert forward.mean == pytest.approx(-back.mean)
    assert forward.interval.low == pytest.approx(-back.interval.high)
    assert forward.p_value == pytest.approx(back.p_value)
    shuffled = list(a.items())
    random.shuffle(shuffled)
    assert paired_difference(dict(shuffled), b) == forward


def test_the_interval_is_the_normal_one_for_many_examples() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random(400), rng.random(400)
    difference = paired_difference(by_id(a.tolist()), by_id(b.tolist()))
    half = 1.96 * (a - b).std() / 20
    assert difference.interval.low == pytest.approx(difference.mean - half, abs=0.004)
    assert difference.interval.high == pytest.approx(difference.mean + half, abs=0.004)


@pytest.mark.parametrize(
    ("won", "lost", "same", "expected"),
    [
        (20, 2, 28, "better"),
        (2, 20, 28, "worse"),
        (6, 5, 39, "not distinguishable"),
        (0, 0, 50, "not distinguishable"),
        (4, 0, 46, "not distinguishable"),  # the bootstrap interval leaves out 0, the exact test does not agree
        (5, 0, 0, "not distinguishable"),
        (6, 0, 0, "better"),
    ],
)
def test_the_verdict_needs_the_interval_and_the_exact_test(won: int, lost: int, same: int, expected: str) -> None:
    a = by_id([1.0] * won + [0.0] * lost + [1.0] * same)
    b = by_id([0.0] * won + [1.0] * lost + [1.0] * same)
    assert verdict(paired_difference(a, b)) == expected


def test_equal_candidates_seldom_differ_significantly() -> None:
    rng = np.random.default_rng(3)
    verdicts = [verdict(paired_difference(*trial_pair(rng, 40, 0.3, 0.0))) for _ in range(150)]
    assert sum(v != "not distinguishable" for v in verdicts) <= 9  # 5% of 150 is 7.5


def test_candidates_without_a_common_example_have_no_difference() -> None:
    with pytest.raises(ValueError, match="at least one score"):
        paired_difference({"x": 1.0}, {"y": 1.0})


@given(n=st.integers(1, 200), data=st.data())
def test_binomial_tests_are_those_of_scipy(n: int, data: st.DataObject) -> None:
    wins = data.draw(st.integers(0, n))
    assert stats._sign_p_value(wins, n) == pytest.approx(binomtest(wins, n).pvalue, rel=1e-9)
