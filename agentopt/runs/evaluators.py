"""Makes the evaluators of a run: with direct calls, or with calls that wait in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from agentopt.core.cost import Unit
from agentopt.core.message_text import in_words, plain_number
from agentopt.core.task import Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.evaluation.judge import Judge
from agentopt.models.catalog import ModelSpec
from agentopt.models.charging import discounted
from agentopt.models.session import Session
from agentopt.runs.config import BatchUse, Config
from agentopt.search.from_task import cost_measure, needs_measuring, with_fitting_unit


class EvaluatorPool(Protocol):
    """Workers that run the examples of evaluations; `workers.pool.Pool` implements it."""

    def evaluator(self, task: Task, config: Config, session: Session, seed: int) -> Evaluator:
        """Return an evaluator whose examples the workers run.

        Args:
            task: The task.
            config: The settings.
            session: The models and the budget.
            seed: Seed of the responses.
        """
        ...


def _is_batched(task: Task, config: Config, use: BatchUse | None) -> bool:
    return use in config.batch and task.program is None


def priced_for(use: BatchUse, task: Task, config: Config, specs: Mapping[str, ModelSpec]) -> dict[str, ModelSpec]:
    """The entries with the prices that the candidates of an evaluation pay: those of batches, if it is batched.

    Args:
        use: What is evaluated.
        task: The task.
        config: The settings.
        specs: Catalogue name -> entry.
    """
    if not _is_batched(task, config, use):
        return dict(specs)
    return {name: discounted(spec, spec.batch.price) if spec.batch else spec for name, spec in specs.items()}


def batched_models(task: Task, config: Config, specs: Mapping[str, ModelSpec]) -> list[str]:
    """The models whose samples and fusions wait in batches, in some evaluation of a run.

    Args:
        task: The task.
        config: The settings.
        specs: Catalogue name -> entry.
    """
    is_batched = _is_batched(task, config, "trials") or _is_batched(task, config, "tests")
    return [name for name in task.models if specs[name].batch] if is_batched else []


def batch_note(task: Task, config: Config, specs: Mapping[str, ModelSpec]) -> str | None:
    """What of a batched run is called directly; None if nothing is, or nothing is batched.

    Args:
        task: The task.
        config: The settings.
        specs: Catalogue name -> entry.
    """
    if not config.batch:
        return None
    if task.program:
        return "`batch` has no effect: a program waits for its calls, which are made directly, at the full price"
    names = [name for name in task.models if specs[name].batch is None]
    if not names:
        return None
    lacking = f"{in_words(names)} {'has' if len(names) == 1 else 'have'} no `batch` in the catalogue"
    able = [name for name in names if specs[name].is_batchable]
    remedy = f"; if there is a batch interface, add `batch: {{price: 0.5}}` to {in_words(able)}" if able else ""
    return f"{lacking}, so calls are made directly, at the full price{remedy}"


def batched_note(task: Task, config: Config, specs: Mapping[str, ModelSpec]) -> str | None:
    """What of a run goes in batches, and what beside it is called directly; None if nothing is batched.

    Args:
        task: The task.
        config: The settings.
        specs: Catalogue name -> entry.
    """
    if not (batched := batched_models(task, config, specs)):
        return None
    uses = in_words(use for use in ("trials", "tests") if use in config.batch)
    beside = in_words(_direct_callers(task, config))
    direct = f"; called directly, at the full price: {beside}" if beside else ""
    return f"In batches, at their price: samples and fusions of {in_words(batched)} in the {uses}{direct}"


def batch_notes(task: Task, config: Config, specs: Mapping[str, ModelSpec]) -> tuple[str, ...]:
    """What of a run goes in batches, what does not, and that a limit in seconds cannot be checked.

    Args:
        task: The task.
        config: The settings.
        specs: Catalogue name -> entry.
    """
    notes = (batched_note(task, config, specs), batch_note(task, config, specs), _unknown_latency(task, config, specs))
    return tuple(filter(None, notes))


def _unknown_latency(task: Task, config: Config, specs: Mapping[str, ModelSpec]) -> str | None:
    batched = batched_models(task, config, specs)
    in_seconds = task.max_seconds is not None or cost_measure(task, specs) == "seconds"
    if not batched or not in_seconds or "trials" not in config.batch:
        return None
    limit = (
        "costs in seconds are" if task.max_seconds is None else f"cost.max_seconds={plain_number(task.max_seconds)} is"
    )
    why = f"answers of {in_words(batched)} from batches have no latency"
    return f"Warning: {limit} not checked: {why}; use batch=false, or batch=[tests], to measure it"


def _direct_callers(task: Task, config: Config) -> Iterator[str]:
    if isinstance(task.scorer, Judge):
        yield f"the judge ({task.scorer.model})"
    if config.calls_model and config.agent.model:
        yield f"the agent ({config.agent.model})"
    if config.prompts.when != "never" and len(task.splits.get("train", ())) > 1:
        yield "prompt optimisation"
    if "tests" not in config.batch or "trials" not in config.batch:
        yield "trials" if "tests" in config.batch else "tests"


def open_evaluator(
    task: Task,
    config: Config,
    session: Session,
    use: BatchUse | None = None,
    *,
    seed: int | None = None,
    pool: EvaluatorPool | None = None,
) -> Evaluator:
    """Return an evaluator with the settings of a run.

    Args:
        task: The task. The calls of a program are never batched: its client waits for them.
        config: The settings; `batch` names what is batched.
        session: The models.
        use: What is evaluated; None for direct calls.
        seed: Seed of the responses; `response_seed` unless given.
        pool: Workers that run the examples, unless they are batched.
    """
    seed = config.response_seed if seed is None else seed
    is_batched = _is_batched(task, config, use)
    if pool and not is_batched:
        return pool.evaluator(task, config, session, seed)
    return Evaluator(
        task,
        session.batched if is_batched else session.model,
        session.specs,
        seed=seed,
        failed_examples=config.failed_examples,
        in_waves=is_batched,
    )


async def unit_of_run(task: Task, specs: Mapping[str, ModelSpec], evaluator: Evaluator) -> Unit:
    """Return the unit that a run of the task has its costs in: `with_fitting_unit` of the baseline.

    Args:
        task: The task.
        specs: Catalogue name -> entry.
        evaluator: Evaluates the baseline, if the token lengths have to be measured.
    """
    if cost_measure(task, specs) != "units" or not needs_measuring(task):
        return task.unit
    return with_fitting_unit(task, specs, await evaluator.evaluate(task.baseline)).unit
