"""Makes the evaluators of a run: with direct calls, or with calls that wait in batches."""

from __future__ import annotations

from agentopt.core.task import Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.session import Session
from agentopt.runs.config import BatchUse, Config


def open_evaluator(
    task: Task, config: Config, session: Session, use: BatchUse | None = None, *, seed: int | None = None
) -> Evaluator:
    """Return an evaluator with the settings of a run.

    Args:
        task: The task. The calls of a program are never batched: its client waits for them.
        config: The settings; `batch` names what is batched.
        session: The models.
        use: What is evaluated; None for direct calls.
        seed: Seed of the responses; `response_seed` unless given.
    """
    is_batched = use in config.batch and task.program is None
    return Evaluator(
        task,
        session.batched if is_batched else session.model,
        session.specs,
        seed=config.response_seed if seed is None else seed,
        failed_examples=config.failed_examples,
        in_waves=is_batched,
    )
