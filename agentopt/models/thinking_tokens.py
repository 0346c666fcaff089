"""Gives a model that thinks before it answers enough tokens for both."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agentopt.models.base import ChatModel, Choice, Request, Response, reject

THOUGHT_TOKENS = 8000
"""Further tokens of each call for a model that was found to think: `max_tokens` bounds the answer only."""


@dataclass(eq=False)
class ThinkingTokens:
    """A client that repeats a call with more tokens if the model was cut off before its answer began.

    Later calls have more tokens from the start, so that a model is called in vain once only.

    Attributes:
        model: The client that the calls go through.
        thinks: Whether the model was found to think.
    """

    model: ChatModel
    thinks: bool = False

    async def generate(self, request: Request) -> Response:
        """Return the response of the model; see `ChatModel.generate`."""
        response = await self.model.generate(self._with_room(request))
        if self.thinks or not any(map(_is_cut_off_before_its_answer, response.choices)):
            return response
        self.thinks = True
        return await self.model.generate(self._with_room(request))

    async def reject(self, request: Request) -> None:
        """Mark the response to `request` as unusable."""
        await reject(self.model, self._with_room(request))

    async def aclose(self) -> None:
        """Leave the client open: it is the caller's."""

    def _with_room(self, request: Request) -> Request:
        return replace(request, max_tokens=request.max_tokens + THOUGHT_TOKENS) if self.thinks else request


def _is_cut_off_before_its_answer(choice: Choice) -> bool:
    """Whether there is no answer because of `max_tokens`. A provider may hide the thought itself."""
    return choice.is_cut_off and not choice.text.strip() and not choice.tool_calls
