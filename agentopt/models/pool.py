"""One `ChatModel` for all models of a run: each is reached the way its catalogue entry says, on first use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from agentopt.models.base import ChatModel, Request, Response
from agentopt.models.catalog import ModelSpec, key_of

Connect = Callable[[ModelSpec], ChatModel]


def connect(spec: ModelSpec) -> ChatModel:
    """The transport for one entry: the embedded engine for weights, a hosted endpoint otherwise."""
    if spec.weights:
        from agentopt.models.local import LocalModel

        return LocalModel(spec)
    from agentopt.models.hosted import HostedModel

    return HostedModel(spec)


class ModelPool:
    """Single attempts at any model in `specs`. Nothing is imported, started or connected before it is needed.

    Raises `CatalogError` at once when the variable of any model's key is not set: not when money is spent already.
    """

    def __init__(self, specs: Mapping[str, ModelSpec], connect: Connect = connect) -> None:
        for spec in specs.values():
            key_of(spec)
        self._specs, self._connect = specs, connect
        self._models: dict[str, ChatModel] = {}

    async def generate(self, request: Request) -> Response:
        if request.model not in self._models:
            self._models[request.model] = self._connect(self._specs[request.model])
        return await self._models[request.model].generate(request)

    async def aclose(self) -> None:
        await asyncio.gather(*(model.aclose() for model in self._models.values()))
