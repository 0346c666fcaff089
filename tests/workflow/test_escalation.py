"""A cascade keeps the small model's answer if its samples agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.workflow.escalation import Reason, agreement, reason_to_escalate
from agentopt.workflow.vote_stopping import Vote

VOTES = st.lists(st.sampled_from(["right", "wrong", "other", None]), min_size=1, max_size=6)


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
def test_why_an_example_escalates(votes: list[Vote], threshold: float, passes: bool, reason: Reason | None) -> None:
    assert reason_to_escalate(votes, threshold, passes=passes) == reason


@given(VOTES, st.data())
def test_agreement_does_not_depend_on_the_order_and_is_a_share(votes: list[Vote], data: st.DataObject) -> None:
    assert agreement(data.draw(st.permutations(votes))) == agreement(votes)
    assert 0 <= agreement(votes) <= 1
    assert agreement([*votes, None]) <= agreement(votes)


@given(VOTES, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_never_keeps_more(votes: list[Vote], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert reason_to_escalate(votes, low) is None or reason_to_escalate(votes, high) is not None
