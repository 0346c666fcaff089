"""Costs of measurements in one measure, and the alarms that a champion raises by its measurement."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.jobs.measurement import Measurement, alarms, beats, costs


def measured(right: str, usd: float = 1.0, units: float = 1.0) -> Measurement:
    """`110` is right on the first two of three examples."""
    return Measurement({str(i): float(c) for i, c in enumerate(right)}, usd, units)


LOW, HIGH = "1" * 4 + "0" * 16, "1" * 18 + "0" * 2
measurements = st.builds(measured, st.text("01", min_size=14, max_size=14))


@pytest.mark.parametrize(
    ("usd", "expected"), [((0.0, 0.0), (10, 5)), ((0.0, 1.0), (0.0, 1.0)), ((2.0, 1.0), (2.0, 1.0))]
)
def test_units_are_compared_if_nothing_costs_usd(usd: tuple[float, float], expected: tuple[float, float]) -> None:
    assert costs(measured("1", usd[0], 10), measured("1", usd[1], 5)) == expected


def test_a_significant_difference_beats_and_a_slight_one_does_not() -> None:
    assert beats(measured(HIGH), measured(LOW))
    assert not beats(measured("1" * 11 + "0" * 9), measured("1" * 10 + "0" * 10))


def test_a_champion_below_its_own_record_raises_an_alarm() -> None:
    (found,) = alarms(measured(LOW), measured(HIGH).scores)
    assert "worse than when it was promoted" in found
    assert alarms(measured(HIGH), measured(HIGH).scores) == []
    assert alarms(measured(LOW), {"another row": 1.0}) == []


def test_a_champion_without_any_score_raises_an_alarm() -> None:
    assert "no score" in alarms(Measurement({}, 0, 0, complete=False), {})[0]


@given(measurements)
def test_an_unchanged_champion_raises_no_alarm(champion: Measurement) -> None:
    assert alarms(champion, champion.scores) == []
