"""Tests of the promotion rules and alarms, with properties."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopt.jobs.jobfile import PromotionRule
from agentopt.jobs.promotion import RULES, Comparison, Decision, Measurement, alarms, decide, saving

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
    assert decision.promotes
    assert decision.new_anchor
    assert "+0.700" in decision.finding


def test_a_challenger_that_is_a_little_better_is_not() -> None:
    champion = measured("1" * 10 + "0" * 10)
    decision = decide(RULE, champion, measured("1" * 11 + "0" * 9), champion)
    assert not decision.promotes


def test_as_good_and_cheaper_by_the_share_is_promoted_and_by_less_is_not() -> None:
    champion = measured(HIGH, usd=1.0)
    assert decide(RULE, champion, measured(HIGH, usd=0.9), champion).promotes
    assert not decide(RULE, champion, measured(HIGH, usd=0.91), champion).promotes
    never = PromotionRule(cheaper_by=None)
    assert not decide(never, champion, measured(HIGH, usd=0.1), champion).promotes


def test_a_rule_is_a_function_that_is_inserted_among_the_others() -> None:
    """A project with a latency target could promote the cheaper half of any two that are equally good."""

    def halves_the_cost(comparison: Comparison) -> Decision | None:
        if saving(comparison.champion, comparison.challenger) < 0.5:
            return None
        return Decision(f"half the cost ({comparison})", promotes=True, difference=comparison.difference)

    *before, last = RULES
    rules, champion = (*before, halves_the_cost, last), measured(HIGH, usd=1.0)
    decision = decide(RULE, champion, measured(HIGH, usd=0.5), champion, rules)
    assert (decision.promotes, decision.finding[:13]) == (True, "half the cost")
    assert decide(RULE, champion, measured(HIGH, usd=0.6), champion, rules).finding.endswith("cheaper by 40%")
    assert not decide(RULE, champion, measured(LOW, usd=0.1), champion, rules).promotes, "earlier rules come first"


def test_a_challenger_that_costs_more_is_reported_as_such() -> None:
    champion = measured(HIGH)
    for usd, ending in ((2.0, "costs 2.0 times as much"), (1.0, "not cheaper"), (1.01, "not cheaper")):
        assert decide(RULE, champion, measured(HIGH, usd=usd), champion).finding.endswith(ending)
    assert decide(RULE, champion, measured(HIGH, usd=0.95), champion).finding.endswith("cheaper by 5%")


def test_a_cheaper_challenger_that_is_worse_is_not_promoted() -> None:
    champion = measured(HIGH)
    assert not decide(RULE, champion, measured(LOW, usd=0.01), champion).promotes


def test_units_decide_where_nothing_costs_usd() -> None:
    assert saving(measured("1", 0.0, 10), measured("1", 0.0, 5)) == pytest.approx(0.5)
    assert saving(measured("1", 0.0, 10), measured("1", 1.0, 5)) == 0.0


def test_an_example_without_a_score_decides_nothing() -> None:
    champion = measured(LOW)
    broken = Measurement(measured(HIGH).scores, 1, 1, complete=False)
    decision = decide(RULE, champion, broken, champion)
    assert (decision.promotes, decision.conclusive) == (False, False)


def test_a_row_of_ever_cheaper_challengers_cannot_lose_what_the_anchor_had() -> None:
    """Each step is too small to be significant; their sum is not."""
    anchor = measured("1" * 20)
    champion = measured("1" * 16 + "0" * 4, usd=0.8)
    challenger = measured("1" * 12 + "0" * 8, usd=0.5)
    assert decide(RULE, champion, challenger, champion).promotes
    decision = decide(RULE, champion, challenger, anchor)
    assert not decision.promotes
    assert "anchor" in decision.finding


@given(measurements, measurements)
def test_a_new_champion_does_not_lose_to_its_predecessor(a: Measurement, b: Measurement) -> None:
    first = decide(RULE, a, b, a)
    if first.promotes:
        anchor = b if first.new_anchor else a
        assert not decide(RULE, b, a, anchor).promotes


@settings(max_examples=60)
@given(st.lists(measurements, min_size=2, max_size=5), st.data())
def test_while_data_and_prices_are_unchanged_no_champion_returns(
    pool: Sequence[Measurement], data: st.DataObject
) -> None:
    """In any order of challengers, repeated ones included, a candidate becomes champion at most once."""
    champion = anchor = 0
    held = [0]
    for _ in range(25):
        i = data.draw(st.integers(0, len(pool) - 1))
        decision = decide(RULE, pool[champion], pool[i], pool[anchor])
        if decision.promotes:
            champion, anchor = i, i if decision.new_anchor else anchor
            held.append(champion)
    assert len(held) == len(set(held))


def test_a_champion_below_its_own_record_raises_an_alarm() -> None:
    found = alarms(measured(LOW), measured(HIGH).scores, None)
    assert len(found) == 1
    assert "worse than when it was promoted" in found[0]
    assert alarms(measured(HIGH), measured(HIGH).scores, None) == []


def test_a_champion_below_the_baseline_raises_an_alarm() -> None:
    assert "worse than the baseline" in alarms(measured(LOW), {}, measured(HIGH))[0]
    assert alarms(measured(HIGH), {}, measured(LOW)) == []


def test_a_champion_without_any_score_raises_an_alarm() -> None:
    assert "no score" in alarms(Measurement({}, 0, 0, complete=False), {}, measured(HIGH))[0]


@given(measurements)
def test_an_unchanged_champion_raises_no_alarm(champion: Measurement) -> None:
    assert alarms(champion, champion.scores, champion) == []
