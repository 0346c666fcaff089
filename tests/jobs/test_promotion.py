"""Promotions over the life of a job: pooled evidence, one error for all comparisons, and no walk downwards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.jobs.promotion import (
    ALPHA,
    Comparison,
    Night,
    PromotionRules,
    e_value_above,
    pooled,
    promotion,
    spent,
    spent_in_all,
)

differences = st.lists(st.floats(-1, 1, allow_nan=False), max_size=20).map(np.array)


def meeting(won: int, lost: int, same: int, night: int = 0) -> Night:
    one, other = [1.0] * won + [0.0] * lost + [1.0] * same, [0.0] * won + [1.0] * lost + [1.0] * same
    rows = [f"{night} {i}" for i in range(len(one))]
    rng = np.random.default_rng(night)
    rng.shuffle(rows)
    return dict(zip(rows, one, strict=True)), dict(zip(rows, other, strict=True))


def compared(
    champion: list[Night], anchor: list[Night] | None = None, *, number: int = 1, cost: float = 1.0, first: float = 1.0
) -> Comparison:
    return Comparison(number, champion, champion if anchor is None else anchor, cost, 1.0, first)


def test_a_clear_gain_is_promoted_and_a_slight_one_is_not_yet() -> None:
    assert promotion(compared([meeting(40, 5, 155)])).promotion == "better"
    slight = promotion(compared([meeting(25, 15, 160)]))
    assert slight.promotion is None
    assert "not enough evidence yet (+0.050 on 200 rows" in slight.reason


@pytest.mark.parametrize(
    ("cost", "champion_cost", "cheaper_by", "missing"),
    [
        (
            1.05,
            1.0,
            0.1,
            "it costs 1.05 times as much as the champion, and promotion.cheaper_by is 0.1, so that it must",
        ),
        (
            0.95,
            1.0,
            0.1,
            "it costs 0.95 times as much as the champion, and promotion.cheaper_by is 0.1, so that it must",
        ),
        (0.5, 1.0, None, "promotion.cheaper_by is null, so that it must be better"),
        (0.0, 0.0, 0.1, "it cannot be cheaper than the champion, which costs nothing, so that it must be better"),
        (0.5, 1.0, 0.1, None),
    ],
)
def test_the_condition_that_is_missing_is_named(
    cost: float, champion_cost: float, cheaper_by: float | None, missing: str | None
) -> None:
    """However sure it is that the challenger is not inferior, it is not enough for one that is not cheaper."""
    night = meeting(15, 12, 1500)
    rules = PromotionRules(margin=0.05, cheaper_by=cheaper_by)
    found = promotion(Comparison(1, [night], [night], cost, champion_cost, 1.0), rules)
    assert found.non_inferior > found.needed
    assert found.promotion == (None if missing else "cheaper")
    if missing:
        assert found.reason.startswith("not enough evidence yet (+0.002 on 1,527 rows, evidence ")
        assert f" for better; 40 is needed): {missing}" in found.reason
        assert "not inferior" not in found.reason


def test_the_evidence_for_a_cheaper_challenger_is_named_until_it_is_enough() -> None:
    reason = promotion(compared([meeting(2, 2, 20)], cost=0.5)).reason
    assert " for better and " in reason
    assert reason.endswith(" for not inferior; 40 is needed)")


def test_evidence_is_pooled_over_nights() -> None:
    nights = [meeting(25, 15, 160, night) for night in range(12)]
    assert promotion(compared(nights)).promotion == "better"


def test_a_row_counts_once_however_often_it_comes() -> None:
    night = meeting(25, 15, 160)
    assert promotion(compared([night] * 12)).promotion is None
    assert len(pooled([night] * 12)) == 200


def test_later_comparisons_need_more_evidence_and_all_together_spend_the_error() -> None:
    assert sum(spent(number) for number in range(1, 10_000)) == pytest.approx(ALPHA, rel=1e-3)
    assert spent_in_all(7) == pytest.approx(sum(spent(number) for number in range(1, 8)))
    night = meeting(24, 4, 172)
    assert promotion(compared([night])).promotion == "better"
    assert promotion(compared([night], number=60)).promotion is None
    with pytest.raises(ValueError, match="`number >= 1` must hold"):
        spent(0)


def test_a_cheaper_equal_needs_enough_rows_and_enough_saving() -> None:
    few, many = ([meeting(2, 2, 196, night) for night in range(n)] for n in (2, 60))
    rules = PromotionRules(margin=0.02)
    assert promotion(compared(few, cost=0.5), rules).promotion is None
    assert promotion(compared(many, cost=0.5), rules).promotion == "cheaper"
    assert promotion(compared(many, cost=0.95), rules).promotion is None
    assert promotion(compared(many, cost=0.5), PromotionRules(margin=0.02, cheaper_by=None)).promotion is None


def test_a_cheaper_one_that_loses_the_margin_against_the_anchor_is_never_promoted() -> None:
    champion = [meeting(4, 4, 192, night) for night in range(60)]
    anchor = [meeting(4, 8, 188, night) for night in range(60)]
    assert promotion(compared(champion, anchor, cost=0.5), PromotionRules(margin=0.02)).promotion is None


def test_better_than_the_champion_alone_does_not_raise_an_anchor() -> None:
    champion, anchor = [meeting(40, 5, 155)], [meeting(10, 10, 180)]
    assert promotion(compared(champion, anchor)).promotion is None


def test_costs_never_rise_above_their_ratio() -> None:
    night = [meeting(40, 5, 155)]
    held = promotion(compared(night, cost=1.5), PromotionRules(max_cost_ratio=1.2))
    assert held.promotion is None
    assert "it costs 1.5 times as much as the first champion, and promotion.max_cost_ratio is 1.2: raise" in held.reason
    assert "+0.175 on 200 rows" in held.reason
    free = promotion(compared(night, cost=1.5, first=0.0))
    assert "it costs money, unlike the first champion" in free.reason
    assert promotion(compared(night, cost=1.5, first=0.0), PromotionRules(max_cost_ratio=None)).promotion == "better"
    assert promotion(compared(night, cost=1.2), PromotionRules(max_cost_ratio=1.2)).promotion == "better"


def test_no_shared_row_is_no_evidence() -> None:
    found = promotion(compared([({"a": 1.0}, {"b": 0.0})]))
    assert (found.promotion, found.rows, found.better) == (None, 0, 1.0)


@given(differences, st.floats(-0.5, 0.5), st.floats(0, 0.4))
def test_one_more_difference_at_the_bound_keeps_the_expectation(before: np.ndarray, bound: float, size: float) -> None:
    now = e_value_above(before, bound)
    up, down = (e_value_above(np.append(before, bound + sign * size), bound) for sign in (1, -1))
    assert (up + down) / 2 == pytest.approx(now, rel=1e-9)


@given(differences, st.floats(-0.5, 0.4))
def test_a_lower_bound_is_easier_to_pass(values: np.ndarray, bound: float) -> None:
    if (values >= bound).all():
        assert e_value_above(values, bound) >= e_value_above(values, bound + 0.1) - 1e-9


def test_the_error_holds_however_often_one_looks() -> None:
    rng, runs = np.random.default_rng(1), 300
    draws = rng.choice([-1.0, 0.0, 1.0], (runs, 2000), p=[0.15, 0.7, 0.15])
    false = sum(any(e_value_above(d[:seen], 0.0) >= 1 / ALPHA for seen in range(50, 2001, 50)) for d in draws)
    assert false / runs <= ALPHA
