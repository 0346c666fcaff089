"""Costs in units reproduce the paper's figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.cost import Price, Unit, num_samples_for, units

B = 1e9
PAPER_BUDGETS = {
    # (parameters, prompt tokens, completion tokens) of the largest model of each subtask
    "2wiki and hotpot": ([(72 * B, 2048, 128), (70 * B, 256, 64)], 928.7),
    "cwq": ([(72 * B, 1024, 64), (70 * B, 256, 64)], 520.7),
    "taskbench": ([(70 * B, 1024, 64), (70 * B, 1024, 256), (70 * B, 1024, 2048)], 1977.3),
    "chatdev": ([(70 * B, 1024, 1024), (70 * B, 1024, 512), (70 * B, 1024, 256)], 1767.3),
}


def test_units_are_those_of_the_paper() -> None:
    assert units(72 * B, 2048, 128, 1) == pytest.approx(814)
    assert units(3 * B, 256, 64, 50) == pytest.approx(52)
    assert units(32 * B, 2048, 128, 5) + units(3 * B, 256, 64, 20) == pytest.approx(468)


@pytest.mark.parametrize("dataset", PAPER_BUDGETS)
def test_default_budgets_are_those_of_the_paper(dataset: str) -> None:
    subtasks, budget = PAPER_BUDGETS[dataset]
    assert sum(units(*subtask, 1) for subtask in subtasks) == pytest.approx(budget, abs=0.05)


def test_the_reference_pass_is_one_unit() -> None:
    unit = Unit(parameters=1e8, prompt_tokens=40, completion_tokens=8)
    assert units(1e8, 40, 8, 1, unit=unit) == pytest.approx(1)


@given(
    parameters=st.floats(1e8, 1e12),
    prompt=st.integers(1, 5000),
    completion=st.integers(1, 5000),
    samples=st.integers(1, 100),
)
def test_a_budget_converts_into_the_samples_it_came_from(
    parameters: float, prompt: int, completion: int, samples: int
) -> None:
    budget = units(parameters, prompt, completion, samples)
    assert num_samples_for(budget + 1e-6 * abs(budget), parameters, prompt, completion) == samples


def test_a_budget_too_small_for_one_sample_gives_none() -> None:
    assert num_samples_for(1, 72 * B, 2048, 128) == 0


def test_usd_is_by_the_million_tokens() -> None:
    assert Price(prompt=0.88, completion=1.2).usd(1_000_000, 500_000) == pytest.approx(0.88 + 0.6)
