"""A user's own `ChatModel`: what it raises or returns against the contract becomes one of our errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from agentopt.core.errors import AgentoptError, ModelError, PermanentModelError
from agentopt.core.yaml_models import shown
from agentopt.models.base import ChatModel, Preparable, Request, Response
from agentopt.models.redaction import redact, secrets_in

REMEDY = "raise TransientModelError or PermanentModelError of agentopt.errors for a failed call, and return a Response"


class CustomProvider:
    """A `ChatModel` over one that a user wrote.

    An exception of httpx, aiohttp, openai or litellm is classified as that of a hosted model is. Any other one ends the
    calls to the model: it is a defect of the provider, which further calls would meet too. Responses that other calls
    get meanwhile are kept. An `AssertionError` passes unchanged, because it is one of a test.

    Args:
        provider: The user's object.
    """

    def __init__(self, provider: ChatModel) -> None:
        self._provider = provider

    async def generate(self, request: Request) -> Response:
        """Make one call.

        Raises:
            ModelError: The call failed, or the provider raised something else or returned no response.
        """
        with self._reported(request.model):
            response = await self._provider.generate(request)
        if not isinstance(response, Response) or not 1 <= len(response.choices) <= request.n:
            wanted = f"a Response of 1 to {request.n} choices" if request.n > 1 else "a Response of 1 choice"
            raise self._defect(request.model, "wrong response", f"must return {wanted}, but got {shown(response)}")
        return response

    async def prepare(self, model: str) -> None:
        """Prepare the model, if the provider can."""
        if isinstance(self._provider, Preparable):
            with self._reported(model):
                await self._provider.prepare(model)

    async def aclose(self) -> None:
        """Close the provider."""
        await self._provider.aclose()

    @contextmanager
    def _reported(self, model: str) -> Iterator[None]:
        try:
            yield
        except (AgentoptError, AssertionError):
            raise
        except Exception as error:  # a user's object may raise anything
            from agentopt.models.api_errors import model_error  # it loads the libraries of HTTP clients

            if failure := model_error(error, who=self._who(model), secrets=secrets_in(os.environ)):
                raise failure from None  # the library's words may repeat a key
            raise self._defect(model, type(error).__name__, f"raised {shown(error)}") from error

    def _who(self, model: str) -> str:
        return f"{model} by the provider {type(self._provider).__name__}"

    def _defect(self, model: str, kind: str, problem: str) -> ModelError:
        text = redact(f"{self._who(model)}: {problem}; {REMEDY}", secrets_in(os.environ))
        # Whether the call was paid for is unknown, so it is charged at its worst case.
        return PermanentModelError(text, kind=kind, scope="model", billed=True)
