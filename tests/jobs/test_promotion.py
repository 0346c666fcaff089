"""The promotion rule and the alarms: pure functions, so their promises are tested as properties."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopt.jobs.jobfile import PromotionRule
from agentopt.jobs.promotion import Measurement, alarms, decide, saving

RULE = PromotionRule()


def measured(right: str, usd: float = 1.0, units: float = 1.0) -> Measurement:
    """`110` is right on the first two of three examples."""
    return Measurement({str(i): float(c) for i, c in enumerate(right)}, usd, units)


LOW, HIGH = "1" * 4 + "0" * 16, "1" * 18 + "0" * 2
measurements = st.builds(
    measured, st.text("01", min_size=14, max_size=14), st.sampled_from([0.0, 0.5, 0.8, 0.95, 1.0, 2.0])
)


def test_a_significantly_better_challenger_is_promoted_whatever_it_costs() -> None:
    champion = measured(LOW)
    decision = decide(RULE, champion, measured(HIGH, usd=50), champion)
    assert decision.why == "better"
    assert "+0.700" in decision.finding


def test_a_challenger_that_is_a_little_better_is_not() -> None:
    champion = measured("1" * 10 + "0" * 10)
    decision = decide(RULE, champion, measured("1" * 11 + "0" * 9), champion)
    assert decision.why is None


def test_as_good_and_cheaper_by_the_share_is_promoted_and_by_less_is_not() -> None:
    champion = measured(HIGH, usd=1.0)
    assert decide(RULE, champion, measured(HIGH, usd=0.9), champion).why == "cheaper"
    assert decide(RULE, champion, measured(HIGH, usd=0.91), champion).why is None
    never = PromotionRule(cheaper_by=None)
    assert decide(never, champion, measured(HIGH, usd=0.1), champion).why is None


def test_a_challenger_that_costs_more_is_told_as_such() -> None:
    champion = measured(HIGH)
    for usd, told in ((2.0, "costs 2.0 times as much"), (1.0, "not cheaper"), (1.01, "not cheaper")):
        assert decide(RULE, champion, measured(HIGH, usd=usd), champion).finding.endswith(told)
    assert decide(RULE, champion, measured(HIGH, usd=0.95), champion).finding.endswith("cheaper by 5%")


def test_a_cheaper_challenger_that_is_worse_is_not_promoted() -> None:
    champion = measured(HIGH)
    assert decide(RULE, champion, measured(LOW, usd=0.01), champion).why is None


def test_units_decide_where_nothing_costs_usd() -> None:
    assert saving(measured("1", 0.0, 10), measured("1", 0.0, 5)) == pytest.approx(0.5)
    assert saving(measured("1", 0.0, 10), measured("1", 1.0, 5)) == 0.0


def test_an_example_without_a_score_decides_nothing() -> None:
    champion = measured(LOW)
    broken = Measurement(measured(HIGH).scores, 1, 1, complete=False)
    decision = decide(RULE, champion, broken, champion)
    assert (decision.why, decision.conclusive) == (None, False)


def test_a_row_of_ever_cheaper_challengers_cannot_lose_what_the_anchor_had() -> None:
    """Each step is too small to be seen; together they are not."""
    anchor = measured("1" * 20)
    champion = measured("1" * 16 + "0" * 4, usd=0.8)
    challenger = measured("1" * 12 + "0" * 8, usd=0.5)
    assert decide(RULE, champion, challenger, champion).why == "cheaper"
    decision = decide(RULE, champion, challenger, anchor)
    assert decision.why is None
    assert "anchor" in decision.finding


@given(measurements, measurements)
def test_what_took_the_place_does_not_lose_it_to_what_it_replaced(a: Measurement, b: Measurement) -> None:
    first = decide(RULE, a, b, a)
    if first.why:
        anchor = b if first.why == "better" else a
        assert decide(RULE, b, a, anchor).why is None


@settings(max_examples=60)
@given(st.lists(measurements, min_size=2, max_size=5), st.data())
def test_while_the_world_stands_still_no_champion_comes_back(pool: Sequence[Measurement], data: st.DataObject) -> None:
    """Any order of challengers, any number of times: every champion holds the place once at most."""
    champion = anchor = 0
    held = [0]
    for _ in range(25):
        i = data.draw(st.integers(0, len(pool) - 1))
        decision = decide(RULE, pool[champion], pool[i], pool[anchor])
        if decision.why:
            champion, anchor = i, i if decision.why == "better" else anchor
            held.append(champion)
    assert len(held) == len(set(held))


def test_a_champion_below_its_own_record_raises_an_alarm() -> None:
    told = alarms(measured(LOW), measured(HIGH).scores, None)
    assert len(told) == 1
    assert "worse than when it was promoted" in told[0]
    assert alarms(measured(HIGH), measured(HIGH).scores, None) == []


def test_a_champion_below_the_baseline_raises_an_alarm() -> None:
    assert "worse than the baseline" in alarms(measured(LOW), {}, measured(HIGH))[0]
    assert alarms(measured(HIGH), {}, measured(LOW)) == []


def test_a_champion_without_any_score_raises_an_alarm() -> None:
    assert "no score" in alarms(Measurement({}, 0, 0, complete=False), {}, measured(HIGH))[0]


@given(measurements)
def test_a_champion_that_is_as_it_was_raises_none(champion: Measurement) -> None:
    assert alarms(champion, champion.scores, champion) == []
