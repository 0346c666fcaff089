"""The mean token lengths of a model's responses in the journal, whatever they were for. Makes no model call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from agentopt.models.journal import Journal
from agentopt.models.journal_rows import SOME
from agentopt.models.journal_tables import details, responses


@dataclass(frozen=True, slots=True)
class ResponseLengths:
    """Means over the responses of a model.

    Attributes:
        responses: Number of responses; 0 if there are none.
        completion: Tokens of one response, thoughts included.
        thoughts: Those of them that were thoughts.
    """

    responses: int
    completion: float
    thoughts: float


_THOUGHTS = sa.func.coalesce(details.c.reasoning_tokens, 0)
_MEANS = sa.select(
    sa.func.count(), sa.func.avg(responses.c.completion_tokens * 1.0), sa.func.avg(_THOUGHTS * 1.0)
).select_from(
    SOME.join(responses, responses.c.key == SOME.c.key).outerjoin(
        details, sa.and_(details.c.key == responses.c.key, details.c.repeat == responses.c.repeat)
    )
)


def response_lengths(journal: Journal, identity: str) -> ResponseLengths:
    """Return the mean lengths of the responses to at most `journal_rows.SAMPLE` requests to a model.

    Args:
        journal: The responses.
        identity: `ModelSpec.identity`.
    """
    row: Any = journal.rows(_MEANS.params(identity=identity))[0]
    count, completion, thoughts = row
    return ResponseLengths(count, float(completion or 0.0), float(thoughts or 0.0))
