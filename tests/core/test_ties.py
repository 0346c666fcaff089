"""Scores that differ in their last digits are equal, and of equal ones the cheapest comes first."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.records import Evaluation, ExampleResult, Trial, by_score
from agentopt.core.ties import TIE, highest, is_higher, ranked, tied

NOISE = 7.8e-12


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], []),
        ([0.5], [0.5]),
        ([1.0, 1.0 - NOISE], [1.0, 1.0]),
        ([1.0 - NOISE, 0.3, 1.0], [1.0, 0.3, 1.0]),
        ([0.1 + 0.2, 0.3], [0.1 + 0.2, 0.1 + 0.2]),
        ([0.5, 0.5 - 2 * TIE], [0.5, 0.5 - 2 * TIE]),
        ([-math.inf, 0.0, -math.inf], [-math.inf, 0.0, -math.inf]),
    ],
)
def test_scores_that_tie_become_equal(scores: list[float], expected: list[float]) -> None:
    assert tied(scores) == expected


@given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), max_size=20), st.randoms(use_true_random=False))
def test_noise_in_the_last_digits_changes_no_rank(scores: list[float], random) -> None:  # type: ignore[no-untyped-def]
    noisy = [(place, score + random.uniform(-NOISE, NOISE)) for place, score in enumerate(scores)]
    by_cost = ranked(noisy, lambda item: item[1], lambda item: item[0] % 3)
    assert [place for place, _ in by_cost] == sorted(range(len(scores)), key=lambda i: (-scores[i], i % 3, i))
    levels = tied([score for _, score in noisy])
    assert all(
        (a == b) == (x == y) for a, x in zip(levels, scores, strict=True) for b, y in zip(levels, scores, strict=True)
    )


def test_the_highest_of_equal_scores_is_the_cheapest() -> None:
    found = highest([(1.0, 0.0122), (1.0 - NOISE, 0.00615), (0.9, 0.001)], lambda one: one[0], lambda one: one[1])
    assert found == (1.0 - NOISE, 0.00615)
    assert highest([], float, float) is None


def test_a_score_is_higher_only_beyond_a_tie() -> None:
    assert is_higher(0.5 + 2 * TIE, 0.5)
    assert not is_higher(0.5 + NOISE, 0.5)
    assert not is_higher(-math.inf, -math.inf)


def test_trials_are_ordered_by_score_and_equal_ones_by_cost() -> None:
    def trial(number: int, units: float, scores: list[float]) -> Trial:
        results = tuple(ExampleResult(str(place), score) for place, score in enumerate(scores))
        candidate = Candidate.of({"answer": SubtaskChoice("small", number + 1)})
        return Trial(number, candidate, Evaluation("validation", len(scores), results, "complete"), "test", units)

    low, dear, cheap = trial(0, 1.0, [0.5, 0.5]), trial(1, 9.0, [0.1 + 0.2, 0.9]), trial(2, 3.0, [0.9, 0.3])
    assert [t.number for t in by_score([low, dear, trial(3, 0.0, []), cheap])] == [2, 1, 0]
