"""`agentopt models`: the catalogue, its files, and one real call."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agentopt.cli.output import notes_console, print_json, print_plain
from agentopt.core.budget import Usage
from agentopt.core.errors import TransientModelError
from agentopt.core.events import Event, ModelNotice
from agentopt.core.message_text import counted
from agentopt.core.usd_text import format_usd
from agentopt.core.yaml_text import to_yaml
from agentopt.models.add_entry import add_entry
from agentopt.models.base import ChatModel, Request, Response
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.check_entry import CHECK_TOKENS, check_request, declared, probe
from agentopt.models.model_table import close_models, find_entry, search_table, table_defaults
from agentopt.models.providers import PROVIDERS
from agentopt.models.router import ModelRouter
from agentopt.models.session import open_session
from agentopt.runs.config import Config, load_config


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One model of the catalogue.

    Attributes:
        name: Catalogue name.
        route: How it is called: its file, its litellm string or its endpoint.
        parameters: Number of parameters; None if it is not known.
        usd_per_1m_prompt: USD per million prompt tokens; None if the price is unknown.
        usd_per_1m_completion: USD per million completion tokens; None if the price is unknown.
        context_length: Most tokens of a prompt and its completion.
        concurrency: Most concurrent requests.
        requests_per_minute: None without a limit.
    """

    name: str
    route: str
    parameters: float | None
    usd_per_1m_prompt: float | None
    usd_per_1m_completion: float | None
    context_length: int
    concurrency: int
    requests_per_minute: float | None

    @classmethod
    def of(cls, spec: ModelSpec) -> ModelLine:
        """The line of a catalogue entry."""
        return cls(
            spec.name,
            _route(spec),
            spec.parameters,
            spec.usd_per_1m_prompt if spec.is_priced else None,
            spec.usd_per_1m_completion if spec.is_priced else None,
            spec.context_length,
            spec.concurrency,
            spec.requests_per_minute,
        )


