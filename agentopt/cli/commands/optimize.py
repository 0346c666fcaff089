"""`agentopt optimize`, and its dry run."""

from __future__ import annotations

import asyncio
import shlex
import sys
import webbrowser
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentopt.api import LoadedTask, aoptimize
from agentopt.cli.commands.report import leave_report
from agentopt.cli.estimates import PARTS, estimates
from agentopt.cli.interrupts import INTERRUPTED, second_interrupt_ends
from agentopt.cli.loading import load_shown
from agentopt.cli.output import (
    exit_with,
    ignore_interrupted_tasks,
    notes_console,
    print_json,
    print_plain,
    stderr_console,
)
from agentopt.cli.run_names import run_path
from agentopt.core.budget import Usage
from agentopt.core.column_report import Column, columns_of
from agentopt.core.errors import ConfigError, UserError
from agentopt.core.events import Event, NotStored, RunStarted
from agentopt.core.message_text import counted
from agentopt.core.power import power_notes, rows_to_detect
from agentopt.core.row_notes import row_notes
from agentopt.core.stop_reason import StopKind, StopReason
from agentopt.core.task import Task
from agentopt.core.usd_text import usd_in_words
from agentopt.models.api_keys import unset_keys
from agentopt.models.engine import missing_note
from agentopt.report.formatting import format_duration, usage_cells
from agentopt.report.printed_result import KEEP_BASELINE, print_result, resumable, unreadable, uses
from agentopt.report.progress_bar import ProgressBar
from agentopt.report.tables import titled
from agentopt.report.trackers import TRACKERS
from agentopt.report.trackers.tracker import Tracker
from agentopt.runs.config import Config, load_config
from agentopt.runs.evaluators import batch_notes
from agentopt.runs.expected_case import (
    ExpectedCase,
    cap_notes,
    costly_baseline,
    expected_unit_note,
    expected_usd,
    unmet_limits_in,
)
from agentopt.runs.folder import RunFolder
from agentopt.runs.prompt_share import caps_for
from agentopt.runs.result import Result
from agentopt.runs.worst_case import Estimate
from agentopt.search.from_task import cost_note, needs_measuring

if TYPE_CHECKING:
    from agentopt.cli.commands.live_process import LiveProcess


@dataclass(frozen=True, slots=True)
class PartEstimate:
    """What one part of a run uses.

    Attributes:
        worst: The most, before caps.
        expected: Of random candidates, none of which is stopped early.
        expected_seconds: Its duration at the pace of earlier calls; None if a model was never called.
    """

    worst: Usage
    expected: Usage
    expected_seconds: float | None


@dataclass(frozen=True, slots=True)
class DryRun:
    """The output of `agentopt optimize --dry-run --json`.

    Attributes:
        trials: Most trials.
        parts: search, agent, demos, prompts, test and total -> its estimate.
        worst_seconds: Duration of the worst case; None if a model was never called.
        columns: The columns of the data.
        unset_keys: Environment variable of an API key that is not set -> the models that need it.
        notes: Remarks on caps, rows and costs.
    """

    trials: int
    parts: dict[str, PartEstimate]
    worst_seconds: float | None
    columns: tuple[Column, ...]
    unset_keys: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """`--live` with its options: the port of the page (0 for a free one), and whether the browser opens it."""

    port: int = 0
    open_page: bool = False


def run_optimization(
    task: Path | None,
    settings: Sequence[str],
    resume: Path | None,
    console: Console,
    *,
    as_json: bool = False,
    live: LiveOptions | None = None,
    track: Iterable[str] = (),
) -> None:
    """`agentopt optimize`: progress on stderr, the result on stdout. Ctrl-C waits for the calls in flight."""
    trackers = [TRACKERS[name]() for name in dict.fromkeys(track)]  # a missing extra is reported before any spend
    with ExitStack() as ends:
        for tracker in trackers:
            ends.callback(tracker.close)  # after the report is written, because trackers record it
        _optimize(task, settings, resume, console, trackers, as_json=as_json, live=live)


