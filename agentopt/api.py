"""The functions `optimize`, `evaluate` and `diagnose`, and their async twins."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial, wraps
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

from agentopt.core.budget import Usage
from agentopt.core.candidate import Candidate
from agentopt.core.errors import BudgetExceeded, TaskError, UserError
from agentopt.core.events import ExampleDone, FileProgress, JournalUsed, Note
from agentopt.core.observers import Observer, broadcast, closing, log_to, of_callbacks
from agentopt.core.records import Evaluation, Split
from agentopt.core.row_notes import row_notes
from agentopt.core.task import Task
from agentopt.core.task_rules import SPLITS
from agentopt.core.yaml_models import did_you_mean, shown
from agentopt.evaluation.candidate_check import candidate_notes, checked_candidate
from agentopt.evaluation.judge import Judge
from agentopt.models.base import ChatModel
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.effort import check_efforts
from agentopt.models.router import ModelRouter, connect
from agentopt.models.session import open_session, spend_reported
from agentopt.prompts.diagnosis import Diagnosis
from agentopt.runs.agent_model import with_agent_model
from agentopt.runs.arguments import as_candidate, as_candidates, as_config, as_run, check_provider
from agentopt.runs.config import Config
from agentopt.runs.demonstrations import demonstrations_of
from agentopt.runs.ending import ending_once
from agentopt.runs.evaluators import batch_note, open_evaluator
from agentopt.runs.folder import RunFolder
from agentopt.runs.heartbeat import Heartbeat
from agentopt.runs.optimization import Optimization
from agentopt.runs.prompt_phase import pilot_subtasks, prompted_subtasks, run_diagnosis
from agentopt.runs.response_issues import IncompleteWarnings
from agentopt.runs.result import Result
from agentopt.runs.run_lease import discard, holding
from agentopt.runs.run_store import open_store
from agentopt.runs.strategies import check_search_settings
from agentopt.runs.studies import has_study
from agentopt.runs.trial_store import recorded_evaluations
from agentopt.runs.workers.pool import check_engine, open_run
from agentopt.runs.worst_case import estimate_diagnosis, usage_of_candidate
from agentopt.search.base import Search, Strategy
from agentopt.search.built_in import CUSTOM, as_search
from agentopt.search.from_task import check_costs
from agentopt.taskfile.lines import Progress, no_progress
from agentopt.taskfile.loading import load_task
from agentopt.workflow.base import MAX_REPEATS

P = ParamSpec("P")
R = TypeVar("R")


class LoadedTask(NamedTuple):
    """A task, and the catalogue entry of every model that may be called for it. `load` returns it."""

    task: Task
    specs: Mapping[str, ModelSpec]


TaskSource = Task | LoadedTask | Path | str
"""A task folder or task file, a task built in Python, or what `load` returned."""


async def aoptimize(
    task: TaskSource,
    config: Config | None = None,
    *,
    strategy: Strategy | Search | None = None,
    callbacks: Sequence[Observer] = (),
    resume: RunFolder | Path | str | None = None,
    warm_start: Sequence[Candidate | Path | str] = (),
    provider: ChatModel | None = None,
) -> Result:
    """Search the task's models, sample counts and prompts within the budget, and test the best candidate.

    The run's folder, under `config.runs`, holds the trials, the log and the result.

    Args:
        task: A task folder, or a `Task`. Its Python files are executed once.
        config: The settings of the run. Default: those of the resumed run, or the defaults.
        strategy: An object that proposes the candidates, or that runs the whole search. Default: `config.strategy`.
        callbacks: Functions that receive every event of the run, see `agentopt.events`; trackers are closed at its end.
        resume: The folder of a run to resume. Its trials are kept; calls that were answered are not paid again.
        warm_start: Candidates, or paths of their files, to try right after the baseline, such as those that earlier
            runs found. A resumed run keeps those that it was started with.
        provider: Makes the model calls in place of the catalogue's transports.

    Returns:
        The result, which is also written to the run's folder.

    Raises:
        UserError: The request breaks a rule. Raised before anything is spent.
        NothingEvaluated: No candidate was evaluated on every example.
        CallbackError: A callback failed.
    """
    opened = as_run(resume, config)
    config, archive = as_config(config, opened), as_candidates(warm_start)
    search = None if strategy is None else as_search(strategy)
    check_provider(provider)
    observe = of_callbacks(callbacks)
    config = config.model_copy(update={"strategy": CUSTOM}) if search else config
    loaded, specs = load(task, config)
    check_costs(loaded, specs)
    config = with_agent_model(config, loaded, specs)
    if not search:
        check_search_settings(loaded, config)
    prompted_subtasks(loaded, config)
    check_engine(config, loaded, provider)
    _check_split(loaded, "validation")
    if opened:
        opened = opened.resumed_with(loaded, config)
        demonstrations_of(opened), recorded_evaluations(opened.trials)  # a damaged file is reported before any change
    # Before the folder exists: a missing key leaves none behind.
    models = provider or model_router(specs, observe, required_models(loaded))
    if config.storage:
        with open_store(config.storage):
            pass  # a storage that cannot be used leaves no folder behind
    is_first = not config.runs.exists()
    run = opened or RunFolder.create(loaded, config, archive)
    try:
        async with ending_once(observe), holding(run) as hold:
            run.save()
            logged = Heartbeat(broadcast(log_to(run.log), hold, observe))
            opening = open_run(run.id, loaded, config, specs, models, logged)
            async with closing(callbacks), opening as (session, pool), logged.beating(session.budget):
                watched = IncompleteWarnings(loaded, logged)
                return await Optimization(loaded, config, run, session, watched, hold, search, pool).result()
    except UserError:
        if not opened and not has_study(run.trials):
            discard(run, is_first=is_first)  # resuming it would meet the same mistake; the journal keeps the responses
            observe(Note(f"removed {run.path}, which has no trial"))
        raise


async def aevaluate(
    task: TaskSource,
    candidate: Candidate | Path | str | None = None,
    config: Config | None = None,
    *,
    split: Split = "test",
    callbacks: Sequence[Observer] = (),
    provider: ChatModel | None = None,
    fresh: bool = False,
    repeats: int = 1,
) -> Evaluation:
    """Score a candidate on one split of the task.

    Args:
        task: A task folder, or a `Task`.
        candidate: The candidate, or the path of its file, such as `best.yaml`. Default: the baseline.
        config: Settings; only the budget, the journal, the models, the seeds and `batch` have an effect.
        split: `train`, `validation` or `test`.
        callbacks: Functions that receive every event, see `agentopt.events`.
        provider: Makes the model calls in place of the catalogue's transports.
        fresh: Request every response anew; the new ones replace those in the journal. Otherwise responses in the
            journal are used, and a `JournalUsed` event reports how many, and when they were stored.
        repeats: Number of independent repeats of every example, each with new responses; the score is their mean.
            Repeats that are in the journal are not requested again.

    Raises:
        UserError: `repeats` is out of its range.
        TaskError: The task does not have the split.
        CandidateError: The candidate does not fit the task.
        BudgetExceeded: A cap is reached.
    """
    config, given = as_config(config), None if candidate is None else as_candidate(candidate)
    check_provider(provider)
    observed = of_callbacks(callbacks)
    loaded, specs = load(task, config, agent=False)
    _check_split(loaded, split)
    check_repeats(repeats)
    chosen = checked_candidate(given or loaded.baseline, loaded)
    caps, run = config.budget.caps(), f"evaluate {loaded.name} {uuid.uuid4().hex}"
    observe = IncompleteWarnings(loaded, observed)
    of_batch = batch_note(loaded, config, specs) if "tests" in config.batch else None
    for note in filter(None, (*row_notes(loaded), *candidate_notes(chosen, loaded, specs), of_batch)):
        observe(Note(note))
    models = provider or model_router(specs, observe, required_models(loaded))
    opening = open_session(
        specs, run, caps=caps, journal=config.journal, provider=models, observer=observe, fresh=fresh
    )
    async with ending_once(observe), spend_reported(opening, observe) as session:
        evaluator = open_evaluator(loaded, config, session, "tests")
        try:
            evaluation = await evaluator.evaluate_repeatedly(
                chosen, split, repeats, on_result=lambda result: observe(ExampleDone(result))
            )
        except BudgetExceeded as error:
            most = usage_of_candidate(loaded, specs, chosen, loaded.splits[split]) * repeats
            raise error.within(getattr(most, error.name, 0.0)) from error
        used = session.cache_use
        if used.oldest is not None and used.newest is not None:
            oldest, newest = (datetime.fromtimestamp(stored, UTC) for stored in (used.oldest, used.newest))
            observe(JournalUsed(used.responses, oldest, newest))
    return evaluation


async def adiagnose(
    task: TaskSource,
    config: Config | None = None,
    *,
    subtask: str | None = None,
    candidate: Candidate | Path | str | None = None,
    callbacks: Sequence[Observer] = (),
    provider: ChatModel | None = None,
) -> list[Diagnosis]:
    """Run the p1 pilot on the train split: is a better system prompt worth searching, and on which user prompts?

    Args:
        task: A task folder, or a `Task`.
        config: Settings of the pilot, under `prompts`, and its budget.
        subtask: The subtask to diagnose. Default: each of them.
        candidate: Fixes the models and the other prompts; a candidate or the path of its file. Default: the baseline.
        callbacks: Functions that receive every event, see `agentopt.events`.
        provider: Makes the model calls in place of the catalogue's transports.

    Returns:
        One diagnosis for each subtask.

    Raises:
        UserError: The task has no train split of two or more examples, or no such subtask.
        BudgetExceeded: A cap is reached.
        AgentoptError: Too many calls failed.
    """
    config, given = as_config(config), None if candidate is None else as_candidate(candidate)
    check_provider(provider)
    observe = of_callbacks(callbacks)
    loaded, specs = load(task, config)
    config = with_agent_model(config, loaded, specs)
    chosen = checked_candidate(given or loaded.baseline, loaded)
    subtasks = pilot_subtasks(loaded, config, subtask, chosen)
    caps, run = config.budget.caps(), f"diagnose {loaded.name} {uuid.uuid4().hex}"
    models = provider or model_router(specs, observe, required_models(loaded))
    opening = open_session(
        specs,
        run,
        caps=caps,
        purpose_caps=config.purpose_caps(),
        journal=config.journal,
        provider=models,
        observer=observe,
    )
    async with ending_once(observe), opening as session:
        evaluator = open_evaluator(loaded, config, session)
        try:
            return [await run_diagnosis(loaded, config, session, evaluator, chosen, name, observe) for name in subtasks]
        except BudgetExceeded as error:
            parts = (estimate_diagnosis(loaded, specs, config, chosen, name) for name in subtasks)
            most = sum((responses + writing for responses, writing in parts), Usage())
            raise error.within(getattr(most, error.name, 0.0)) from error


def _blocking(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """The twin of an async function, named without its `a`. It blocks, also inside a running event loop."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            runner: Callable[[Coroutine[Any, Any, R]], R] = asyncio.run
        else:
            runner = _run_in_thread
        return runner(function(*args, **kwargs))  # outside the handler, whose exception would precede every other

    run.__name__ = run.__qualname__ = function.__name__.removeprefix("a")
    return run


