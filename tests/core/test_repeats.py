"""Repeats: the interval of the mean over repeats, and the variance of a score by source."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.repeats import noise_parts, pass_at, repeated_mean
from agentopt.core.stats import mean_interval


def drawn(rng: np.random.Generator, shape: tuple[int, int, int], rows: float, sampling: float, judge: float):  # type: ignore[no-untyped-def]
    n, r, j = shape
    cube = 5 + rows * rng.standard_normal((n, 1, 1)) + sampling * rng.standard_normal((n, r, 1))
    return cube + judge * rng.standard_normal((n, r, j))


def test_the_parts_are_the_planted_ones() -> None:
    rng = np.random.default_rng(0)
    parts = noise_parts(drawn(rng, (4000, 4, 3), 0.3, 0.2, 0.1))
    assert (parts.rows, parts.sampling, parts.judge) == pytest.approx((0.09, 0.04, 0.01), rel=0.06)
    assert parts.error(100, 4, 1) == pytest.approx(((0.09 + 0.05 / 4) / 100) ** 0.5, rel=0.05)


def test_the_parts_survive_missing_scores() -> None:
    rng = np.random.default_rng(1)
    cube = drawn(rng, (4000, 4, 3), 0.3, 0.2, 0.1)
    cube[rng.random(cube.shape) < 0.2] = np.nan
    parts = noise_parts(cube)
    assert (parts.rows, parts.sampling, parts.judge) == pytest.approx((0.09, 0.04, 0.01), rel=0.1)


@given(st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=20))
def test_one_repeat_has_the_interval_of_single_scores(scores: list[float]) -> None:
    found = repeated_mean(np.array(scores)[:, None])
    expected = mean_interval(scores)
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert found.parts.sampling == found.parts.judge == 0


def test_repeats_narrow_the_interval_by_the_sampling_part_alone() -> None:
    rng = np.random.default_rng(2)
    cube = drawn(rng, (200, 16, 1), 0.3, 0.4, 0.0)[:, :, 0]
    widths = [(i := repeated_mean(cube[:, :r]).interval).high - i.low for r in (1, 4, 16)]
    expected = [2 * 1.97 * ((0.09 + 0.16 / r) / 200) ** 0.5 for r in (1, 4, 16)]
    assert widths == pytest.approx(expected, rel=0.15)


def test_repeats_that_differ_as_a_whole_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    table = drawn(rng, (200, 4, 1), 0.1, 0.1, 0.0)[:, :, 0]
    shifted = table + np.array([0.0, 0.3, -0.2, 0.1])
    narrow, wide = (repeated_mean(t).interval for t in (table, shifted))
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_rows_without_a_score_are_left_out_and_no_score_at_all_is_refused() -> None:
    table = np.array([[1.0, 0.0], [np.nan, np.nan], [1.0, np.nan]])
    found = repeated_mean(table)
    assert (found.mean, found.rows, found.repeats) == (0.75, 2, 2)
    with pytest.raises(ValueError, match="at least one score"):
        repeated_mean(np.full((2, 2), np.nan))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_share_of_the_subsets_that_have_a_right_response(k: int) -> None:
    table = np.array([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]], float)
    by_hand = [np.mean([any(row[list(chosen)]) for chosen in combinations(range(5), k)]) for row in table]
    assert pass_at(table, k) == pytest.approx(by_hand)
    assert pass_at(table[:, :, None], k) == pytest.approx(by_hand)


@pytest.mark.parametrize("odd", [0.5, np.nan, 2.0])
def test_pass_at_k_is_unknown_for_scores_that_are_neither_right_nor_wrong(odd: float) -> None:
    assert pass_at(np.array([[0.0, 1.0], [odd, 1.0]]), 2) is None
    assert pass_at(np.ones((2, 2, 2)), 2) is None, "a response that was judged twice"
