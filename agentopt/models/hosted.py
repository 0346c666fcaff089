"""Owns the calls to hosted models: one attempt per `generate`, through the `openai` client or `litellm`.

A catalogue entry with `base_url` alone is an OpenAI-compatible endpoint and goes through `openai` on its aiohttp
transport; an entry with `litellm` goes through litellm. Both are imported on the first call. Retries, the journal
and the budget are the caller's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, ClassVar, Protocol
from weakref import WeakSet

from agentopt.core.errors import CatalogError, MalformedResponseError
from agentopt.models.api_errors import model_error
from agentopt.models.base import Choice, Request, Response
from agentopt.models.catalog import ModelSpec, key_of
from agentopt.models.redaction import secrets_in

CONNECT_SECONDS = 10.0
PREPARATION_SECONDS = 0.25
LOOPBACK = ("127.0.0.1", "localhost", "::1")
NO_KEY = "no-key"
"""Sent where the endpoint asks for none: the openai client refuses to start without one."""

CountTokens = Callable[[str], Awaitable[int]]


class Route(Protocol):
    """One way to an endpoint: takes and gives the OpenAI protocol's JSON."""

    async def complete(self, payload: dict[str, Any]) -> dict[str, Any]: ...

    async def aclose(self) -> None: ...


class HostedModel:
    """A `ChatModel` behind an API. One attempt per `generate`; no retries, no limits.

    Asks for at most `spec.max_choices` choices at once, and sends `request.sampling_seed`, so that questions and
    their repeats differ also where the endpoint honours seeds. Completion tokens are split over the choices in
    proportion to their lengths; tokens that the endpoint does not report are estimated as a quarter of the bytes,
    rounded up. `count_tokens`, where given, counts each choice of a call with several: llama.cpp's own server
    reports the tokens of one choice only.

    `api_key` defaults to the variable `spec.api_key_env` in `environ` (default: the process's). Raises
    `CatalogError` where that is not set. An instance belongs to one event loop until `aclose`, after which the
    next call connects anew.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        api_key: str | None = None,
        environ: Mapping[str, str] | None = None,
        count_tokens: CountTokens | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not (spec.litellm or spec.base_url):
            raise CatalogError(
                f"a hosted model needs litellm or base_url, but {spec.name!r} has neither",
                remedy="give the entry one of them; an entry with weights is a local model",
            )
        environ = os.environ if environ is None else environ
        self.spec = spec
        self._api_key = api_key or key_of(spec, environ)
        self._secrets = secrets_in(environ, self._api_key)
        self._count_tokens, self._clock = count_tokens, clock
        self._route: Route | None = None

    async def generate(self, request: Request) -> Response:
        """One attempt. Raises `TransientModelError`, `PermanentModelError`."""
        started, outside = self._clock(), sys.exception()
        route = self._connected()
        try:
            async with asyncio.timeout(self.spec.timeout_seconds):
                answer = await route.complete(payload(self.spec, request))
            choices = await self._with_tokens(read_choices(answer, most=request.n), _usage(answer, "completion_tokens"))
        # litellm lets exceptions of any provider's library through; what is no failed call is raised as it is.
        except Exception as error:
            failure = model_error(error, who=self._who(), secrets=self._secrets, outside=outside)
            if failure is None:
                raise
            # Not `from error`: a traceback would show the provider's own words, which may repeat the key.
            raise failure from None
        prompt_tokens = _usage(answer, "prompt_tokens")
        if prompt_tokens is None:
            prompt_tokens = sum(estimated_tokens(m.content) for m in request.messages)
        return Response(choices, prompt_tokens, self._clock() - started)

    async def aclose(self) -> None:
        route, self._route = self._route, None
        if route:
            await route.aclose()

    def _connected(self) -> Route:
        if self._route is None:
            route = LitellmRoute if self.spec.litellm else OpenAIRoute
            self._route = route(self.spec, self._api_key)
        return self._route

    def _who(self) -> str:
        return f"{self.spec.name} at {self.spec.base_url or self.spec.litellm}"

    async def _with_tokens(self, texts: list[tuple[str, str]], total: int | None) -> tuple[Choice, ...]:
        if self._count_tokens and (len(texts) > 1 or total is None):
            counts = [await self._count_tokens(text) for text, _ in texts]
        elif total is None:
            counts = [estimated_tokens(text) for text, _ in texts]
        else:
            counts = split_tokens(total, [len(text) for text, _ in texts])
        return tuple(Choice(text, count, why) for (text, why), count in zip(texts, counts, strict=True))


class OpenAIRoute:
    """An OpenAI-compatible endpoint, through the `openai` client."""

    def __init__(self, spec: ModelSpec, api_key: str | None) -> None:
        import httpx
        import openai

        timeout = httpx.Timeout(spec.timeout_seconds, connect=min(CONNECT_SECONDS, spec.timeout_seconds))
        self._path = "/chat/completions" if spec.chat_template else "/completions"
        self._answer_type = httpx.Response
        self._client = openai.AsyncOpenAI(
            base_url=spec.base_url,
            api_key=api_key or NO_KEY,
            max_retries=0,
            timeout=timeout,
            # 0 is no limit to aiohttp: how many calls are in flight is the limiter's business.
            http_client=openai.DefaultAioHttpClient(
                timeout=timeout,
                limits=httpx.Limits(max_connections=0, keepalive_expiry=30),
                # A proxy from the environment cannot reach this machine's own servers.
                trust_env=httpx.URL(spec.base_url or "").host not in LOOPBACK,
            ),
        )

    async def complete(self, payload: dict[str, Any]) -> dict[str, Any]:
        # `post` for the plain body: building the client's own models costs a third of the requests per second.
        response = await self._client.post(self._path, cast_to=self._answer_type, body=payload)
        answer = json.loads(response.content)
        if not isinstance(answer, dict):
            raise MalformedResponseError(f"expected a JSON object, but got {type(answer).__name__}")
        return answer

    async def aclose(self) -> None:
        await self._client.close()


class LitellmRoute:
    """Any other provider, through litellm. Its HTTP clients are shared by all routes of an event loop."""

    _open: ClassVar[WeakSet[LitellmRoute]] = WeakSet()

    def __init__(self, spec: ModelSpec, api_key: str | None) -> None:
        self._litellm = load_litellm()
        self._is_chat = spec.chat_template
        self._options = {
            "timeout": spec.timeout_seconds,
            "num_retries": 0,
            "max_retries": 0,
            # What a provider does not have is left out: without `n`, fewer choices come back.
            "drop_params": True,
            **({"api_base": spec.base_url} if spec.base_url else {}),
            **({"api_key": api_key} if api_key else {}),
        }
        self._open.add(self)

    async def complete(self, payload: dict[str, Any]) -> dict[str, Any]:
        call = self._litellm.acompletion if self._is_chat else self._litellm.atext_completion
        answer = await _cancelled_late(call(**payload, **self._options))
        body: dict[str, Any] = answer.model_dump(warnings=False)
        for choice in body.get("choices") or []:
            message = choice.get("message") or {}
            # litellm turns an empty text of some providers into null.
            if message.get("content", "") is None:
                message["content"] = ""
        return body

    async def aclose(self) -> None:
        self._open.discard(self)
        if not self._open:
            await self._litellm.close_litellm_async_clients()
            # litellm would hand the closed clients out again.
            self._litellm.in_memory_llm_clients_cache.flush_cache()


async def _cancelled_late(call: Coroutine[Any, Any, Any]) -> Any:
    """Await a call of litellm, which prepares it in a thread: cancelled during that, it leaks a coroutine.

    So a cancellation reaches the call only when the preparation, some milliseconds, is surely over.
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
    """Import litellm so that it fetches nothing, reads no `.env` file, and prints nothing."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return litellm


def payload(spec: ModelSpec, request: Request) -> dict[str, Any]:
    """The request in the OpenAI protocol's words."""
    asked: dict[str, Any] = {
        "model": spec.litellm or spec.model or spec.name,
        "max_tokens": request.max_tokens,
        "seed": request.sampling_seed,
    }
    sampling = {"temperature": request.temperature, "top_p": request.top_p}
    asked |= {name: value for name, value in sampling.items() if value is not None}
    if spec.chat_template:
        asked["messages"] = [{"role": m.role, "content": m.content} for m in request.messages]
    else:
        asked["prompt"] = "\n\n".join(m.content for m in request.messages)
    if (n := min(request.n, spec.max_choices)) > 1:
        asked["n"] = n
    if request.stop:
        asked["stop"] = list(request.stop)
    if request.json_schema and spec.json_schema:
        schema = {"name": "answer", "strict": True, "schema": json.loads(request.json_schema)}
        asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    return asked


