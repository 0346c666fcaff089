"""What one subtask call pays each of its models: a cascade's big model and a fusion's model have their own parts."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentopt.models.base import ChatModel, Request, Response
from agentopt.models.catalog import ModelSpec


@dataclass(frozen=True, slots=True)
class Payment:
    """What one response of a model costs by the catalogue, also if the journal had it.

    Attributes:
        model: Catalogue name.
        requests: Number of requests that drew its choices, each of which pays for the prompt.
        prompt_tokens: Tokens of the prompt, in all requests.
        cached_tokens: Those of `prompt_tokens` that the provider read from its prompt cache.
        completion_tokens: Tokens of all choices, thoughts included.
        reasoning_tokens: Those of `completion_tokens` that were thoughts.
        usd: The price.
    """

    model: str
    requests: int
    prompt_tokens: int
    cached_tokens: float
    completion_tokens: int
    reasoning_tokens: int
    usd: float


@dataclass(frozen=True)
class KeptResponses:
    """A client that keeps the responses of one subtask call with their models.

    Attributes:
        model: The client that makes the calls.
        responses: Catalogue name and response of each call, in the order of their arrival.
    """

    model: ChatModel
    responses: list[tuple[str, Response]] = field(default_factory=list)

    async def generate(self, request: Request) -> Response:
        """Make one call; as `ChatModel.generate`."""
        response = await self.model.generate(request)
        self.responses.append((request.model, response))
        return response

    async def aclose(self) -> None:
        """Do nothing: the client outlives the call."""


def payment(spec: ModelSpec, response: Response) -> Payment:
    """Return what a response costs.

    Args:
        spec: The catalogue entry of its model.
        response: The response.
    """
    requests = response.requests
    prompt, cached = response.prompt_tokens * requests, response.cached_tokens * requests
    completion, reasoning = response.completion_tokens, response.reasoning_tokens
    usd = spec.prices.usd(prompt, completion, cached_tokens=cached, reasoning_tokens=reasoning, requests=requests)
    return Payment(spec.name, requests, prompt, cached, completion, reasoning, usd)
