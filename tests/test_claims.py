"""The simulated levels of `benchmarks.claims` hold: the quick ones in every run, the others when marked slow."""

from __future__ import annotations

import pytest

from benchmarks.claims.__main__ import SECTIONS
from benchmarks.claims.lines import Line, at_least, at_most

QUICK = ("choosing", "stopping", "equals stopped", "differences", "duplicates", "gate")


def broken(name: str) -> list[str]:
    section, _, runs = SECTIONS[name]
    return [str(line) for line in section(runs) if line.state == "BROKEN"]


@pytest.mark.parametrize("name", QUICK)
def test_no_level_is_broken(name: str) -> None:
    assert broken(name) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SECTIONS if name not in QUICK])
def test_no_level_of_the_longer_simulations_is_broken(name: str) -> None:
    assert broken(name) == []


@pytest.mark.parametrize(
    ("line", "state"),
    [
        (at_most("x", [False] * 100, 0.05), "reached"),
        (at_most("x", [True] * 7 + [False] * 93, 0.05), "within error"),
        (at_most("x", [True] * 20 + [False] * 80, 0.05), "BROKEN"),
        (at_least("x", [True] * 100, 1.0), "reached"),
        (at_least("x", [True] * 80 + [False] * 20, 0.95), "BROKEN"),
        (at_least("x", [0.0, 0.1, 0.2], 0.15), "within error"),
    ],
)
def test_a_limit_is_broken_beyond_the_monte_carlo_error(line: Line, state: str) -> None:
    assert line.state == state