def _optimize(
    task: Path | None,
    settings: Sequence[str],
    resume: Path | None,
    console: Console,
    trackers: Iterable[Tracker],
    *,
    as_json: bool,
    live: LiveOptions | None,
) -> None:
    task, config, opened = _what_to_run(task, settings, resume)
    run = [opened] if opened else []
    progress, lost = stderr_console(), list[NotStored]()
    ignore_interrupted_tasks()

    def stopped(*, is_whole: bool) -> str:
        kept = "every answer received is cached" if is_whole else "answers that were stored are not paid again"
        return f"stopped; {kept}. Resume with:\n  {run[0].resuming if run else 'run the command again'}"

    with ProgressBar(progress) as view:
        try:
            loaded = load_shown(task, config, progress)
            with second_interrupt_ends(lambda: stopped(is_whole=False)), _live_page(live, settings, view) as page:

                def observe(event: Event) -> None:
                    if isinstance(event, RunStarted):
                        run[:] = run or [RunFolder.open(event.folder)]
                        if page:
                            page.run = event.folder
                    elif isinstance(event, NotStored):
                        lost.append(event)
                    view(event)
                    for tracker in trackers:
                        tracker(event)

                result = asyncio.run(aoptimize(loaded, config, resume=opened, callbacks=[observe]))
        except KeyboardInterrupt:
            print_plain(progress, stopped(is_whole=not lost))
            sys.exit(INTERRUPTED)
    if as_json:
        print_json(result)
    else:
        show_result(result, task.absolute(), console)
    # A resumed run keeps the settings that override its own; no run keeps the passwords of its databases.
    ended = RunFolder.open(result.run) if opened and settings else run[0]
    ended = replace(ended, config=ended.config.with_places_of(config.absolute()))
    leave_report(ended, loaded, notes_console(console, as_json=as_json))
    if result.failed:
        exit_with(f"{result.failed}\n  remedy: {run[0].remedy(StopReason(StopKind.FAILED))}", 1)


def _what_to_run(
    task: Path | None, settings: Sequence[str], resume: Path | None
) -> tuple[Path, Config, RunFolder | None]:
    """The task folder, the configuration, and the run to resume."""
    resume = run_path(resume, settings) if resume else None
    opened = RunFolder.open(resume) if resume else None
    config = load_config(settings, opened.config if opened else None)
    task = task or (opened.task if opened else None)
    if task is None:
        rule = "the run must have a task folder, but its task was built in Python"
        raise UserError(rule, where=resume, remedy=opened.resuming if opened else None)
    if opened and task == opened.task and not task.exists():
        command = shlex.join(["agentopt", "optimize", "TASK", "--resume", str(opened.path)])
        remedy = f"{command}{opened.tracking}, with its folder as TASK"
        raise UserError(f"the run's task is no longer at {task}", where=resume, remedy=remedy)
    return task, config, opened


@contextmanager
def _live_page(options: LiveOptions | None, settings: Sequence[str], view: ProgressBar) -> Iterator[LiveProcess | None]:
    """Serve the live page inside the block, if it is requested, and print its address."""
    if options is None:
        yield None
        return
    from agentopt.cli.commands.live_process import live_process

    with live_process(options.port, settings, view.progress.snapshot) as page:
        print_plain(view.console, f"live page: {page.address}")
        if options.open_page:
            webbrowser.open(page.address)
        yield page


def show_result(result: Result, task: Path | None, console: Console) -> None:
    """Print the result, and the next step.

    Args:
        result: The result.
        task: The task folder; None if the task was built in Python.
        console: Where it is printed.
    """
    print_result(result, console)
    if change := unreadable(result):
        print_plain(console, f"Next:    {change}: {shlex.join(['agentopt', 'inspect', result.run])}")
    elif result.verdict == "not enough rows":
        gate = shlex.join(["agentopt", "gate", str(Path(result.run) / "best.yaml"), "--rows-needed"])
        limit = RunFolder.open(result.run).config.task.get("data.limit.test")
        unused = f" (data.limit.test={limit} may leave some out)" if limit else ""
        print_plain(console, f"Next:    add test rows{unused}" + (f"; how many: {gate}" if task else ""))
    elif result.verdict == "inferior":
        print_plain(console, f"Next:    {KEEP_BASELINE}")
    else:
        _show_uses(result, task, console)
    if ended := resumable(result):
        with suppress(ConfigError):  # the folder was moved, or is not whole
            print_plain(console, f"Resume:  {RunFolder.open(Path(result.run)).resuming_after(ended)}")


