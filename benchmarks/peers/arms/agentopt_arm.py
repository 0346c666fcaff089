"""agentopt: `optimize` with one model, one sample and no test split, so that only the system prompt is searched.

The defaults, but for three settings: the model that writes prompts is the task's model, the prompts may use the whole
cap (`prompts.share`; there is nothing else to spend it on), and there are two trials, the seed prompt and the better
one. With the option `demos`, the search also tries so many demonstrations: then prompts use the default share of the
cap, and there is a third trial.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agentopt.api import aoptimize
from agentopt.core.cost import Unit
from agentopt.core.demos import Demos
from agentopt.core.records import Score
from agentopt.core.task import Example, Subtask, Task, TokenLengths
from agentopt.models.catalog import ModelSpec, Supports
from agentopt.prompts.settings import PromptSettings
from agentopt.runs.config import BudgetConfig, Config
from agentopt.runs.result import Result
from benchmarks.peers.protocol import Arm, Prompt, Row, start

CONTEXT_LENGTH = 8192
LENGTHS = Unit(parameters=1e9, prompt_tokens=32, completion_tokens=8)
"""Costs do not matter: there is one allocation."""


def task_of(arm: Arm) -> Task:
    """The job as a task; its scorer calls the endpoint, like that of every arm."""
    job = arm.job

    async def scored(example: Example, output: str | None) -> Score:
        return Score(*await asyncio.to_thread(arm.score, example.id, output or ""))

    subtask = Subtask(
        name="answer",
        render=lambda inputs, outputs: str(inputs["question"]),
        models=(job.model,),
        system_prompt=job.seed_prompt,
        num_samples=(1,),
        max_tokens=job.max_tokens,
        temperature=job.temperature,
        stop=job.stop,
        tokens=TokenLengths(LENGTHS.prompt_tokens, LENGTHS.completion_tokens),
        demos=Demos((0, demos_of(arm))) if demos_of(arm) else None,
    )
    splits = {"train": examples(job.train), "validation": examples(job.validation)}
    return Task("questions", (subtask,), scored, splits, unit=LENGTHS)  # type: ignore[arg-type]


def demos_of(arm: Arm) -> int:
    """Demonstrations to try beside none; 0 if the arm has none."""
    return int(arm.job.options.get("demos", 0))


def examples(rows: Sequence[Row]) -> tuple[Example, ...]:
    return tuple(Example(row.id, {"question": row.question}, row.answer) for row in rows)


def config_of(arm: Arm, folder: Path) -> Config:
    job, demos = arm.job, demos_of(arm)
    spec = ModelSpec(
        name=job.model,
        base_url=job.base_url,
        parameters=LENGTHS.parameters,
        price="free",
        context_length=CONTEXT_LENGTH,
        concurrency=4,
        json_schema=True,
        supports=Supports(seed=True, n=False),
        timeout_seconds=900,
    )
    return Config(
        strategy="random",
        seed=job.seed,
        response_seed=job.seed,
        budget=BudgetConfig(calls=job.calls, trials=3 if demos else 2),
        prompts=PromptSettings(model=job.model, **({} if demos else {"share": 1.0})),
        models=(spec,),
        journal=str(folder / "journal.db"),
        runs=folder / "runs",
    )


def report(arm: Arm, result: Result) -> None:
    (best,) = (finalist for finalist in result.finalists if "best" in finalist.roles)
    notes = "; ".join(phase.outcome for phase in result.prompts)
    choice = best.candidate["answer"]
    shown = tuple((demo.prompt, demo.response) for demo in choice.demos)
    arm.report(Prompt(choice.system_prompt, shown), best.validation.score, notes)


async def main() -> None:
    arm = start()
    with tempfile.TemporaryDirectory() as folder:
        report(arm, await aoptimize(task_of(arm), config_of(arm, Path(folder))))


if __name__ == "__main__":
    asyncio.run(main())