@dataclass(frozen=True, slots=True)
class ModelList:
    """The output of `agentopt models list --json`."""

    models: tuple[ModelLine, ...]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One model of the bundled table.

    Attributes:
        model: Its name, as `agentopt models add` takes it.
        usd_per_1m_prompt: USD per million prompt tokens.
        usd_per_1m_completion: USD per million completion tokens.
        context_length: Most tokens of a prompt and its completion; None if the table does not have it.
    """

    model: str
    usd_per_1m_prompt: float
    usd_per_1m_completion: float
    context_length: int | None

    @classmethod
    def of(cls, name: str) -> KnownModel:
        """What the table has of a model."""
        found = find_entry(name)
        fields = table_defaults(found[1]) if found else {}
        prices = (fields.get("usd_per_1m_prompt", 0.0), fields.get("usd_per_1m_completion", 0.0))
        return cls(name, *prices, fields.get("context_length"))


@dataclass(frozen=True, slots=True)
class KnownModels:
    """The output of `agentopt models search --json`."""

    models: tuple[KnownModel, ...]


@dataclass(frozen=True, slots=True)
class PulledModel:
    """The output of `agentopt models pull --json`.

    Attributes:
        name: Catalogue name.
        file: The model's file; None if the model is not a local one.
    """

    name: str
    file: Path | None


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """The output of `agentopt models check --json`.

    Attributes:
        name: Catalogue name.
        route: How it is called.
        answer: The text of its answer.
        thought: What it thought before, apart from the answer; empty without any.
        is_cut_off: Whether the answer ended at `max_tokens`.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens of the answer and the thought.
        seconds: Latency of the call.
        usd: Cost of the call; None if the price is unknown.
        accepted: Ability -> whether the endpoint accepts it, or the message of another failure. Empty for a
            local model.
        declared: Ability -> whether the model has it by its entry or the bundled table: these are not tried.
        calls: Number of calls of the check.
        total_usd: Their cost; None if the price is unknown.
    """

    name: str
    route: str
    answer: str
    thought: str
    is_cut_off: bool
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    usd: float | None
    accepted: dict[str, bool | str]
    declared: dict[str, bool]
    calls: int
    total_usd: float | None

    @classmethod
    def of(cls, spec: ModelSpec, response: Response, accepted: Mapping[str, bool | str], spent: Usage) -> CheckedModel:
        """What a check found."""
        choice = response.choices[0]
        usd = _usd(spec, response) if spec.is_priced else None
        answered = (choice.text, choice.thought or "", choice.is_cut_off)
        used = (response.prompt_tokens, response.completion_tokens, response.seconds)
        total = spent.usd if spec.is_priced else None
        return cls(spec.name, _route(spec), *answered, *used, usd, dict(accepted), declared(spec), spent.calls, total)


def show_models(settings: Sequence[str], console: Console, *, as_json: bool = False) -> None:
    """`agentopt models list`."""
    catalog = Catalog.load(*load_config(settings).models)
    if as_json:
        print_json(ModelList(tuple(ModelLine.of(catalog[name]) for name in catalog)))
        return
    table = Table()
    for column in ("name", "reached by", "parameters", "USD per 1M tokens", "context", "at once", "per minute"):
        table.add_column(column)
    for spec in (catalog[name] for name in catalog):
        table.add_row(
            spec.name,
            _route(spec),
            "-" if spec.parameters is None else f"{spec.parameters / 1e9:.3g}B",
            f"{spec.usd_per_1m_prompt:g} + {spec.usd_per_1m_completion:g}" if spec.is_priced else "-",
            f"{spec.known_context_length or '-'}",
            f"{spec.concurrency}",
            "-" if spec.requests_per_minute is None else f"{spec.requests_per_minute:g}",
        )
    console.print(table)


def _route(spec: ModelSpec) -> str:
    if spec.weights:
        return f"local file {spec.weights.file}"
    return f"litellm {spec.litellm}" if spec.litellm else f"{spec.base_url}"


def pull_model(name: str, settings: Sequence[str], console: Console, *, as_json: bool = False) -> None:
    """`agentopt models pull`."""
    from agentopt.models.weight_files import fetch
    from agentopt.report.bars import download_bar

    spec = Catalog.load(*load_config(settings).models)[name]
    path = None
    if spec.weights:
        with download_bar(notes_console(console, as_json=as_json)) as progress:
            path = asyncio.run(fetch(spec.weights, progress=progress))
    if as_json:
        print_json(PulledModel(name, path))
    else:
        print_plain(console, f"{name}: {path or 'not a local model, so there is nothing to fetch'}")


def check_model(name: str, settings: Sequence[str], console: Console, *, as_json: bool = False) -> None:
    """`agentopt models check`."""
    config = load_config(settings)
    spec = Catalog.load(*config.models)[name]
    asyncio.run(_check(spec, config, console, as_json))


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
    model: str,
    name: str | None,
    base_url: str | None,
    api_key_env: str | None,
    file: Path | None,
    console: Console,
    *,
    replace: bool = False,
    as_json: bool = False,
) -> None:
    """`agentopt models add`."""
    added = add_entry(model, name=name, base_url=base_url, api_key_env=api_key_env, file=file, replace=replace)
    if as_json:
        print_json(added)
        return
    print_plain(console, f"added {added.name} to {added.file}:")
    print_plain(console, to_yaml({added.name: added.entry}).rstrip())
    if added.similar:
        print_plain(console, f"did you mean {added.similar}? Its price and abilities are known: add it instead,")
        print_plain(console, f"and delete the entry {added.name} from {added.file}")
    if not added.is_known and "price" not in added.entry:
        print_plain(console, "its price is unknown: add usd_per_1m_prompt and usd_per_1m_completion, or price: free")
    if key := added.entry.get("api_key_env"):
        print_plain(console, f"the API key is read from ${key}")
    elif base_url:
        provider = PROVIDERS.get(model.partition("/")[0])
        variable = (provider and provider.api_key_env) or "VARIABLE"
        print_plain(
            console,
            "no API key is sent to this address; if it needs one, repeat the command with "
            f"--replace --api-key-env {variable}, or the variable that has the key",
        )
    print_plain(console, f"next: agentopt models check {added.name}")


def search_models(word: str, console: Console, *, as_json: bool = False) -> None:
    """`agentopt models search`. Exits with 1 if nothing is found."""
    whole, within = search_table(word)
    models = tuple(map(KnownModel.of, whole or within))
    if as_json:
        print_json(KnownModels(models))
    elif models:
        table = Table("model", "USD per 1M tokens", "context")
        for known in models:
            prices = f"{known.usd_per_1m_prompt:g} + {known.usd_per_1m_completion:g}"
            table.add_row(known.model, prices, str(known.context_length or "-"))
        console.print(table)
        if whole and within:
            count = f"{len(within)} more {'name has' if len(within) == 1 else 'names have'}"
            print_plain(console, f"{count} {word!r} within a longer word, such as {within[0]}")
    if not models:
        close = f"; did you mean {', '.join(found)}?" if (found := close_models(word)) else ""
        rule = f"no model of the bundled table has {word!r} in its name{close}"
        print_plain(notes_console(console, as_json=as_json), rule)
        sys.exit(1)


async def _check(spec: ModelSpec, config: Config, console: Console, as_json: bool) -> None:
    """Make one real call, then one for each ability that the entry leaves open."""
    notes, accepted = notes_console(console, as_json=as_json), {}
    provider = _KeepingLast(ModelRouter({spec.name: spec}))
    run = f"check {spec.name}"
    async with open_session(
        {spec.name: spec},
        run,
        journal=config.journal,
        provider=provider,
        observer=lambda event: None if _is_end(event) else print_plain(notes, event.message),
    ) as session:
        before = session.budget.spent  # of earlier checks
        try:
            await session.model.generate(check_request(spec.name))
        except TransientModelError as error:
            error.add_note("  remedy: try again later; if the address or the network is wrong, correct it")
            raise
        answered = provider.last
        if not as_json:
            _print_response(spec, answered, console)
        if spec.weights is None:
            accepted = await probe(session.model, spec.name)
        spent = session.budget.spent - before
    if as_json:
        print_json(CheckedModel.of(spec, answered, accepted, spent))
    elif spec.weights is None:
        _print_abilities(accepted, spec, console)
        cost = f", {format_usd(spent.usd)} USD" if spec.is_priced else ""
        print_plain(console, f"{counted(spent.calls, 'call')} in all{cost}")


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
    cost = f"{format_usd(_usd(spec, response))} USD" if spec.is_priced else "price unknown"
    pace = f"{completion / max(response.seconds, 1e-9):.1f} tokens/s, " if completion > 1 else ""
    print_plain(console, f"in {response.seconds:.2f} s, {prompt} + {completion} tokens, {pace}{cost}")


def _usd(spec: ModelSpec, response: Response) -> float:
    cached, reasoning = response.cached_tokens, response.reasoning_tokens
    return spec.prices.usd(
        response.prompt_tokens, response.completion_tokens, cached_tokens=cached, reasoning_tokens=reasoning
    )


def _print_abilities(found: Mapping[str, bool | str], spec: ModelSpec, console: Console) -> None:
    accepted = [name for name, answer in found.items() if answer is True]
    refused = [name for name, answer in found.items() if answer is False]
    if found:
        without = f"; not used or refused: {', '.join(refused)}" if refused else ""
        print_plain(console, f"accepted: {', '.join(accepted) or 'none'}{without}")
    known = [name if has else f"no {name}" for name, has in declared(spec).items()]
    if known:
        print_plain(console, f"not tried, known from the entry or the bundled table: {', '.join(known)}")
    for name, answer in found.items():
        if isinstance(answer, str):
            print_plain(console, f"{name}: {answer}")
