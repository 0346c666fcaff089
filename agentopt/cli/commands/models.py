"""`agentopt models`: the catalogue, its files, and one real call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from agentopt.models.base import ChatModel, Message, Request, Response
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.router import ModelRouter
from agentopt.models.session import open_session
from agentopt.runs.config import Config, load_config


def show_models(settings: Sequence[str], console: Console) -> None:
    """`agentopt models list`."""
    table = Table()
    for column in ("name", "reached by", "parameters", "USD per 1M tokens", "context", "at once", "per minute"):
        table.add_column(column)
    catalog = Catalog.load(*load_config(settings).models)
    for spec in (catalog[name] for name in catalog):
        table.add_row(
            spec.name,
            _route(spec),
            "-" if spec.parameters is None else f"{spec.parameters / 1e9:.3g}B",
            f"{spec.usd_per_1m_prompt:g} + {spec.usd_per_1m_completion:g}",
            f"{spec.context_length}",
            f"{spec.concurrency}",
            "-" if spec.requests_per_minute is None else f"{spec.requests_per_minute:g}",
        )
    console.print(table)


def _route(spec: ModelSpec) -> str:
    if spec.weights:
        return f"local file {spec.weights.file}"
    return f"litellm {spec.litellm}" if spec.litellm else f"{spec.base_url}"


def pull_model(name: str, settings: Sequence[str], console: Console) -> None:
    """`agentopt models pull`."""
    from agentopt.models.weights import fetch
    from agentopt.report.bars import download_bar

    spec = Catalog.load(*load_config(settings).models)[name]
    if spec.weights is None:
        console.print(f"{name} is not a local model: there is nothing to fetch")
        return
    with download_bar(console) as progress:
        path = asyncio.run(fetch(spec.weights, progress=progress))
    console.print(f"{name}: {path}", soft_wrap=True)


def check_model(name: str, settings: Sequence[str], console: Console) -> None:
    """`agentopt models check`."""
    config = load_config(settings)
    spec = Catalog.load(*config.models)[name]
    asyncio.run(_check(spec, config, console))


class _KeepingLast:
    """A `ChatModel` that keeps the last response of another: a journaled response has no latency."""

    last: Response

    def __init__(self, inner: ChatModel) -> None:
        self._inner = inner

    async def generate(self, request: Request) -> Response:
        self.last = await self._inner.generate(request)
        return self.last

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _check(spec: ModelSpec, config: Config, console: Console) -> None:
    """Make one real call; a fresh repeat index keeps the journal from answering it."""
    question = (Message("user", "What is the capital of France? Answer with one word."),)
    request = Request(spec.name, question, 16, first_repeat=time.time_ns() % 2**31, purpose="check")
    provider = _KeepingLast(ModelRouter({spec.name: spec}))
    run = f"check {spec.name}"
    async with open_session({spec.name: spec}, run, journal=config.journal, provider=provider) as session:
        started = time.monotonic()
        await session.model.generate(request)
        seconds, response = time.monotonic() - started, provider.last
    prompt, completion = response.prompt_tokens, response.completion_tokens
    console.print(f"{spec.name} ({_route(spec)}) answered {response.choices[0].text!r}", markup=False)
    console.print(
        f"in {seconds:.2f} s (the call itself {response.seconds:.2f} s), {prompt} + {completion} tokens, "
        f"{completion / max(response.seconds, 1e-9):.1f} tokens/s, {spec.prices.usd(prompt, completion):.2g} USD"
    )
