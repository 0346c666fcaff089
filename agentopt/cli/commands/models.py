"""`agentopt models`: the catalogue, its files, and one real call."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agentopt.cli.output import print_plain
from agentopt.core.events import Event, ModelNotice
from agentopt.core.usd import format_usd
from agentopt.core.yaml_models import to_yaml
from agentopt.models.add_entry import add_entry
from agentopt.models.base import ChatModel, Request, Response
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.check_entry import CHECK_TOKENS, check_request, probe
from agentopt.models.model_table import find_entry, search_table, table_defaults
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
            f"{spec.usd_per_1m_prompt:g} + {spec.usd_per_1m_completion:g}" if spec.is_priced else "-",
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


def add_model(
    model: str, name: str | None, base_url: str | None, api_key_env: str | None, file: Path | None, console: Console
) -> None:
    """`agentopt models add`."""
    added = add_entry(model, name=name, base_url=base_url, api_key_env=api_key_env, file=file)
    print_plain(console, f"added {added.name} to {added.file}:")
    print_plain(console, to_yaml({added.name: added.entry}).rstrip())
    if not added.is_known and "price" not in added.entry:
        print_plain(console, "its price is unknown: add usd_per_1m_prompt and usd_per_1m_completion, or price: free")
    if key := added.entry.get("api_key_env"):
        print_plain(console, f"the API key is read from ${key}")
    elif base_url:
        print_plain(console, "no API key is sent; if the endpoint needs one, set api_key_env in the entry")
    print_plain(console, f"next: agentopt models check {added.name}")


def search_models(word: str, console: Console) -> None:
    """`agentopt models search`. Exits with 1 if nothing is found."""
    names = search_table(word)
    table = Table("model", "USD per 1M tokens", "context")
    for name in names:
        found = find_entry(name)
        fields = table_defaults(found[1]) if found else {}
        prices = f"{fields.get('usd_per_1m_prompt', 0):g} + {fields.get('usd_per_1m_completion', 0):g}"
        table.add_row(name, prices, f"{fields.get('context_length', '-')}")
    if not names:
        print_plain(console, f"no model of the bundled table has {word!r} in its name")
        sys.exit(1)
    console.print(table)


async def _check(spec: ModelSpec, config: Config, console: Console) -> None:
    """Make one real call, then one for each ability that the entry leaves open."""
    provider = _KeepingLast(ModelRouter({spec.name: spec}))
    run = f"check {spec.name}"
    async with open_session(
        {spec.name: spec},
        run,
        journal=config.journal,
        provider=provider,
        observer=lambda event: None if _is_end(event) else print_plain(console, event.message),
    ) as session:
        await session.model.generate(check_request(spec.name))
        _print_response(spec, provider.last, console)
        if spec.weights is None:
            _print_abilities(await probe(session.model, spec.name), console)


def _is_end(event: Event) -> bool:
    """Whether the event reports what the check's exception reports too."""
    return isinstance(event, ModelNotice) and event.topic == "stopped"


def _print_response(spec: ModelSpec, response: Response, console: Console) -> None:
    prompt, completion, choice = response.prompt_tokens, response.completion_tokens, response.choices[0]
    print_plain(console, f"{spec.name} ({_route(spec)}) answered {choice.text!r}")
    if choice.thought:
        print_plain(
            console, f"after thoughts of {len(choice.thought)} characters, which are kept apart from the answer"
        )
    if choice.is_only_thought or choice.is_cut_off:
        what = "cut off at" if choice.is_cut_off else "only a thought within"
        print_plain(console, f"{what} max_tokens {CHECK_TOKENS}: subtasks of this model need a higher max_tokens")
    usd = spec.prices.usd(
        prompt, completion, cached_tokens=response.cached_tokens, reasoning_tokens=response.reasoning_tokens
    )
    cost = f"{format_usd(usd)} USD" if spec.is_priced else "price unknown"
    pace = f"{completion / max(response.seconds, 1e-9):.1f} tokens/s, " if completion > 1 else ""
    print_plain(console, f"in {response.seconds:.2f} s, {prompt} + {completion} tokens, {pace}{cost}")


def _print_abilities(found: Mapping[str, bool | str], console: Console) -> None:
    accepted = [name for name, answer in found.items() if answer is True]
    refused = [name for name, answer in found.items() if answer is False]
    without = f"; not used or refused: {', '.join(refused)}" if refused else ""
    print_plain(console, f"accepted: {', '.join(accepted) or 'none'}{without}")
    for name, answer in found.items():
        if isinstance(answer, str):
            print_plain(console, f"{name}: {answer}")
