"""The canary of a served champion raises an alarm when it became worse, and rarely otherwise."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopt.jobs.drift import canary_rows, drift_evidence, first_alarm

ROWS = [f"{i:03}" for i in range(200)]


def drawn(rng: np.random.Generator, rows: list[str], chances: np.ndarray, kept: float = 1.0) -> dict[str, float]:
    return {row: float(rng.random() < kept * chances[int(row)]) for row in rows}


def nights(seed: int, number: int, kept: float = 1.0) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """A reference, and canaries of a champion that keeps this share of its right answers."""
    rng = np.random.default_rng(seed)
    chances = rng.beta(0.65, 0.35, 200)
    reference = drawn(rng, ROWS, chances)
    return [reference], [drawn(rng, canary_rows(ROWS, night), chances, kept) for night in range(number)]


def test_a_champion_that_answers_everything_wrong_is_noticed_on_the_first_night() -> None:
    for seed in range(20):
        assert first_alarm(drift_evidence(*nights(seed, 1, 0.0))) == 0


def test_after_two_calm_nights_an_all_wrong_one_raises_the_alarm_in_nearly_all_jobs() -> None:
    def first(seed: int) -> int | None:
        rng = np.random.default_rng(seed)
        chances = rng.beta(0.325, 0.175, 200)  # most rows are nearly decided
        reference = [drawn(rng, ROWS, chances) for _ in range(2)]
        canaries = [drawn(rng, canary_rows(ROWS, night), chances, float(night < 2)) for night in range(3)]
        return first_alarm(drift_evidence(reference, canaries))

    assert [first(seed) for seed in range(200)].count(2) >= 190


def test_a_champion_that_stays_as_it_was_raises_no_alarm() -> None:
    assert [first_alarm(drift_evidence(*nights(seed, 20))) for seed in range(20)].count(None) >= 18


def test_a_drop_of_a_third_is_noticed_within_a_week() -> None:
    assert [first_alarm(drift_evidence(*nights(seed, 7, 0.69))) for seed in range(20)].count(None) <= 2


def test_without_a_reference_the_first_nights_are_the_reference() -> None:
    _, before = nights(1, 10)
    wrong = [dict.fromkeys(canary_rows(ROWS, night), 0.0) for night in range(10, 12)]
    evidence = drift_evidence([], [*before, *wrong])
    assert first_alarm(evidence[:10]) is None
    assert first_alarm(evidence) == 10


def test_rows_that_are_new_still_count() -> None:
    reference, _ = nights(2, 0)
    fresh = [{f"new {night} {i}": 0.0 for i in range(20)} for night in range(2)]
    assert first_alarm(drift_evidence(reference, fresh)) == 0


@settings(max_examples=20)
@given(st.integers(1, 6), st.integers(0, 99))
def test_the_evidence_is_positive_and_does_not_depend_on_nights_to_come(number: int, seed: int) -> None:
    reference, canaries = nights(seed, number)
    evidence = drift_evidence(reference, canaries)
    assert len(evidence) == number
    assert all(value > 0 for value in evidence)
    assert drift_evidence(reference, canaries[:-1]) == pytest.approx(evidence[:-1])


def test_the_expectation_over_the_next_score_is_the_evidence_so_far() -> None:
    reference, canaries = nights(3, 3)
    before = drift_evidence(reference, canaries)[-1]
    right, wrong = (drift_evidence(reference, [*canaries, {"000": score}])[-1] for score in (1.0, 0.0))
    assert min(right, wrong) < before < max(right, wrong)


def test_scores_between_0_and_1_count_by_their_value_and_others_are_refused() -> None:
    reference = [dict.fromkeys(ROWS, 0.5)]
    assert first_alarm(drift_evidence(reference, [dict.fromkeys(ROWS, 0.5)])) is None
    assert first_alarm(drift_evidence(reference, [dict.fromkeys(ROWS, 0.1)])) == 0
    with pytest.raises(ValueError, match="within 0 and 1, but got 3"):
        drift_evidence(reference, [{"000": 3.0}])


@given(st.integers(1, 300), st.floats(0.01, 1), st.integers(1, 40), st.integers(0, 9))
def test_every_row_comes_at_most_once_in_a_cycle(number: int, share: float, least: int, seed: int) -> None:
    rows = [str(i) for i in range(number)]
    size = len(canary_rows(rows, 0, share=share, least=least, seed=seed))
    assert size >= min(number, least)
    cycle = number // size
    drawn = Counter(row for n in range(cycle) for row in canary_rows(rows, n, share=share, least=least, seed=seed))
    assert set(drawn.values()) == {1}
    assert sum(drawn.values()) == cycle * size


def test_a_share_of_0_redraws_nothing() -> None:
    assert canary_rows(ROWS, 3, share=0) == []
    assert canary_rows([], 3) == []
    assert drift_evidence([], []) == []


def test_a_second_draw_of_the_reference_adds_to_the_evidence_of_a_small_drop() -> None:
    evidence = {1: 0.0, 2: 0.0}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        chances = rng.beta(1.3, 0.7, 200)
        draws = [drawn(rng, ROWS, chances) for _ in range(2)]
        canaries = [drawn(rng, canary_rows(ROWS, night), chances, 0.85) for night in range(20)]
        for number in evidence:
            evidence[number] += np.log(drift_evidence(draws[:number], canaries)[-1])
    assert evidence[2] > evidence[1] + 4
