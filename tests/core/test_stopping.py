"""A losing trial stops early: it cannot catch up, or the evidence against it is strong at any time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.stopping import BETS, LEVEL, StopRule, e_value

unit = st.floats(0, 1, allow_nan=False)
pairs = st.lists(st.tuples(unit, unit), min_size=1, max_size=30)
CURTAILED = StopRule(level=0)


def by_id(scores: list[float]) -> dict[str, float]:
    return {f"e{i}": score for i, score in enumerate(scores)}


@given(pairs, st.integers(0, 30))
def test_curtailment_never_stops_what_would_end_ahead(scores: list[tuple[float, float]], seen: int) -> None:
    challenger, incumbent = [a for a, _ in scores], [b for _, b in scores]
    if CURTAILED.has_lost(by_id(challenger[:seen]), by_id(incumbent)):
        assert sum(challenger) < sum(incumbent)


def test_a_trial_that_can_only_tie_continues_and_one_row_later_it_stops() -> None:
    incumbent = by_id([1.0] * 3 + [0.0] * 3)
    assert not CURTAILED.has_lost(by_id([0.0] * 3), incumbent)
    assert CURTAILED.has_lost(by_id([0.0] * 4), incumbent)


def test_nothing_in_common_is_no_loss() -> None:
    assert not StopRule().has_lost({"x": 0.0}, {"y": 1.0})
    assert not StopRule().has_lost({}, {})


def test_losing_row_after_row_stops_on_evidence_long_before_curtailment() -> None:
    incumbent, rule = by_id([1.0] * 10 + [0.0] * 90), StopRule()
    stops = [seen for seen in range(1, 11) if rule.has_lost(by_id([0.0] * seen), incumbent)]
    assert stops[0] == 7
    assert not CURTAILED.has_lost(by_id([0.0] * 10), incumbent)


@given(st.lists(st.floats(-1, 1, allow_nan=False), max_size=40))
def test_evidence_is_positive_and_grows_with_a_loss(differences: list[float]) -> None:
    before = e_value(np.array(differences))
    assert before >= 0
    assert e_value(np.array([*differences, -0.5])) >= before
    assert e_value(np.array([*differences, 0.0])) == pytest.approx(before)


@given(st.floats(-1, 1, allow_nan=False), st.lists(st.floats(-1, 1, allow_nan=False), max_size=10))
def test_one_more_difference_of_mean_0_keeps_the_expectation(size: float, before: list[float]) -> None:
    expected = (e_value(np.array([*before, size])) + e_value(np.array([*before, -size]))) / 2
    assert expected == pytest.approx(e_value(np.array(before)))


def test_the_level_holds_for_looks_after_every_row() -> None:
    rng, runs = np.random.default_rng(1), 1000
    differences = rng.choice([-1.0, 0.0, 1.0], (runs, 100), p=[0.2, 0.6, 0.2])
    wealth = np.cumprod(1 - BETS[:, None, None] * differences, axis=2).mean(axis=0)
    assert (wealth.max(axis=1) >= 1 / LEVEL).mean() <= LEVEL


def test_scores_of_another_range_need_their_range() -> None:
    with pytest.raises(ValueError, match="within -1 and 1, but got 4"):
        StopRule(highest=1).has_lost({"a": 1.0}, {"a": 5.0, "b": 0.0, "c": 0.0, "d": -9.0})
    assert StopRule(highest=5).has_lost(by_id([0.0] * 7), by_id([5.0] * 7 + [0.0] * 90))
