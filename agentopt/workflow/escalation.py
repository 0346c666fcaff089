"""When an example of a cascade escalates from the small model to the big one. Pure, and copied to exported modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from agentopt.workflow.vote_stopping import Vote

Reason = Literal["nothing parsed", "check failed", "disagreement"]
"""Why the big model answers. `nothing parsed`: no sample of the small model could be parsed. `check failed`: the check
rejected the small model's answer. `disagreement`: the agreement of its samples is below the threshold."""


def agreement(votes: Sequence[Vote]) -> float:
    """The share of the drawn samples that vote for the winner; an unparsable sample does not agree. 0 without samples.

    If the vote was stopped early, the share is of the samples that were drawn.
    """
    tally = Counter(vote for vote in votes if vote is not None)
    return max(tally.values(), default=0) / len(votes) if votes else 0.0


def reason_to_escalate(votes: Sequence[Vote], threshold: float, *, passes: bool = True) -> Reason | None:
    """Why an example escalates to the big model; None to keep the small model's answer.

    Args:
        votes: The votes of the small model's samples.
        threshold: The smallest agreement that is kept, from 0 (any answer) to 1 (equal samples only).
        passes: Whether the small model's answer passes the check, if there is one.
    """
    if all(vote is None for vote in votes):
        return "nothing parsed"
    if not passes:
        return "check failed"
    return "disagreement" if agreement(votes) < threshold else None