def _show_uses(result: Result, task: Path | None, console: Console) -> None:
    """Print how the candidates are used, unless they are the baseline: by commands, or for Python by calls."""
    chosen = uses(result)
    for number, (role, why) in enumerate(chosen.items()):
        file = str(Path(result.run) / f"{role}.yaml")
        serve = shlex.join(["agentopt", "serve", file])
        call = f"agentopt.load_candidate({file!r})"
        reason = f"  # {why}" if why else ""
        print_plain(console, f"{'' if number else 'Use it:':9}{serve if task else call}{reason}")
    if chosen and task:
        export = shlex.join(["agentopt", "export", str(Path(result.run) / f"{next(iter(chosen))}.yaml"), "--to"])
        print_plain(console, f"{'':9}{export} python  # or litellm, yaml")


def estimate_run(task: Path, settings: Sequence[str], console: Console, *, as_json: bool = False) -> None:
    """`agentopt optimize --dry-run`: the worst case, without a model call."""
    config = load_config(settings)
    loaded, specs = load_shown(task, config, stderr_console())
    found = estimates(LoadedTask(loaded, specs), config)
    config, space, worst, expected, times = found.config, found.space, found.worst, found.expected, found.times
    measured, trials, recorded = needs_measuring(loaded), found.trials, found.recorded
    of_caps = (
        found.answers,
        *cap_notes(worst, expected, config, space, has_answers=found.has_answers),
        *expected_usd(loaded, space, found.lengths),
        _rows_needed(config),
    )
    costs = (
        cost_note(loaded, specs),
        expected_unit_note(loaded, specs, recorded),
        costly_baseline(loaded, specs, recorded),
        unmet_limits_in(loaded, specs, recorded),
        *batch_notes(loaded, config, specs),
    )
    of_rows = (*row_notes(loaded), *power_notes(loaded), *costs)
    unset = unset_keys(specs.values())
    lacking = missing_note(name for name, spec in specs.items() if spec.weights)
    engine = f"Warning: {lacking}" if lacking else None
    keys = [f"Warning: {name} is not set; it has the API key of {', '.join(of)}" for name, of in unset.items()]
    lengths = [
        *([_lengths_are_measured(loaded)] if measured and space.measure == "units" else []),
        *found.lengths.notes(),
    ]
    columns = columns_of(loaded)
    if as_json:
        parts = {p: PartEstimate(getattr(worst, p), getattr(expected, p), times[p]) for p in PARTS}
        notes = _warnings_first(specs, _prompt_share(worst, config), *of_caps, engine, *of_rows, *lengths)
        missing = {name: tuple(of) for name, of in unset.items()}
        print_json(DryRun(trials, parts, worst.seconds, columns, missing, notes))
        return
    _show_columns(columns, console)
    unpriced = [name for name, spec in specs.items() if not spec.is_priced]
    _show_estimate(worst, trials, found.no_pace, _prompt_share(worst, config), unpriced, console)
    _show_expected(expected, times, unpriced, console)
    for note in _warnings_first(specs, *of_caps, *keys, engine, *of_rows, *lengths):
        print_plain(console, note)


def _warnings_first(names: Collection[str], *notes: str | None) -> tuple[str, ...]:
    """The notes as sentences; one that starts with one of the names of models, or with a setting, keeps it as it is."""
    shown = [
        note
        if (first := note.partition(" ")[0].rstrip(":")) in names or not first.isalpha()
        else note[0].upper() + note[1:]
        for note in filter(None, notes)
    ]
    return tuple(sorted(shown, key=lambda note: not note.startswith("Warning: ")))


