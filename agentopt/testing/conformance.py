"""Conformance suite of `ChatModel`: checks that the tests of an implementation call."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from agentopt.models.base import ChatModel, Choice, Request, Response


async def check_chat_model(model: ChatModel, request: Request) -> None:
    """Check that `model` behaves as `ChatModel` requires, then close it.

    Makes about ten calls: one and several choices, five concurrent calls, a cancelled call, and closing twice.

    Args:
        model: The model to check. A scripted model needs a response for each call.
        request: The request whose variants are sent.

    Raises:
        AssertionError: A requirement does not hold.
    """
    assert isinstance(model, ChatModel)
    for n in (1, 3):
        _check_response(await model.generate(replace(request, n=n)), n)
    await _check_several_at_once(model, request)
    await _check_cancellation(model, request)
    _check_response(await model.generate(request), request.n)
    await model.aclose()
    await model.aclose()


def _check_response(response: Response, most: int) -> None:
    assert isinstance(response.choices, tuple)
    assert 1 <= len(response.choices) <= most, f"requested {most} choices, got {len(response.choices)}"
    assert response.prompt_tokens > 0, "a prompt has tokens"
    assert response.seconds >= 0
    for choice in response.choices:
        _check_choice(choice)


def _check_choice(choice: Choice) -> None:
    assert isinstance(choice.text, str)
    assert isinstance(choice.completion_tokens, int)
    assert choice.completion_tokens > 0 or not choice.text, f"no tokens counted for {choice.text!r}"
    assert choice.finish_reason


async def _check_several_at_once(model: ChatModel, request: Request) -> None:
    calls = [model.generate(request.for_repeats(repeat, 1)) for repeat in range(5)]
    for response in await asyncio.gather(*calls):
        _check_response(response, 1)


async def _check_cancellation(model: ChatModel, request: Request) -> None:
    call = asyncio.ensure_future(model.generate(request))
    await asyncio.sleep(0)
    call.cancel()
    (outcome,) = await asyncio.gather(call, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError | Response), f"cancelling a call gave {outcome!r}"
