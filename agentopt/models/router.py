"""One `ChatModel` for all models of a run: each is reached the way its catalogue entry says, on first use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from agentopt.models.base import ChatModel, Preparing, Request, Response
from agentopt.models.catalog import ModelSpec, key_of
from agentopt.models.weights import Progress

Connect = Callable[[ModelSpec], ChatModel]


def connect(spec: ModelSpec, progress: Callable[[Progress], None] = lambda _: None) -> ChatModel:
    """The transport for one entry: the embedded engine for weights, a hosted endpoint otherwise.

    `progress` is told how far the fetching of weights is, from another thread.
    """
    if spec.weights:
        from agentopt.models.local import LocalModel

        return LocalModel(spec, progress=progress)
    from agentopt.models.hosted import HostedModel

    return HostedModel(spec)


class ModelRouter:
    """Single attempts at any model in `specs`. Nothing is imported, started or connected before it is needed.

    Raises `CatalogError` at once when the variable of any model's key is not set: not when money is spent already.
    """

    def __init__(self, specs: Mapping[str, ModelSpec], connect: Connect = connect) -> None:
        for spec in specs.values():
            key_of(spec)
        self._specs, self._connect = specs, connect
        self._models: dict[str, ChatModel] = {}

    async def generate(self, request: Request) -> Response:
        return await self._reached(request.model).generate(request)

    async def prepare(self, model: str) -> None:
        reached = self._reached(model)
        if isinstance(reached, Preparing):
            await reached.prepare(model)

    def _reached(self, model: str) -> ChatModel:
        if model not in self._models:
            self._models[model] = self._connect(self._specs[model])
        return self._models[model]

    async def aclose(self) -> None:
        await asyncio.gather(*(model.aclose() for model in self._models.values()))
