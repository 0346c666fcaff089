"""A cascade keeps the small model's answer if its samples agree; thresholds are replayed without a call."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.workflow.cascade import (
    CascadeRow,
    agreement,
    choose,
    prove,
    reason_to_escalate,
    thresholds,
)
from agentopt.workflow.cascade import replay as replayed
from agentopt.workflow.fusion import vote
from agentopt.workflow.vote_stopping import Vote

VOTES = st.lists(st.sampled_from(["right", "wrong", "other", None]), min_size=1, max_size=6)
ROWS = st.lists(st.tuples(VOTES, st.booleans(), st.booleans()), min_size=1, max_size=12)


class World(NamedTuple):
    """A planted pair of models. A share `easy` of the questions is easy for the small model.

    On the others it is right with probability `hard`, and a wrong answer is the common one with probability `trap`.
    """

    easy: float
    hard: float
    trap: float
    big: float = 0.9
    price: float = 0.02
    """Cost of one small sample; the big model's answer costs 1."""


HELPS = World(easy=0.7, hard=0.2, trap=0.1, big=0.98)
"""Questions that the small model cannot answer spread its samples."""
TRAPPED = World(easy=0.5, hard=0.05, trap=0.97)
"""Questions that the small model cannot answer have a wrong answer that it always gives."""
SPREAD = World(easy=0.0, hard=0.1, trap=0.0)
"""Its samples never agree, so it only adds to the cost."""


def row(name: str, votes: Sequence[Vote], big_score: float, *, cost: float = 0.1, passes: bool = True) -> CascadeRow:
    parsed = [key for key in votes if key is not None]
    small_score = float(bool(parsed) and vote(parsed) == "right")
    return CascadeRow(name, tuple(votes), small_score, big_score, cost, 1.0, passes)


def rows_of(world: World, count: int, seed: int, samples: int = 5) -> list[CascadeRow]:
    rng = random.Random(f"cascade {seed}")

    def sample(chance: float) -> str:
        if rng.random() < chance:
            return "right"
        return "wrong" if rng.random() < world.trap else f"wrong {rng.randrange(50)}"

    rows = []
    for number in range(count):
        chance = 0.97 if rng.random() < world.easy else world.hard
        votes = [sample(chance) for _ in range(samples)]
        rows.append(row(f"{seed}-{number}", votes, float(rng.random() < world.big), cost=world.price * samples))
    return rows


def built(drawn: list[tuple[list[Vote], bool, bool]]) -> list[CascadeRow]:
    return [row(str(i), votes, float(right), passes=passes) for i, (votes, right, passes) in enumerate(drawn)]


@pytest.mark.parametrize(
    ("votes", "threshold", "passes", "reason"),
    [
        (["a", "a", "a"], 1.0, True, None),
        (["a", "a", "b"], 0.6, True, None),
        (["a", "a", "b"], 0.7, True, "disagreement"),
        (["a", None, None], 0.5, True, "disagreement"),
        (["a", None, None], 0.0, True, None),
        ([None, None], 0.0, True, "nothing parsed"),
        ([None, None], 1.0, False, "nothing parsed"),
        (["a"], 1.0, True, None),
        (["a", "a"], 0.0, False, "check failed"),
        ([], 0.0, True, "nothing parsed"),
    ],
)
def test_why_an_example_escalates(votes: list[Vote], threshold: float, passes: bool, reason: str | None) -> None:
    assert reason_to_escalate(votes, threshold, passes=passes) == reason


@given(VOTES, st.data())
def test_agreement_does_not_depend_on_the_order_and_is_a_share(votes: list[Vote], data: st.DataObject) -> None:
    assert agreement(data.draw(st.permutations(votes))) == agreement(votes)
    assert 0 <= agreement(votes) <= 1
    assert agreement([*votes, None]) <= agreement(votes)