def read_choices(answer: Mapping[str, Any], *, most: int) -> list[tuple[str, str]]:
    """(text, finish reason) of each choice, at most `most`. Raises `MalformedResponseError`."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise MalformedResponseError("expected choices, but got none")
    return [_read_choice(choice) for choice in choices[:most]]


def _read_choice(choice: object) -> tuple[str, str]:
    if not isinstance(choice, dict):
        raise MalformedResponseError(f"expected a choice to be an object, but got {type(choice).__name__}")
    message = choice.get("message")
    said = message if isinstance(message, dict) else {"content": choice.get("text")}
    why = str(choice.get("finish_reason") or "stop")
    text = said.get("content") or said.get("refusal") or said.get("content")
    if text is None and why in ("length", "content_filter"):
        text = ""
    if not isinstance(text, str):
        raise MalformedResponseError(f"expected a choice's content to be text, but got {type(text).__name__}")
    # Half an emoji, cut off by max_tokens, is no text that can be counted, shown or kept.
    return text.encode(errors="replace").decode(), why


def _usage(answer: Mapping[str, Any], name: str) -> int | None:
    usage = answer.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and count >= 0 else None


def estimated_tokens(text: str) -> int:
    """A quarter of the UTF-8 bytes, rounded up: for endpoints that report no usage."""
    return -(-len(text.encode(errors="replace")) // 4)


def split_tokens(total: int, lengths: list[int]) -> list[int]:
    """Integers in proportion to `lengths` that sum to `total` (largest remainder; evenly where all are 0)."""
    weights = lengths if any(lengths) else [1] * len(lengths)
    whole = sum(weights)
    shares = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: -(total * weights[i] % whole))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares
