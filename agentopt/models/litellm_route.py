"""Calls any other provider through litellm, one attempt per call. The only module that imports litellm."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import cache
from typing import Any, ClassVar
from weakref import WeakSet

import httpx

from agentopt.models.bounded_stream import HOOKS
from agentopt.models.catalog import ModelSpec
from agentopt.models.openai_route import NO_KEY
from agentopt.models.response_body import ReadBody, read_completion

PREPARATION_SECONDS = 0.25
IMPORTED_LATE = (
    "anyio._backends._asyncio",
    "litellm._service_logger",
    "litellm.llms.anthropic.completion.transformation",
    "litellm.llms.edenai.chat.transformation",
    "litellm.llms.fal_ai.cost_calculator",
    "litellm.llms.litellm_proxy.chat.transformation",
    "litellm.llms.openai.chat.gpt_audio_transformation",
    "litellm.llms.openai_like.dynamic_config",
    "litellm.llms.vertex_ai.vertex_ai_partner_models.anthropic.transformation",
    "litellm.proxy._experimental.mcp_server.stdio_gate",
    "litellm.proxy.openai_files_endpoints.common_utils",
    "litellm.types.integrations.compression_interception",
    "litellm.types.litellm_core_utils.streaming_chunk_builder_utils",
    "openai.resources.chat",
    "openai.resources.completions",
    "tokenizers",
)
"""What litellm imports during a first call; tests/models/test_first_call.py fails if one is missing."""
_LOADING = threading.Lock()


class LitellmRoute:
    """A provider that litellm knows. The HTTP clients of litellm are shared by all routes of an event loop.

    No redirect is followed, and no body is read beyond `LARGEST_BODY`.

    Args:
        spec: A catalogue entry with `litellm`.
        api_key: The key. Unless given, litellm reads the provider's own variable, but not for an entry with `base_url`:
            a key is sent to an address of the entry only if the entry names it.
        transport: Sends the requests; the network unless given. For providers that litellm calls with its own client.
    """

    _open: ClassVar[WeakSet[LitellmRoute]] = WeakSet()

    def __init__(
        self, spec: ModelSpec, api_key: str | None, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._litellm = load_litellm()
        self._is_chat = spec.chat_template
        api_key = api_key or (NO_KEY if spec.base_url else None)
        self._options: dict[str, Any] = {
            "timeout": spec.timeout_seconds,
            "num_retries": 0,
            "max_retries": 0,
            # Parameters that a provider does not have are left out: without `n`, fewer choices are returned.
            "drop_params": True,
            **({"api_base": spec.base_url} if spec.base_url else {}),
            **({"api_key": api_key} if api_key else {}),
            **({"api_version": spec.query["api-version"]} if "api-version" in spec.query else {}),
            **({"extra_headers": dict(spec.extra_headers)} if spec.extra_headers else {}),
        }
        self._replaced: httpx.AsyncClient | None = None
        if transport:
            handler = self._litellm.AsyncHTTPHandler()
            self._replaced, handler.client = handler.client, httpx.AsyncClient(transport=transport, trust_env=False)
            self._options["client"] = handler
        self._open.add(self)

    async def complete(
        self, body: dict[str, Any], *, most: int, on_text: Callable[[str], None] | None = None
    ) -> ReadBody:
        """Send one request.

        Args:
            body: The request in the OpenAI format.
            most: Most choices to read.
            on_text: Receives the parts of the first choice's text as they arrive, if the response is a stream.

        Raises:
            Exception: Of litellm or of an HTTP client, if the request failed.
            MalformedResponseError: The answer is not a completion.
        """
        call = self._litellm.acompletion if self._is_chat else self._litellm.atext_completion
        answer = await _cancelled_late(call(**body, **self._options))
        if body.get("stream"):
            chunks = []
            async for chunk in answer:
                chunks.append(chunk)
                if on_text and chunk.choices and (text := getattr(chunk.choices[0].delta, "content", None)):
                    on_text(text)
            answer = self._litellm.stream_chunk_builder(chunks)
        return read_completion(answer.model_dump(warnings=False) if answer is not None else None, most=most)

    async def aclose(self) -> None:
        """Close the connections of litellm after the last route."""
        if self._replaced:
            await self._replaced.aclose()
        self._open.discard(self)
        if not self._open:
            await self._litellm.close_litellm_async_clients()
            # litellm would reuse the closed clients.
            self._litellm.in_memory_llm_clients_cache.flush_cache()


async def _cancelled_late(call: Coroutine[Any, Any, Any]) -> Any:
    """Await a call of litellm, delaying a cancellation until the call is prepared.

    litellm prepares a call in a thread, which takes some milliseconds; cancelled meanwhile, it leaks a coroutine.
    """
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            await asyncio.wait({task}, timeout=PREPARATION_SECONDS)
        finally:
            task.cancel()
        await asyncio.wait({task})
        raise


def load_litellm() -> Any:
    """Import litellm so that it fetches nothing, reads no `.env` file, prints nothing and bounds what it reads."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    litellm.in_memory_llm_clients_cache = _bounded_clients()
    return litellm


def prepare_litellm(model: str) -> None:
    """Import litellm and what it imports during the first call of a provider, which takes seconds. Blocks.

    No call is made: one with `mock_response` downloads tokenizers, and calls the user's callbacks.

    Args:
        model: The model string of litellm.
    """
    with _LOADING:
        litellm = load_litellm()
        for module in IMPORTED_LATE:
            with suppress(ImportError):  # of another version
                importlib.import_module(module)
        _ = litellm.encoding
        with suppress(Exception):  # what is wrong with the entry, its first call reports
            name, provider, *_ = litellm.get_llm_provider(model)
            litellm.utils.ProviderConfigManager.get_provider_chat_config(name, litellm.LlmProviders(provider))


@cache
def _bounded_clients() -> Any:
    """The cache that litellm takes its HTTP clients from; each follows no redirect and reads bounded bodies."""
    from litellm.caching.llm_caching_handler import LLMClientCache

    class BoundedClients(LLMClientCache):
        def set_cache(self, key: str, value: object, litellm_owned_client: bool = False, **options: Any) -> Any:
            # litellm's handler has `client`, and a client of `openai` has `_client`.
            client = getattr(value, "client", getattr(value, "_client", None))
            if isinstance(client, httpx.AsyncClient):
                client.event_hooks, client.follow_redirects = HOOKS, False
            return super().set_cache(key, value, litellm_owned_client, **options)

    return BoundedClients()
