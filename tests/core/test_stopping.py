"""A losing trial stops early: it cannot catch up, or the evidence against it is strong at any time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.records import EarlyStop
from agentopt.core.stopping import BETS, LEVEL, StopTest, e_value

unit = st.floats(0, 1, allow_nan=False)
pairs = st.lists(st.tuples(unit, unit), min_size=1, max_size=30)
right_or_wrong = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60)


def by_id(scores: list[float]) -> dict[str, float]:
    return {f"e{i}": score for i, score in enumerate(scores)}


def curtailed(incumbent: list[float]) -> StopTest:
    return StopTest(by_id(incumbent), "trial 3", level=0)


@given(pairs, st.integers(0, 30))
def test_curtailment_never_stops_what_would_end_ahead(scores: list[tuple[float, float]], seen: int) -> None:
    challenger, incumbent = [a for a, _ in scores], [b for _, b in scores]
    if curtailed(incumbent).stop(by_id(challenger[:seen])):
        assert sum(challenger) < sum(incumbent)


def test_a_trial_that_can_only_tie_continues_and_one_row_later_it_stops() -> None:
    test = curtailed([1.0] * 3 + [0.0] * 3)
    assert test.stop(by_id([0.0] * 3)) is None
    assert str(test.stop(by_id([0.0] * 4))) == "cannot catch up with trial 3"


def test_a_row_without_a_score_may_still_get_the_highest() -> None:
    test, scores = curtailed([1.0] * 3 + [0.0] * 3), by_id([0.0] * 4)
    del scores["e1"]
    assert test.stop(scores) is None


def test_nothing_in_common_is_no_loss() -> None:
    assert StopTest({"y": 1.0}, "trial 3").stop({"x": 0.0}) is None
    assert StopTest({}, "trial 3").stop({}) is None
    assert StopTest({"y": 1.0}, "trial 3").needed({"x": 0.0}, ["z", "a"]) == 2


def test_losing_row_after_row_stops_on_evidence_long_before_curtailment() -> None:
    incumbent = [1.0] * 10 + [0.0] * 90
    test = StopTest(by_id(incumbent), "trial 3")
    stops = [seen for seen in range(1, 11) if test.stop(by_id([0.0] * seen))]
    assert stops[0] == 7
    assert test.stop(by_id([0.0] * 7)) == EarlyStop("worse", "trial 3", pytest.approx(30.25, abs=0.01))  # type: ignore[arg-type]
    assert str(test.stop(by_id([0.0] * 7))) == "worse than trial 3 (e-value 30)"
    assert curtailed(incumbent).stop(by_id([0.0] * 10)) is None


@given(right_or_wrong, st.integers(0, 60), st.sampled_from([0.0, 0.05, 0.2]))
def test_no_row_that_is_needed_can_stop_the_trial_but_the_last(
    scores: list[tuple[float, float]], seen: int, level: float
) -> None:
    challenger, incumbent = by_id([a for a, _ in scores]), by_id([b for _, b in scores])
    test, rows = StopTest(incumbent, "trial 3", level), list(incumbent)
    seen = min(seen, len(rows) - 1)
    so_far = {row: challenger[row] for row in rows[:seen]}
    if test.stop(so_far):
        return
    needed = test.needed(so_far, rows[seen:])
    assert 1 <= needed <= len(rows) - seen
    for more in range(1, needed):
        assert test.stop({row: challenger[row] for row in rows[: seen + more]}) is None
    worst = {**so_far, **dict.fromkeys(rows[seen : seen + needed], 0.0)}
    assert seen + needed == len(rows) or test.stop(worst)


@pytest.mark.parametrize("scores", [{"e0": -0.5, "e1": 0.0}, {"e0": 0.0, "e1": 1.5}])
def test_scores_outside_of_0_to_1_stop_nothing(scores: dict[str, float]) -> None:
    incumbent = by_id([1.0] * 20)
    assert StopTest(incumbent, "trial 3").stop(by_id([0.0] * 12))
    assert StopTest(incumbent, "trial 3").stop({**by_id([0.0] * 12), **scores}) is None
    assert StopTest({**incumbent, **scores}, "trial 3").stop(by_id([0.0] * 12)) is None
    assert StopTest({**incumbent, **scores}, "trial 3").needed({}, list(incumbent)) == 20


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


def test_an_e_value_of_differences_outside_of_the_range_is_refused() -> None:
    with pytest.raises(ValueError, match="within -1 and 1, but got 4"):
        e_value(np.array([0.5, -4.0]))


def stopped(rng: np.random.Generator, rows: int, gap: float) -> bool:
    """Whether a trial is stopped that is worse by `gap` and differs from the incumbent on half of the rows."""
    draw = rng.random(rows)
    worse, better = draw < (0.5 + gap) / 2, (draw >= (0.5 + gap) / 2) & (draw < 0.5)
    same = rng.integers(0, 2, rows)
    challenger = by_id(np.where(worse, 0.0, np.where(better, 1.0, same)).tolist())
    incumbent = by_id(np.where(worse, 1.0, np.where(better, 0.0, same)).tolist())
    test = StopTest(incumbent, "trial 3")
    return any(test.stop(dict(list(challenger.items())[:seen])) for seen in range(1, rows))


def test_a_clear_loser_is_stopped_more_often_the_more_it_loses() -> None:
    rng = np.random.default_rng(6)
    slight, clear = (sum(stopped(rng, 50, gap) for _ in range(60)) for gap in (0.1, 0.3))
    assert slight < clear
    assert clear > 50


@given(pairs, st.floats(0, 0.2), st.integers(0, 30))
def test_with_a_margin_nothing_stops_that_would_end_within_it(
    scores: list[tuple[float, float]], margin: float, seen: int
) -> None:
    challenger, incumbent = [a for a, _ in scores], [b for _, b in scores]
    test = StopTest(by_id(incumbent), "trial 3", level=0, margin=margin)
    if test.stop(by_id(challenger[:seen])):
        assert sum(challenger) < sum(incumbent) - margin * len(scores) + 1e-9


def test_a_margin_of_one_row_allows_one_row() -> None:
    test = StopTest(by_id([1.0] * 50), "trial 3", level=0, margin=0.02)
    assert test.stop(by_id([0.0])) is None
    assert test.needed({}, list(by_id([1.0] * 50))) == 2
    assert str(test.stop(by_id([0.0, 0.0]))) == "cannot catch up with trial 3"
    assert StopTest(by_id([1.0] * 50), "trial 3", level=0).stop(by_id([0.0]))
