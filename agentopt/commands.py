"""What each command of the command line does: call `api`, show what came of it."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentopt.api import aoptimize, evaluate, load
from agentopt.config import Config, load_config
from agentopt.errors import ConfigError, UserError
from agentopt.estimate import Estimate, estimate
from agentopt.events import Event
from agentopt.models.base import ChatModel, Message, Request, Response
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.pool import ModelPool
from agentopt.report.live import LiveView
from agentopt.report.terminal import print_result
from agentopt.report.words import duration_in_words, interval_in_words, usage_cells
from agentopt.result import Measured, Result, load_candidate, load_result
from agentopt.runfolder import RunFolder, list_runs
from agentopt.session import open_existing_journal, open_session
from agentopt.space import needs_measuring, search_space
from agentopt.trial import Evaluation, Split


def run_optimization(task: Path | None, settings: Sequence[str], resume: Path | None, console: Console) -> None:
    """`agentopt optimize`. Ctrl-C waits for what was sent, then says how to go on."""
    opened = RunFolder.open(resume) if resume else None
    config = load_config(settings, opened.config if opened else None)
    task = task or (opened.task if opened else None)
    if task is None:
        raise UserError("a task folder must be given", remedy="agentopt optimize tasks/quickstart")
    loaded, _ = load(task, config)
    folder = [resume] if resume else []
    with LiveView(console, loaded) as view:

        def observe(event: Event) -> None:
            if event.kind == "run_started":
                folder[:] = [event.data["folder"]]
            view(event)

        try:
            result = asyncio.run(aoptimize(task, config, resume=resume, observer=observe))
        except KeyboardInterrupt:
            how = f"agentopt optimize --resume {shlex.quote(str(folder[0]))}" if folder else "run the command again"
            said = f"stopped; every answer that was paid for is kept. Go on with:\n  {how}"
            console.print(said, markup=False, highlight=False, soft_wrap=True)
            sys.exit(130)
    _show_result(RunFolder.open(Path(result.run)), result, console)


def _show_result(run: RunFolder, result: Result, console: Console) -> None:
    """The result, and the command that uses it, ready to be pasted."""
    print_result(result, console)
    catalogues = ["-c", f"models=[{', '.join(map(str, run.config.models))}]"] if run.config.models else []
    task = str(run.task) if run.task else "TASK"
    command = ["agentopt", "evaluate", task, "--candidate", str(run.path / "best.yaml"), *catalogues]
    console.print(f"Use it:  {shlex.join(command)}", markup=False, highlight=False, soft_wrap=True)


def estimate_run(task: Path, settings: Sequence[str], console: Console) -> None:
    """`agentopt optimize --dry-run`: the worst case, without a model call."""
    config = load_config(settings)
    loaded, specs = load(task, config)
    if needs_measuring(loaded):
        raise UserError(
            "a dry run needs nominal token lengths, because measuring them takes model calls",
            where=f"task {loaded.name}",
            remedy="add tokens: {prompt: ..., completion: ...} to every subtask",
        )
    # Asking what a run would take leaves nothing behind, so a journal is read only where there is one.
    journal = open_existing_journal(config.journal)
    with closing(journal) if journal else nullcontext():
        worst = estimate(loaded, search_space(loaded, specs), specs, config, journal)
    _show_estimate(worst, config, console)


def _show_estimate(worst: Estimate, config: Config, console: Console) -> None:
    title = f"Worst case for {config.budget.trials} trials, before caps; no model was called"
    table = Table(title=title, title_justify="left")
    for column in ("part", "calls", "prompt tokens", "completion tokens", "USD"):
        table.add_column(column, justify="left" if column == "part" else "right")
    parts = {"search": worst.search, "agent": worst.agent, "test": worst.test, "total": worst.total}
    for name, usage in parts.items():
        table.add_row(name, *usage_cells(usage))
    console.print(table)
    unknown = "unknown: a model was never called here; `agentopt models check NAME` measures it"
    shown = unknown if worst.seconds is None else f"about {duration_in_words(worst.seconds)}, at the pace so far"
    console.print(f"Time: {shown}")
    console.print(
        "Trials share answers through the journal, so a run takes a fraction of this; caps bound it in any case."
    )


def run_evaluation(task: Path, candidate: Path | None, split: str, settings: Sequence[str], console: Console) -> None:
    """`agentopt evaluate`."""
    if split not in get_args(Split):
        raise UserError(f"`--split` must be one of {', '.join(get_args(Split))}, but got {split}", remedy="name one")
    chosen = load_candidate(candidate) if candidate else None
    config = load_config(settings)
    try:
        evaluation = evaluate(task, chosen, config, split=split)  # type: ignore[arg-type]  # checked above
    except KeyboardInterrupt:
        console.print("stopped; run the command again to go on: what was answered is kept")
        sys.exit(130)
    show_evaluation(evaluation, console)


def show_evaluation(evaluation: Evaluation, console: Console) -> None:
    """The score with its interval, the costs per example, and every error."""
    measured = Measured.of(evaluation)
    if measured is None:
        console.print(f"no example of {evaluation.split} could be scored")
    else:
        console.print(
            f"{evaluation.split}: score {measured.score:.3f} {interval_in_words(measured.interval)} at 95%, "
            f"n={measured.n} of {measured.planned}, in {evaluation.seconds:.1f} s"
        )
        mean = evaluation.per_example
        console.print(
            f"per example: {mean('units'):.1f} units, {mean('prompt_tokens'):.0f} prompt + "
            f"{mean('completion_tokens'):.1f} completion tokens, {mean('usd') + mean('fusion_usd'):.2g} USD; "
            f"{mean('fusion_tokens'):.1f} tokens of fusion calls"
        )
    for example, error in evaluation.errors.items():
        console.print(f"  {example}: {error}", markup=False)
    if evaluation.errors:
        sys.exit(1)


def show_runs(settings: Sequence[str], console: Console) -> None:
    """`agentopt runs list`."""
    folder = load_config(settings).runs
    table = Table()
    for column in ("run", "state", "best on validation", "test", "verdict"):
        table.add_column(column)
    for run in list_runs(folder):
        table.add_row(escape(str(run.path)), *_run_cells(run))
    console.print(table if table.row_count else f"no runs in {folder}")


def _run_cells(run: RunFolder) -> tuple[str, str, str, str]:
    try:
        best = load_result(run.path).finalist("best")
    except ConfigError:
        return f"unfinished; agentopt optimize --resume {shlex.quote(str(run.path))}", "", "", ""
    verdict = best.against_baseline.verdict if best.against_baseline else "-"
    return "finished", f"{best.validation.score:.3f}", f"{best.test.score:.3f}" if best.test else "-", verdict


def show_run(run: Path, console: Console) -> None:
    """`agentopt runs show`."""
    found = RunFolder.open(run)
    _show_result(found, load_result(found.path), console)


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
    from agentopt.report.download import download_bar

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


class _Remembering:
    """A `ChatModel` over another that keeps its last response: one from the journal does not say how long it took."""

    last: Response

    def __init__(self, inner: ChatModel) -> None:
        self._inner = inner

    async def generate(self, request: Request) -> Response:
        self.last = await self._inner.generate(request)
        return self.last

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _check(spec: ModelSpec, config: Config, console: Console) -> None:
    """One real call: a fresh repeat index, so that the journal cannot answer in the model's place."""
    question = (Message("user", "What is the capital of France? Answer with one word."),)
    request = Request(spec.name, question, 16, first_repeat=time.time_ns() % 2**31, purpose="check")
    provider = _Remembering(ModelPool({spec.name: spec}))
    run = f"check {spec.name}"
    async with open_session({spec.name: spec}, run, journal=config.journal, provider=provider) as session:
        started = time.monotonic()
        await session.model.generate(request)
        seconds, response = time.monotonic() - started, provider.last
    prompt, completion = response.prompt_tokens, response.completion_tokens
    console.print(f"{spec.name} ({_route(spec)}) answered {response.choices[0].text!r}", markup=False)
    console.print(
        f"in {seconds:.2f} s (the call itself {response.seconds:.2f} s), {prompt} + {completion} tokens, "
        f"{completion / max(response.seconds, 1e-9):.1f} tokens/s, {spec.price.usd(prompt, completion):.2g} USD"
    )