def _run_in_thread(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run `coroutine` in an event loop of a new thread, and wait for it. Ctrl-C cancels it, and waits for its end."""
    started, outcome = Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]](), Future[R]()

    async def main() -> R:
        task = asyncio.current_task()
        assert task
        started.set_result((task.get_loop(), task))
        return await coroutine

    def run() -> None:
        try:
            outcome.set_result(asyncio.run(main()))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            outcome.set_exception(error)

    thread = threading.Thread(target=copy_context().run, args=(run,), name="agentopt")
    thread.start()
    try:
        return outcome.result()
    except KeyboardInterrupt:
        loop, task = started.result()
        with suppress(RuntimeError):  # the loop is closed: it ended meanwhile
            loop.call_soon_threadsafe(task.cancel)
        raise
    finally:
        thread.join()


optimize = _blocking(aoptimize)
"""`aoptimize`, for code that is not async."""

evaluate = _blocking(aevaluate)
"""`aevaluate`, for code that is not async."""

diagnose = _blocking(adiagnose)
"""`adiagnose`, for code that is not async."""


def model_router(specs: Mapping[str, ModelSpec], observer: Observer, required: Collection[str]) -> ModelRouter:
    """The catalogue's transports; the observer receives an event for each tenth of a file that is downloaded.

    The keys of models that are not `required` are checked on their first call: a run can do without an agent.

    Args:
        specs: Catalogue name -> entry.
        observer: Receives the progress of downloads.
        required: Names of the models whose keys are checked now.

    Raises:
        CatalogError: The environment variable of a model's key is not set.
    """
    loop, reported = asyncio.get_running_loop(), set[tuple[str, int]]()

    def report(progress: FileProgress) -> None:  # called in the thread that downloads
        done, total = progress.done_bytes, progress.total_bytes or progress.done_bytes or 1
        tenth = (progress.file, 10 * done // total)
        if tenth not in reported:
            reported.add(tenth)
            loop.call_soon_threadsafe(observer, progress)

    optional = specs.keys() - set(required)
    return ModelRouter(specs, partial(connect, progress=report), optional=optional)


def load(task: TaskSource, config: Config, *, agent: bool = True, progress: Progress = no_progress) -> LoadedTask:
    """Load a task, and the catalogue entry of every model that may be called for it.

    Args:
        task: The task. A `LoadedTask` is returned as it is, and nothing is read.
        config: Names the catalogue files, and the keys of the task file to override.
        agent: Whether the models of the search agent and of the prompt writer are needed too.
        progress: Called with (bytes read, bytes in all) while a large data file is read.

    Raises:
        UserError: The task or the catalogue breaks a rule, or a model is not in the catalogue.
    """
    if isinstance(task, LoadedTask):
        return task
    if not isinstance(task, Task | str | PathLike):
        rule = f"`task` must be a Task or the path of a task folder, but got {shown(task)}"
        raise TaskError(rule, remedy='write Task(...), or pass a path such as "task"')
    catalog = Catalog.load(*config.models)
    read = partial(load_task, catalog=catalog, overrides=config.task, progress=progress)
    loaded = task if isinstance(task, Task) else read(task)
    config = with_agent_model(config, loaded, catalog)
    names = required_models(loaded)
    if agent and config.calls_model and config.agent.model:
        names.append(config.agent.model)
    if agent and config.writer:
        names.append(config.writer)
    specs = {name: catalog[name] for name in dict.fromkeys(names)}
    check_efforts(loaded, specs, "subtasks")  # of a task in Python; those of a file are checked when it is read
    return LoadedTask(loaded, specs)


def required_models(task: Task) -> list[str]:
    """The models without which the task cannot be run: those of its subtasks, and its judge."""
    return [*task.models, *([task.scorer.model] if isinstance(task.scorer, Judge) else [])]


def check_repeats(repeats: int) -> None:
    """Raise `UserError` unless the number of repeats is within its range."""
    if type(repeats) is not int or not 1 <= repeats <= MAX_REPEATS:
        rule = f"`repeats` must be a whole number from 1 to {MAX_REPEATS}, but got {shown(repeats)}"
        raise UserError(rule, remedy="pass 5 for a first estimate of the noise of responses")


def _check_split(task: Task, split: Split) -> None:
    if split not in SPLITS:
        rule = f"`split` must be one of {', '.join(SPLITS)}, but got {shown(split)}"
        raise TaskError(rule, remedy=did_you_mean(str(split), SPLITS, "use one of these"))
    if not task.splits.get(split):
        rule = f"a {split} split is needed, but the task has {' and '.join(task.splits) or 'no split'}"
        raise TaskError(rule, where=f"task {task.name}", remedy=f"add examples to the {split} split")
