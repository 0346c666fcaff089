"""Calls hosted models: one attempt per `generate`, through the `openai` package's HTTP client or litellm.

An entry with `base_url` alone is an OpenAI-compatible endpoint; an entry with `litellm` is called through litellm.
Both packages are imported on the first call. Retries, the journal and the budget belong to the caller.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from agentopt.core.errors import CatalogError, ModelError, PermanentModelError
from agentopt.models.api_errors import model_error
from agentopt.models.api_keys import key_of
from agentopt.models.base import Choice, Request, Response
from agentopt.models.catalog import ModelSpec
from agentopt.models.live_text import LIVE, LiveText
from agentopt.models.redaction import secrets_in
from agentopt.models.request_fitting import payload
from agentopt.models.response_body import ReadBody, ReadChoice, ReadUsage

if TYPE_CHECKING:
    import httpx

MOST_BYTES_PER_TOKEN = 8
"""A prompt with more bytes than this times the context length cannot fit; most tokens have 3 to 5 bytes."""
MEASURED_PROMPTS, MEASURED_BYTES = 5, 1000
"""Number of prompts after which measured bytes per token are used, and their least size."""

CountTokens = Callable[[str], Awaitable[int]]


class Route(Protocol):
    """A way to call an endpoint."""

    async def complete(
        self, body: dict[str, Any], *, most: int, on_text: Callable[[str], None] | None = None
    ) -> ReadBody:
        """Send one request in the OpenAI format, and read at most `most` choices.

        Args:
            body: The request body in the OpenAI format.
            most: Most choices that are read.
            on_text: Receives the text of a single choice while it is streamed.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""


class PromptDensity:
    """Bytes per token of the prompts of one endpoint, as measured by its reported usage."""

    def __init__(self) -> None:
        self._most, self._prompts = 0.0, 0

    def observe(self, size: int, tokens: int | None) -> None:
        """Measure a prompt of `size` bytes. In a short one, the chat template's tokens would count too much."""
        if tokens and size >= MEASURED_BYTES:
            self._most, self._prompts = max(self._most, size / tokens), self._prompts + 1

    @property
    def most_bytes_per_token(self) -> float:
        """A bound on the bytes per token: twice the most that was measured, and at most `MOST_BYTES_PER_TOKEN`."""
        measured = 2 * self._most if self._prompts >= MEASURED_PROMPTS else MOST_BYTES_PER_TOKEN
        return min(measured, MOST_BYTES_PER_TOKEN)


def _bytes_of(request: Request) -> int:
    return sum(len(message.content.encode(errors="replace")) for message in request.messages)


