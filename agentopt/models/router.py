"""One `ChatModel` for all models of a run; each is connected on first use, as its catalogue entry specifies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping

from agentopt.core.events import FileProgress
from agentopt.models.api_keys import key_of
from agentopt.models.base import ChatModel, Preparable, Request, Response
from agentopt.models.catalog import ModelSpec
from agentopt.models.engine import check_installed

Connect = Callable[[ModelSpec], ChatModel]


def connect(spec: ModelSpec, progress: Callable[[FileProgress], None] = lambda _: None) -> ChatModel:
    """Return the transport for one entry: the embedded engine for `weights`, a hosted endpoint otherwise.

    Args:
        spec: The catalogue entry.
        progress: Called with the progress of a download, from another thread.
    """
    if spec.weights:
        from agentopt.models.local import LocalModel

        return LocalModel(spec, progress=progress)
    from agentopt.models.hosted import HostedModel

    return HostedModel(spec)


class ModelRouter:
    """Sends each request to the transport of its model, one attempt per call.

    The client libraries of all models that are not optional are imported before the first call: an import during a call
    would be measured as latency of its endpoint. An engine is started on the first call of a model that needs it.

    Args:
        specs: Catalogue name -> entry, for every model that will be called.
        connect: Makes the transport of an entry.
        optional: Names of models that the run can do without: their keys are checked on their first call.

    Raises:
        CatalogError: The environment variable of some model's API key is not set, or the engine of a local model is not
            installed. Checked here, before any spending.
    """

    def __init__(
        self, specs: Mapping[str, ModelSpec], connect: Connect = connect, *, optional: Collection[str] = ()
    ) -> None:
        for name, spec in specs.items():
            if name not in optional:
                key_of(spec)
                if spec.weights:
                    check_installed(name)  # before the file is downloaded
        self._specs, self._connect = specs, connect
        self._models: dict[str, ChatModel] = {}
        self._unloaded = [spec for name, spec in specs.items() if name not in optional]
        self._loading = asyncio.Lock()

    async def generate(self, request: Request) -> Response:
        return await self._transport(request.model).generate(request)

    async def load(self) -> None:
        """Import the client libraries of the models that are not optional, in a thread."""
        async with self._loading:
            if self._unloaded:
                await asyncio.to_thread(_load_libraries, self._unloaded)
                self._unloaded = []

    async def prepare(self, model: str) -> None:
        await self.load()
        transport = self._transport(model)
        if isinstance(transport, Preparable):
            await transport.prepare(model)

    def _transport(self, model: str) -> ChatModel:
        if model not in self._models:
            self._models[model] = self._connect(self._specs[model])
        return self._models[model]

    async def aclose(self) -> None:
        await asyncio.gather(*(model.aclose() for model in self._models.values()))


def _load_libraries(specs: Iterable[ModelSpec]) -> None:
    from agentopt.models.hosted import load_library

    for spec in specs:
        load_library(spec)
