"""Responses as rows of the journal: what is written for a choice, and what is read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import sqlalchemy as sa

from agentopt.core.unicode_text import database_text
from agentopt.models.base import Choice, Message, Request, Response, ToolCall
from agentopt.models.journal_tables import details, rejections, requests, responses
from agentopt.models.thoughts import split_thought

FIND = (
    sa.select(
        responses,
        details.c.thought,
        details.c.tool_calls,
        details.c.cached_tokens,
        details.c.reasoning_tokens,
        rejections.c.session.label("rejected_by"),
        rejections.c.retried,
    )
    .select_from(
        responses.outerjoin(
            details, sa.and_(details.c.key == responses.c.key, details.c.repeat == responses.c.repeat)
        ).outerjoin(rejections, sa.and_(rejections.c.key == responses.c.key, rejections.c.repeat == responses.c.repeat))
    )
    .where(
        responses.c.key == sa.bindparam("key"),
        responses.c.repeat.between(sa.bindparam("first"), sa.bindparam("last")),
    )
)
"""The stored responses of a key, with what is known about each. Parameters: key, first, last."""

RESPONSES_OF = (
    sa.select(
        *(responses.c.key, responses.c.repeat, responses.c.created),
        *(rejections.c.session.label("rejected_by"), rejections.c.retried),
    )
    .select_from(
        responses.outerjoin(
            rejections, sa.and_(rejections.c.key == responses.c.key, rejections.c.repeat == responses.c.repeat)
        )
    )
    .where(responses.c.key.in_(sa.bindparam("keys", expanding=True)))
)
"""What is known about the stored responses of `keys`, without their texts."""

SHOWN = tuple(f.name for f in fields(Request) if f.name not in ("first_repeat", "n", "purpose"))
"""The fields of a request that the journal shows."""
SAMPLE = 1000
"""Requests whose mean duration is that of a model."""
SOME = (
    sa.select(requests.c.key)
    .where(requests.c.identity == sa.bindparam("identity"))
    .order_by(requests.c.key)
    .limit(SAMPLE)
    .subquery()
)
"""The keys of at most `SAMPLE` requests to a model. Parameter: identity."""
_TIMED = sa.func.nullif(responses.c.seconds, 0.0)
PACE = sa.select(sa.func.avg(_TIMED), sa.func.count(_TIMED), sa.func.count() - sa.func.count(_TIMED)).select_from(
    SOME.join(responses, responses.c.key == SOME.c.key)
)
"""The fields of a model's `Pace`. Parameter: identity."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long the calls of a model took.

    Attributes:
        seconds: Their mean duration; None without a timed call.
        timed: Number of calls that the mean is of.
        untimed: Number of responses that took no time: of batches, of a scripted model, or recorded elsewhere.
    """

    seconds: float | None
    timed: int
    untimed: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored response.

    Attributes:
        choice: The answer.
        prompt_tokens: Tokens of the prompt.
        cached_tokens: Those of `prompt_tokens` that the provider read from its cache.
        created: When it was stored, in seconds since 1970.
        seconds: Duration of its call.
    """

    choice: Choice
    prompt_tokens: int
    cached_tokens: float
    created: float
    seconds: float


def read_choice(row: sa.Row[Any]) -> Stored:
    """Return the response of a row of `FIND`."""
    if row.thought is None:  # of version 0.1.0, or without thoughts
        thought, text = split_thought(row.text)
        choice = Choice(text, row.completion_tokens, row.finish_reason, thought)
        return Stored(choice, row.prompt_tokens, 0, row.created, row.seconds)
    calls = tuple(ToolCall(**call) for call in json.loads(row.tool_calls))
    reasoning = row.reasoning_tokens
    choice = Choice(row.text, row.completion_tokens, row.finish_reason, row.thought, calls, reasoning)
    return Stored(choice, row.prompt_tokens, row.cached_tokens, row.created, row.seconds)


def storable(response: Response) -> Response:
    """Return a response whose texts every database can store; it is read back as it is returned here."""
    choices = tuple(_storable(choice) for choice in response.choices)
    return response if choices == response.choices else replace(response, choices=choices)


def _storable(choice: Choice) -> Choice:
    text, thought = database_text(choice.text), database_text(choice.thought)
    reason = database_text(choice.finish_reason)[:32]
    if (text, thought, reason) == (choice.text, choice.thought, choice.finish_reason):
        return choice
    return replace(choice, text=text, thought=thought, finish_reason=reason)


def choice_values(choice: Choice, response: Response, created: float) -> tuple[dict[str, object], dict[str, object]]:
    """Return what is stored for a choice, without its key.

    Args:
        choice: The choice, one of a `storable` response.
        response: The response.
        created: When it is stored, in seconds since 1970.

    Returns:
        The values of `responses` and those of `response_details`, which are empty if there are none.
    """
    row: dict[str, object] = {
        "text": choice.text,
        "finish_reason": choice.finish_reason,
        "prompt_tokens": response.prompt_tokens,
        "completion_tokens": choice.completion_tokens,
        "seconds": response.seconds,
        "created": created,
    }
    # A text that mentions a thought's tag must not be split again when it is read.
    has_details = choice.thought or choice.tool_calls or response.cached_tokens or choice.reasoning_tokens
    if not has_details and "think" not in choice.text.lower():
        return row, {}
    return row, {
        "thought": choice.thought,
        "tool_calls": json.dumps([asdict(call) for call in choice.tool_calls]),
        "cached_tokens": response.cached_tokens,
        "reasoning_tokens": choice.reasoning_tokens,
    }


def response_of(found: Mapping[int, Stored], opened: float) -> Response:
    """Return stored choices, in the order of their repeat indices, as one response.

    Args:
        found: Repeat index -> response; at least one.
        opened: When the session began, in seconds since 1970.
    """
    ordered = [found[repeat] for repeat in sorted(found)]
    newest = max(stored.created for stored in ordered)
    # Several requests may have drawn the choices, concurrently: the slowest is the latency.
    seconds = [stored.seconds for stored in ordered]
    # The choices of one request are stored at one time; each request was billed for what was cached of its own prompt.
    cached = {(stored.created, stored.seconds): stored.cached_tokens for stored in ordered}
    return Response(
        tuple(stored.choice for stored in ordered),
        ordered[0].prompt_tokens,
        max(seconds) if all(seconds) else 0.0,
        cached_tokens=sum(cached.values()) / len(cached),
        stored=newest if newest < opened else None,
    )


def as_json(request: Request) -> str:
    """The request as JSON, for people and tools that inspect the journal."""
    shown: dict[str, object] = {name: getattr(request, name) for name in SHOWN}
    shown["messages"] = [_message(message) for message in request.messages]
    return json.dumps({**shown, "left_out": sorted(request.left_out)})


def _message(message: Message) -> dict[str, object]:
    if message.tool_calls:
        return asdict(message)
    # Most have none, and `asdict` takes ten times as long.
    return {
        "role": message.role,
        "content": message.content,
        "parts": message.parts,
        "tool_calls": (),
        "tool_call_id": message.tool_call_id,
    }
