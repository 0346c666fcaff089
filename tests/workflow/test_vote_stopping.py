"""Adaptive sampling stops a vote early: `decided` keeps the winner, a level trades samples for certainty."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from agentopt.deploy.export.source import Extraction
from agentopt.workflow import vote_stopping
from agentopt.workflow.fusion import vote
from agentopt.workflow.vote_stopping import Stop, StopOption, Vote, leader_probability, samples_to_draw, steps

LEVELS = (0.6, 0.75, 0.8, 0.9, 0.95, 0.99)
STOPS: tuple[Stop, ...] = ("decided", *LEVELS)
VOTES = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=12)


def winner(votes: Sequence[Vote]) -> Vote:
    parsed = [key for key in votes if key is not None]
    return None if not parsed else str(vote(parsed))


def one_by_one(votes: Sequence[Vote], stop: Stop) -> int:
    """Samples used if one is drawn at a time."""
    return next(drawn for drawn in range(len(votes) + 1) if not samples_to_draw(votes[:drawn], len(votes), stop))


@given(VOTES)
def test_decided_never_changes_the_winner(votes: list[Vote]) -> None:
    used = sum(steps(votes, "decided"))
    assert winner(votes[:used]) == winner(votes)


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 6])
def test_decided_stops_exactly_when_no_completion_changes_the_winner(total: int) -> None:
    for drawn in range(total + 1):
        for votes in product(("a", "b", None), repeat=drawn):
            rest = product(("a", "b", "new", None), repeat=total - drawn)
            winners = {winner([*votes, *more]) for more in rest}
            assert (samples_to_draw(votes, total, "decided") == 0) == (len(winners) == 1 or drawn == total)


@given(VOTES, st.sampled_from(STOPS))
def test_steps_take_the_samples_that_drawing_one_by_one_takes(votes: list[Vote], stop: Stop) -> None:
    assert sum(steps(votes, stop)) == one_by_one(votes, stop)


@given(VOTES, st.sampled_from(STOPS))
def test_a_step_can_end_the_vote_or_takes_all_that_is_left(votes: list[Vote], stop: Stop) -> None:
    total, drawn = len(votes) + 4, list(votes)
    step = samples_to_draw(drawn, total, stop)
    best = winner(drawn) or "a"
    assert 0 <= step <= 4
    assert samples_to_draw([*drawn, *[best] * step], total, stop) == 0


@given(VOTES)
def test_a_higher_level_never_uses_fewer_samples_and_decided_uses_most(votes: list[Vote]) -> None:
    used = [sum(steps(votes, stop)) for stop in (*LEVELS, "decided")]
    assert used == sorted(used)
    assert used[-1] <= len(votes)


@given(VOTES, st.integers(0, 5), st.sampled_from(STOPS))
def test_more_samples_allowed_never_stop_a_vote_earlier(votes: list[Vote], more: int, stop: Stop) -> None:
    if samples_to_draw(votes, len(votes) + more, stop) > 0:
        assert samples_to_draw(votes, len(votes) + more + 1, stop) > 0


@given(VOTES, st.sampled_from(STOPS), st.data())
def test_the_names_of_the_values_do_not_matter_nor_does_the_order_of_unequal_counts(
    votes: list[Vote], stop: Stop, data: st.DataObject
) -> None:
    renamed = [None if key is None else f"value {key}" for key in votes]
    assert samples_to_draw(renamed, 12, stop) == samples_to_draw(votes, 12, stop)
    # The order matters only for the tie between leader and runner-up, that is, by one vote.
    shuffled = data.draw(st.permutations(votes))
    assert abs(samples_to_draw(shuffled, 12, stop) - samples_to_draw(votes, 12, stop)) <= 1


@given(st.lists(st.sampled_from(["a", None]), max_size=8), st.sampled_from(STOPS), st.data())
def test_any_order_of_one_value_and_unparsable_samples_is_the_same(
    votes: list[Vote], stop: Stop, data: st.DataObject
) -> None:
    assert samples_to_draw(data.draw(st.permutations(votes)), 8, stop) == samples_to_draw(votes, 8, stop)


@pytest.mark.parametrize(
    ("votes", "total", "stop", "step"),
    [
        ("", 1, "decided", 1),
        ("", 5, "decided", 3),
        ("", 8, "decided", 4),
        ("aaaa", 8, "decided", 0),
        ("aaab", 8, "decided", 1),
        ("baaa", 8, "decided", 2),
        ("????", 8, "decided", 2),
        ("", 40, 0.95, 4),
        ("aaaa", 40, 0.95, 0),
        ("aaab", 40, 0.95, 3),
        ("aaabaaa", 40, 0.95, 0),
        ("abcd", 40, 0.8, 2),
        ("", 5, 0.95, 3),
        ("", 40, 0.51, 1),
    ],
)
def test_the_size_of_the_next_step(votes: str, total: int, stop: Stop, step: int) -> None:
    assert samples_to_draw([None if vote == "?" else vote for vote in votes], total, stop) == step


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_posterior_is_the_incomplete_beta_function(leader: int, runner_up: int) -> None:
    from scipy.special import betainc

    assert leader_probability(leader, runner_up) == pytest.approx(
        1 - betainc(leader + 1, runner_up + 1, 0.5), abs=1e-12
    )
    assert leader_probability(leader, runner_up) + leader_probability(runner_up, leader) == pytest.approx(1)
    assert (
        leader_probability(leader + 1, runner_up) > leader_probability(leader, runner_up)
        or leader_probability(leader, runner_up) == 1
    )


@pytest.mark.parametrize("level", [0.5, 1.0, 0.0, -1.0, "sometimes"])
def test_a_level_is_above_one_half_and_below_one(level: object) -> None:
    assert TypeAdapter[Stop](StopOption).validate_python(0.95) == 0.95
    assert TypeAdapter[Stop](StopOption).validate_python("decided") == "decided"
    with pytest.raises(ValidationError):
        TypeAdapter[Stop](StopOption).validate_python(level)


def test_the_rule_can_be_copied_into_an_exported_module() -> None:
    extraction = Extraction()
    extraction.add(Path(vote_stopping.__file__), ["samples_to_draw"])
    source = f"from __future__ import annotations\n{extraction.imports()}\n{extraction.definitions}"
    module: dict[str, Any] = {}
    exec(compile(source, "exported.py", "exec"), module)
    assert extraction.libraries == []
    for votes in product(("a", "b", None), repeat=4):
        for stop in STOPS:
            assert module["samples_to_draw"](votes, 9, stop) == samples_to_draw(votes, 9, stop)