@given(ROWS)
def test_a_higher_threshold_escalates_more_and_costs_more(drawn: list[tuple[list[Vote], bool, bool]]) -> None:
    rows = built(drawn)
    outcomes = [replayed(rows, threshold) for threshold in thresholds(rows)]
    for lower, higher in pairwise(outcomes):
        assert lower.reasons.keys() <= higher.reasons.keys()
        assert lower.cost <= higher.cost
        assert lower.escalated <= higher.escalated


@given(ROWS, st.floats(0, 1))
def test_every_threshold_up_to_one_does_what_one_of_the_listed_ones_does(
    drawn: list[tuple[list[Vote], bool, bool]], threshold: float
) -> None:
    rows = built(drawn)
    found = [replayed(rows, listed).reasons.keys() for listed in thresholds(rows)]
    highest = max(agreement(row.votes) for row in rows)
    assert threshold > highest or replayed(rows, threshold).reasons.keys() in found


@given(ROWS)
def test_a_replay_scores_and_pays_what_the_models_did(drawn: list[tuple[list[Vote], bool, bool]]) -> None:
    rows = built(drawn)
    for threshold in thresholds(rows):
        outcome = replayed(rows, threshold)
        for each in rows:
            assert outcome.scores[each.id] == (each.big_score if each.id in outcome.reasons else each.small_score)
        assert outcome.cost == pytest.approx(0.1 + outcome.escalated)
        assert outcome.saved == pytest.approx(1 - outcome.cost)


@pytest.mark.parametrize("seed", range(8))
def test_a_cascade_that_halves_the_cost_at_the_same_score_is_chosen_and_proven(seed: int) -> None:
    chosen = choose(rows_of(HELPS, 300, seed), tolerance=0.01)
    assert chosen is not None
    proof = prove(rows_of(HELPS, 1200, seed + 1000), chosen.threshold)
    assert proof.is_recommended
    assert proof.outcome.saved >= 0.5
    assert abs(proof.difference.mean) < 0.03


@pytest.mark.parametrize("world", [TRAPPED, SPREAD], ids=["trapped", "spread"])
@pytest.mark.parametrize("seed", range(8))
def test_a_cascade_that_hurts_is_not_chosen(world: World, seed: int) -> None:
    assert choose(rows_of(world, 300, seed), tolerance=0.01) is None


@pytest.mark.parametrize("threshold", [0.0, 0.6, 1.0])
def test_a_cascade_that_hurts_is_not_proven_even_if_it_was_chosen_by_luck(threshold: float) -> None:
    proof = prove(rows_of(TRAPPED, 400, 7), threshold)
    assert proof.outcome.saved > 0
    assert proof.difference.interval.high < 0
    assert proof.verdict == "inferior"
    assert not proof.is_recommended


def test_a_cascade_that_costs_more_is_not_recommended_although_it_scores_the_same() -> None:
    proof = prove(rows_of(SPREAD, 400, 3), 1.0)
    assert proof.outcome.saved < 0
    assert proof.verdict == "non-inferior"
    assert not proof.is_recommended


def test_a_check_catches_what_agreement_cannot() -> None:
    rows = rows_of(TRAPPED, 300, 5)
    checked = [replace(each, passes=each.small_score == 1) for each in rows]
    chosen = choose(checked, tolerance=0.01)
    assert chosen is not None
    assert chosen.saved > 0.3
    assert set(chosen.reasons.values()) == {"check failed"}


def test_a_group_of_rows_counts_once() -> None:
    # Three rows repeat each other: the small model is wrong on all of them, the big one right.
    repeated = [row(f"r{i}", ["wrong"] * 3, 1.0) for i in range(3)]
    others = [row(f"o{i}", ["right"] * 3, 1.0) for i in range(7)]
    groups = {f"r{i}": "r0" for i in range(3)}
    rows = [*repeated, *others]
    assert choose(rows, tolerance=0.2) is None
    chosen = choose(rows, tolerance=0.2, groups=groups)
    assert chosen is not None
    proof = prove(rows, chosen.threshold, groups=groups)
    assert (proof.difference.n, proof.difference.mean) == (8, -1 / 8)