def _lengths_are_measured(task: Task) -> str:
    taken = "affordable" if task.max_units is None else "within the cost limit"
    return (
        "Token lengths are measured on the baseline when the run begins. Until then every sample count is taken to "
        f"be {taken}; tokens: {{prompt: ..., completion: ...}} in each subtask narrows that."
    )


def _show_columns(columns: Iterable[Column], console: Console) -> None:
    table = Table()
    for heading in ("column", "use", "type", "missing", "labels"):
        table.add_column(heading, justify="right" if heading == "missing" else "left")
    for column in columns:
        labels = ", ".join(f"{label}: {count}" for label, count in (column.labels or {}).items())
        table.add_row(*map(escape, (column.name, column.use, column.kind, f"{column.missing:.0%}", labels)))
    console.print(titled("Columns of the data, over all splits", table))


def _show_estimate(
    worst: Estimate,
    trials: int,
    no_pace: str | None,
    prompt_share: str | None,
    unpriced: Collection[str],
    console: Console,
) -> None:
    title = f"Worst case for {counted(trials, 'trial')}, before caps; no model was called"
    table = Table()
    for column in ("part", "calls", "prompt tokens", "completion tokens", "USD"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part in PARTS:
        if part != "demos" or worst.demos.calls:
            usage = getattr(worst, part)
            *counts, usd = usage_cells(usage)
            table.add_row(part, *counts, "price unknown" if unpriced and usage.calls and not usage.usd else usd)
    console.print(titled(title, table))
    if prompt_share:
        console.print(prompt_share, markup=False)
    pace = "if each takes the mean latency of the slowest model in the journal"
    shown = f"about {format_duration(worst.seconds or 0)} for the calls of the worst case, {pace}"
    shown = f"unknown: {no_pace}" if no_pace else shown
    print_plain(console, f"Time: {shown}")
    console.print(
        "Trials share answers through the journal, so a run takes a fraction of this, and never more than its caps."
    )


def _show_expected(
    expected: ExpectedCase, times: Mapping[str, float | None], unpriced: Collection[str], console: Console
) -> None:
    heading = "Expected for random candidates, without early stopping and without the answers that trials share:"
    print_plain(console, heading)
    for part in PARTS:
        use, seconds = getattr(expected, part), times[part]
        time = "" if seconds is None else f", about {format_duration(seconds)}"
        if use.calls or part == "total":
            print_plain(console, f"  {part}: {counted(use.calls, 'call')}, {usd_in_words(use.usd, unpriced)}{time}")


def _rows_needed(config: Config) -> str | None:
    tolerance = config.search.tolerance
    if not 0 < tolerance < 1:
        return None
    return f"a difference of {tolerance:g} (search.tolerance) is detected with about {rows_to_detect(tolerance):,} rows"


def _prompt_share(worst: Estimate, config: Config) -> str | None:
    """What prompts use at most, with their share; None if they use nothing."""
    if not worst.least_races.calls:
        return None
    limits, prompts = worst.prompt_limits, worst.prompts
    units = {"calls": "calls", "tokens": "tokens", "usd": "USD"}
    parts = [
        f"{min(limit, getattr(prompts, name)):,.10g} {unit}"
        for name, unit in units.items()
        if (limit := getattr(limits, name)) is not None
    ]
    if limits.seconds is not None:
        parts.append(format_duration(limits.seconds))
    budget, at_most = config.budget, " and ".join(parts) or counted(prompts.calls, "call")
    of = "worst case" if budget.calls is budget.tokens is budget.usd is None else "caps"
    if caps := caps_for(worst.least_races, limits, config.prompts.share, worst.beside):
        # A cap that is not set need not be: its limit is a share of the worst case.
        larger = [cap for cap in caps if getattr(budget, cap.partition("=")[0].removeprefix("budget.")) is not None]
        return (
            f"Optimising the system prompts may be skipped: its worst case does not fit in prompts.share "
            f"({config.prompts.share:g} of the run's {of}); raise it"
            + (f", or set {' and '.join(larger)} or more" if larger else "")
        )
    return f"System prompts use at most {at_most} (prompts.share: {config.prompts.share:g} of the run's {of})."