class HostedModel:
    """A `ChatModel` behind an API. One attempt per `generate`; no retries, no limits.

    Requests at most `spec.max_choices` choices at once. Completion tokens are split over the choices in proportion to
    their lengths. Tokens that the endpoint does not report are estimated as a quarter of the bytes, rounded up. An
    instance belongs to one event loop until `aclose`, after which the next call connects again.

    Args:
        spec: A catalogue entry with `litellm` or `base_url`.
        api_key: The key; the value of the variable `spec.api_key_env` unless given.
        environ: Environment variables; the process's unless given.
        count_tokens: Counts the tokens of each choice of a call with several; llama.cpp's server reports the tokens
            of one choice only.
        clock: Monotonic time in seconds.
        transport: Sends the requests; the network unless given.
        is_replayed: Whether responses are read that came another way: no text is streamed to a reader, and a response
            shows that its prompt fitted into the context length.

    Raises:
        CatalogError: The entry is not a hosted model, or the variable of its key is not set.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        api_key: str | None = None,
        environ: Mapping[str, str] | None = None,
        count_tokens: CountTokens | None = None,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
        is_replayed: bool = False,
    ) -> None:
        if not (spec.litellm or spec.base_url):
            raise CatalogError(
                f"a hosted model needs litellm or base_url, but {spec.name!r} has neither",
                remedy="add one of them to the entry; an entry with weights is a local model",
            )
        environ = os.environ if environ is None else environ
        self.spec = spec
        self._api_key = api_key or key_of(spec, environ)
        self._secrets = secrets_in(environ, self._api_key)
        self._count_tokens, self._clock = count_tokens, clock
        self._transport, self._is_replayed = transport, is_replayed
        self._route: Route | None = None
        self._loading: asyncio.Task[None] | None = None
        self._thinks_untagged = False
        self._density = PromptDensity()

    async def generate(self, request: Request) -> Response:
        """Make one attempt.

        Raises:
            TransientModelError: Another attempt may succeed.
            UnsupportedParameterError: The endpoint does not take a parameter; repeat the request without it.
            PermanentModelError: The same request would fail again.
        """
        outside = sys.exception()
        body = payload(self.spec, request)
        live = self._live(request, body)
        try:
            if not self._is_replayed:
                await self.check_context_length(request)
            await self._load()
            route = self.connected()
            started = self._clock()  # importing a client library, above, is no latency of the endpoint
            async with asyncio.timeout(self.spec.timeout_seconds):
                read = await route.complete(body, most=request.n, on_text=live.receive if live else None)
            self._thinks_untagged |= bool(live and live.forwarded_thought)
            choices = await self._with_tokens(read.choices, read.usage)
        # litellm lets exceptions of any provider's library through; a defect of ours is raised as it is.
        except Exception as error:
            failure = self.failure(error, body=body, outside=outside)
            if failure is None:
                raise
            # Not `from error`: a traceback would show the provider's own words, which may repeat the key.
            raise failure from None
        prompt_tokens = read.usage.prompt
        if prompt_tokens is None:
            prompt_tokens = sum(estimated_tokens(m.content) for m in request.messages)
        is_estimate = read.usage.completion is None or (read.usage.of_first and len(read.choices) > 1)
        is_reported = read.usage.prompt is not None and (not is_estimate or bool(self._count_tokens))
        self._density.observe(_bytes_of(request), read.usage.prompt)
        if not request.stop or "stop" in body:
            cut = choices
        else:
            cut = tuple(_cut_at(choice, request.stop) for choice in choices)
        return Response(cut, prompt_tokens, self._clock() - started, read.usage.cached, is_reported)

    async def prepare(self, model: str) -> None:
        """Open the client, so that the first call is sent as soon as the limits of its rate let it in.

        Args:
            model: The name of the entry.
        """
        with suppress(Exception):  # the first call reports it
            await self._load()
            self.connected()

    async def aclose(self) -> None:
        """Close the connections; the next call connects again."""
        route, self._route, self._loading = self._route, None, None
        if route:
            await route.aclose()

    async def _load(self) -> None:
        """Import the client library in a thread, once for all first calls."""
        if self._loading is None or self._loading.cancelled():
            self._loading = asyncio.create_task(asyncio.to_thread(load_library, self.spec))
        await asyncio.shield(self._loading)

    def connected(self) -> Route:
        """Return the route to the endpoint; connects on the first call."""
        if self._route is None:
            # Imported here: the catalogue's users need neither.
            if self.spec.litellm:
                from agentopt.models.litellm_route import LitellmRoute

                self._route = LitellmRoute(self.spec, self._api_key, transport=self._transport)
            else:
                from agentopt.models.openai_route import OpenAIRoute

                self._route = OpenAIRoute(self.spec, self._api_key, transport=self._transport)
        return self._route

    def failure(
        self, error: Exception, *, body: Mapping[str, Any] | None = None, outside: BaseException | None = None
    ) -> ModelError | None:
        """Convert what a client raised on a call to the endpoint; None if it is a defect.

        Args:
            error: The exception.
            body: The body of the request, in the OpenAI format; None for other calls than completions.
            outside: The exception that was being handled when the call began.
        """
        # Without a key and an address of the entry, litellm reads the provider's own variable.
        has_key = bool(self._api_key or (self.spec.litellm and not self.spec.base_url))
        return model_error(error, who=self._who(), body=body, secrets=self._secrets, has_key=has_key, outside=outside)

    def _live(self, request: Request, body: dict[str, Any]) -> LiveText | None:
        """Make the request a streaming one if someone reads the text while it is generated."""
        live = LIVE.get()
        if "streaming" in request.left_out:
            return None  # the text is passed on as one piece
        # If stop sequences are applied here, what is sent before could go beyond one; if the chat template opens the
        # thought, where the answer begins is only known when the thought ends.
        if live is None or self._is_replayed or self._thinks_untagged or request.n > 1:
            return None
        if request.stop and "stop" not in body:
            return None
        live.begin()
        body["stream"] = True
        if "stream_options" not in request.left_out:
            body["stream_options"] = {"include_usage": True}
        return live

    def _who(self) -> str:
        return f"{self.spec.name} at {self.spec.base_url or self.spec.litellm}"

    async def check_context_length(self, request: Request) -> None:
        """Check by the tokenizer, or else by its bytes, whether a prompt can fit.

        Raises:
            PermanentModelError: It cannot.
        """
        context, size = self.spec.known_context_length, _bytes_of(request)
        if not context or size <= context:  # a token has at least one byte
            return
        if self._count_tokens:
            tokens = await self._count_tokens("\n".join(message.content for message in request.messages))
        else:
            tokens = math.ceil(size / self._density.most_bytes_per_token)
        if tokens > context:
            least = "" if self._count_tokens else "at least "
            raise PermanentModelError(
                f"{self._who()}: a prompt of {size} bytes, {least}{tokens} tokens, does not fit into the context "
                f"length of {context}; remedy: shorten the input, or correct context_length in the catalogue entry",
                kind="context length",
                scope="example",
                sent=False,
            )

    async def _with_tokens(self, read: tuple[ReadChoice, ...], usage: ReadUsage) -> tuple[Choice, ...]:
        if self._count_tokens and (len(read) > 1 or usage.completion is None):
            counts = [await self._count_tokens(choice.thought + choice.text) for choice in read]
        elif usage.completion is None:
            counts = [-(-choice.length // 4) for choice in read]
        elif usage.of_first:
            first = max(read[0].length, 1)
            counts = [usage.completion, *(-(-usage.completion * choice.length // first) for choice in read[1:])]
        else:
            counts = split_tokens(usage.completion, [choice.length for choice in read])
        thoughts = split_tokens(usage.reasoning, [len(choice.thought) for choice in read])
        return tuple(
            Choice(c.text, count, c.finish_reason, c.thought, c.tool_calls, min(reasoning, count))
            for c, count, reasoning in zip(read, counts, thoughts, strict=True)
        )


def load_library(spec: ModelSpec) -> None:
    """Import all that a call of the model needs. Blocks, for seconds if nothing of it is imported yet.

    What fails, such as to read the file of certificates that the environment names, the first call reports.

    Args:
        spec: The catalogue entry of a hosted or of a local model.
    """
    with suppress(Exception):
        if spec.litellm:
            from agentopt.models.litellm_route import prepare_litellm

            prepare_litellm(spec.litellm)
        elif (spec.base_url or "").startswith("https:"):
            from agentopt.models.openai_route import prepare_openai

            prepare_openai()


def _cut_at(choice: Choice, stop: tuple[str, ...]) -> Choice:
    """Cut the text at the first stop sequence, for an endpoint that does not take any."""
    ends = [place for text in stop if text and (place := choice.text.find(text)) >= 0]
    return replace(choice, text=choice.text[: min(ends)], finish_reason="stop") if ends else choice


def estimated_tokens(text: str) -> int:
    """Estimate tokens as a quarter of the UTF-8 bytes, rounded up, for endpoints that report no usage."""
    return -(-len(text.encode(errors="replace")) // 4)


def split_tokens(total: int, lengths: list[int]) -> list[int]:
    """Split `total` into integers in proportion to `lengths` (largest remainder; evenly if all are 0)."""
    if len(lengths) == 1:
        return [total]
    weights = lengths if any(lengths) else [1] * len(lengths)
    whole = sum(weights)
    shares = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: -(total * weights[i] % whole))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares
