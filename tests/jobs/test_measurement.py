"""Costs of measurements in one measure, and the alarms that a champion raises by its measurement."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.cost import CostMeasure
from agentopt.jobs.measurement import Measurement, alarms, beats, costs


def measured(right: str, usd: float = 1.0, units: float = 1.0) -> Measurement:
    """`110` is right on the first two of three examples."""
    return Measurement({str(i): float(c) for i, c in enumerate(right)}, usd, units)


LOW, HIGH = "1" * 4 + "0" * 16, "1" * 18 + "0" * 2
measurements = st.builds(measured, st.text("01", min_size=14, max_size=14))


@pytest.mark.parametrize(
    ("measure", "usd", "units", "seconds", "expected"),
    [
        ("usd", (0.0, 0.0), (10, 5), (1, 2), (10, 5)),
        ("usd", (0.0, 1.0), (10, 5), (1, 2), (0.0, 1.0)),
        ("usd", (2.0, 1.0), (10, 5), (1, 2), (2.0, 1.0)),
        ("units", (2.0, 1.0), (10, 5), (1, 2), (10, 5)),
        ("units", (2.0, 1.0), (0, 5), (1, 2), (2.0, 1.0)),
        ("units", (0.0, 0.0), (0, 5), (1, 2), (1, 2)),
        ("seconds", (0.0, 1.0), (10, 5), (1, 0), (0.0, 1.0)),
        ("seconds", (0.0, 0.0), (10, 5), (0, 2), (10, 5)),
        ("seconds", (0.0, 0.0), (10, 0), (0, 2), (0, 0)),
    ],
)
def test_costs_are_compared_in_a_measure_in_which_all_are_known(
    measure: CostMeasure,
    usd: tuple[float, float],
    units: tuple[float, float],
    seconds: tuple[float, float],
    expected: tuple[float, float],
) -> None:
    each = [replace(measured("1", *pair), seconds=latency) for *pair, latency in zip(usd, units, seconds, strict=True)]
    assert costs(*each, measure=measure) == expected


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
