"""The front door: `optimize`, `evaluate`, `diagnose` and their async twins."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from agentopt.core.candidate import Candidate
from agentopt.core.errors import TaskError, UserError
from agentopt.core.events import Event, ExampleDone, FileProgress, Observer, broadcast, log_to
from agentopt.core.records import Evaluation, Split
from agentopt.core.task import Task
from agentopt.evaluation.evaluator import Evaluator, check_candidate
from agentopt.evaluation.scorers import Judge
from agentopt.models.base import ChatModel
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.router import ModelRouter, connect
from agentopt.models.session import open_session
from agentopt.prompts.diagnosis import Diagnosis
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.runs.optimization import Optimization
from agentopt.runs.prompt_phase import pilot_subtasks, prompted_subtasks, run_diagnosis
from agentopt.runs.result import Result
from agentopt.runs.strategies import check_search_settings
from agentopt.taskfile.loading import load_task

P = ParamSpec("P")
R = TypeVar("R")


def ignore(_: Event) -> None:
    """The observer of those who do not want one."""


async def aoptimize(
    task: Task | Path | str,
    config: Config | None = None,
    *,
    resume: Path | None = None,
    warm_start: Sequence[Candidate] = (),
    provider: ChatModel | None = None,
    observer: Observer = ignore,
) -> Result:
    """Search the task's models and sample counts within the budget, and test what was found.

    `task` is a task folder or a `Task`. `resume` is the folder of a run to go on with; its configuration is used
    unless another is given. `warm_start` are candidates to try right after the baseline, such as those that earlier
    runs found; a run that is resumed keeps its own. `provider` makes the model calls in place of the catalogue's
    transports. The run's folder keeps the trials, the log and the result.

    Raises `UserError` for what is wrong with the request, before anything is spent; `AgentoptError` when no
    candidate could be evaluated.
    """
    opened = RunFolder.open(resume) if resume else None
    config = config or (opened.config if opened else Config())
    loaded, specs = load(task, config)
    check_search_settings(config)  # this and a wrong name are told before anything is spent
    prompted_subtasks(loaded, config)
    _check_split(loaded, "validation")
    if opened:
        opened = opened.going_on_with(loaded, config)
    # Before there is a run folder: a key that is missing is told without a trace.
    models = provider or model_router(specs, observer)
    run = opened or RunFolder.create(loaded, None if isinstance(task, Task) else Path(task), config, warm_start)
    caps, purpose_caps = config.budget.caps(), config.purpose_caps()
    try:
        with run.locked():
            run.save()
            async with open_session(
                specs, run.id, caps=caps, purpose_caps=purpose_caps, journal=config.journal, provider=models
            ) as session:
                return await Optimization(loaded, config, run, session, broadcast(log_to(run.log), observer)).result()
    except UserError:
        if not opened and not run.trials.exists():
            run.discard()  # going on with it would meet the same mistake; what was answered is in the journal
        raise


async def aevaluate(
    task: Task | Path | str,
    candidate: Candidate | None = None,
    config: Config | None = None,
    *,
    split: Split = "test",
    provider: ChatModel | None = None,
    observer: Observer = ignore,
) -> Evaluation:
    """Score `candidate` (the baseline unless given) on one split of the task.

    Raises `TaskError` for a split that the task does not have, `CandidateError` when the candidate is of another task,
    `BudgetExceeded` when a cap is reached.
    """
    config = config or Config()
    loaded, specs = load(task, config, agent=False)
    _check_split(loaded, split)
    chosen = candidate or loaded.baseline
    check_candidate(chosen, loaded)
    caps, run = config.budget.caps(), f"evaluate {loaded.name} {uuid.uuid4().hex}"
    models = provider or model_router(specs, observer)
    async with open_session(specs, run, caps=caps, journal=config.journal, provider=models) as session:
        evaluator = Evaluator(loaded, session.model, specs, seed=config.response_seed)
        return await evaluator.evaluate(
            chosen,
            split,
            on_result=lambda result: observer(ExampleDone(result)),
        )


async def adiagnose(
    task: Task | Path | str,
    config: Config | None = None,
    *,
    subtask: str | None = None,
    candidate: Candidate | None = None,
    provider: ChatModel | None = None,
    observer: Observer = ignore,
) -> list[Diagnosis]:
    """The p1 pilot of one subtask, or of each, on the train split; nothing is optimised.

    `candidate` (the baseline unless given) fixes the models and the other prompts. Raises `UserError` for a task
    without a train split or a subtask that it does not have, `BudgetExceeded` when a cap is reached, `AgentoptError`
    when too many calls failed.
    """
    config = config or Config()
    loaded, specs = load(task, config)
    chosen = candidate or loaded.baseline
    check_candidate(chosen, loaded)
    wanted = pilot_subtasks(loaded, config, subtask)
    caps, run = config.budget.caps(), f"diagnose {loaded.name} {uuid.uuid4().hex}"
    models = provider or model_router(specs, observer)
    async with open_session(
        specs, run, caps=caps, purpose_caps=config.purpose_caps(), journal=config.journal, provider=models
    ) as session:
        evaluator = Evaluator(loaded, session.model, specs, seed=config.response_seed)
        return [await run_diagnosis(loaded, config, session, evaluator, chosen, name, observer) for name in wanted]


def _blocking(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """The twin of an async function, called the same without its `a`: it runs in an event loop of its own."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return asyncio.run(function(*args, **kwargs))

    run.__name__ = run.__qualname__ = function.__name__.removeprefix("a")
    return run


optimize = _blocking(aoptimize)
"""`aoptimize`, for code that is not async."""

evaluate = _blocking(aevaluate)
"""`aevaluate`, for code that is not async."""

diagnose = _blocking(adiagnose)
"""`adiagnose`, for code that is not async."""


def model_router(specs: Mapping[str, ModelSpec], observer: Observer) -> ModelRouter:
    """The catalogue's transports; the observer receives an event for each tenth of a file that is downloaded.

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

    return ModelRouter(specs, partial(connect, progress=report))


def load(task: Task | Path | str, config: Config, *, agent: bool = True) -> tuple[Task, Mapping[str, ModelSpec]]:
    """The task, and the catalogue entry of every model that the run may call; the agent's only where `agent`.

    Raises `UserError`.
    """
    catalog = Catalog.load(*config.models)
    loaded = task if isinstance(task, Task) else load_task(task, catalog=catalog, overrides=config.task)
    names = list(loaded.models)
    if agent and config.asks_a_model and config.agent.model:
        names.append(config.agent.model)
    if agent and config.writer:
        names.append(config.writer)
    if isinstance(loaded.scorer, Judge):
        names.append(loaded.scorer.model)
    return loaded, {name: catalog[name] for name in dict.fromkeys(names)}


def _check_split(task: Task, split: Split) -> None:
    if not task.splits.get(split):
        rule = f"a {split} split is needed, but the task has {' and '.join(task.splits) or 'no split'}"
        raise TaskError(rule, where=f"task {task.name}", remedy=f"add examples to the {split} split")
