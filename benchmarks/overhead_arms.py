"""One arm of `benchmarks.overhead` in a process of its own: calls an endpoint for some seconds, prints what it took.

    python -m benchmarks.overhead_arms ARM BASE_URL IN_FLIGHT SECONDS

Every call has a prompt of its own. The first call, which loads libraries, and the seconds of `WARM_UP`, in which
connections are made, are not measured. Nothing but the standard library is imported outside of the arms: the peers have
another environment.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

MODEL, MAX_TOKENS = "backend", 8
WARM_UP = 1.0

Call = Callable[[str], Awaitable[object]]


@asynccontextmanager
async def bare_aiohttp(base_url: str, in_flight: int) -> AsyncIterator[Call]:
    """What an HTTP client needs at least: the request encoded, the response decoded and the text taken from it."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def call(prompt: str) -> object:
            body = {"model": MODEL, "messages": messages(prompt), "max_tokens": MAX_TOKENS}
            async with session.post(f"{base_url}/chat/completions", json=body) as response:
                response.raise_for_status()
                return (await response.json())["choices"][0]["message"]["content"]

        yield call


@asynccontextmanager
async def openai_httpx(base_url: str, in_flight: int) -> AsyncIterator[Call]:
    """The client of `openai` with its own settings."""
    import openai

    async with openai.AsyncOpenAI(base_url=base_url, api_key="none") as client:
        yield lambda prompt: client.chat.completions.create(
            model=MODEL, messages=messages(prompt), max_tokens=MAX_TOKENS
        )


@asynccontextmanager
async def openai_aiohttp(base_url: str, in_flight: int) -> AsyncIterator[Call]:
    """The client of `openai` on its aiohttp transport."""
    import openai

    transport = openai.DefaultAioHttpClient()
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", http_client=transport) as client:
        yield lambda prompt: client.chat.completions.create(
            model=MODEL, messages=messages(prompt), max_tokens=MAX_TOKENS
        )


@asynccontextmanager
async def agentopt(base_url: str, in_flight: int) -> AsyncIterator[Call]:
    """A session as a run opens it: a journal on the disk, every cap, both rate limits and retries."""
    from agentopt.core.budget import Caps
    from agentopt.models.base import Message, Request
    from agentopt.models.catalog import ModelSpec
    from agentopt.models.session import open_session

    spec = ModelSpec(
        name=MODEL,
        base_url=base_url,
        usd_per_1m_prompt=0.1,
        usd_per_1m_completion=0.4,
        concurrency=in_flight,
        requests_per_minute=1e7,
        tokens_per_minute=1e9,
    )
    caps = Caps(usd=1e3, tokens=10**9, calls=10**7, seconds=3600)
    with tempfile.TemporaryDirectory() as folder:
        async with open_session({MODEL: spec}, "overhead", caps=caps, journal=f"{folder}/journal.db") as session:
            yield lambda prompt: session.model.generate(
                Request(MODEL, (Message("user", prompt),), max_tokens=MAX_TOKENS)
            )


@asynccontextmanager
async def dspy(base_url: str, in_flight: int) -> AsyncIterator[Call]:
    """The language model of dspy, without its cache."""
    import dspy

    options: Any = {"api_base": base_url, "api_key": "none", "max_tokens": MAX_TOKENS, "cache": False}
    lm = dspy.LM(f"openai/{MODEL}", **options)
    yield lambda prompt: lm.acall(messages=messages(prompt))


@asynccontextmanager
async def gepa(base_url: str, in_flight: int) -> AsyncIterator[Call]:
    """The language model of gepa, which blocks: a thread for each call in flight, as with its own batches."""
    from gepa.lm import LM

    lm = LM(f"openai/{MODEL}", max_tokens=MAX_TOKENS, api_base=base_url, api_key="none")
    with ThreadPoolExecutor(in_flight) as threads:
        loop = asyncio.get_running_loop()
        yield lambda prompt: loop.run_in_executor(threads, lm, messages(prompt))


ARMS: dict[str, Callable[[str, int], AbstractAsyncContextManager[Call]]] = {
    "aiohttp": bare_aiohttp,
    "openai": openai_httpx,
    "openai-aiohttp": openai_aiohttp,
    "agentopt": agentopt,
    "dspy": dspy,
    "gepa": gepa,
}


def messages(prompt: str) -> Any:
    return [{"role": "user", "content": prompt}]


async def measure(arm: str, base_url: str, in_flight: int, seconds: float) -> dict[str, float]:
    """Calls that ended, seconds, and seconds of the processor, all threads included, after the warm-up."""
    numbers, ended = itertools.count(), 0
    async with ARMS[arm](base_url, in_flight) as call:
        await call("warm-up")
        begin = time.perf_counter() + WARM_UP
        end = begin + seconds

        async def caller() -> None:
            nonlocal ended
            while time.perf_counter() < end:
                await call(f"question {next(numbers)}: which is the larger of the two rivers, by length?")
                ended += 1

        callers = [asyncio.create_task(caller()) for _ in range(in_flight)]
        await asyncio.sleep(begin - time.perf_counter())
        before, started, processor = ended, time.perf_counter(), time.process_time()
        await asyncio.sleep(end - time.perf_counter())
        took = time.perf_counter() - started, time.process_time() - processor
        counted = ended - before
        await asyncio.gather(*callers)
    return {"calls": counted, "seconds": took[0], "processor": took[1]}


def main() -> None:
    arm, base_url, in_flight, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(measure(arm, base_url, int(in_flight), float(seconds)))))


if __name__ == "__main__":
    main()
