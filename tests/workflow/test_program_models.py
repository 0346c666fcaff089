"""A program's own model names, mapped to subtasks; and calls that fit none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from agentopt.api import aevaluate
from agentopt.core.errors import TaskError
from agentopt.core.task import Program
from agentopt.runs.config import Config
from agentopt.testing.toy import toy_model, toy_task

TOY = toy_task(validation=2, test=2)
MAPPED = {"gpt-4o-mini": "find", "openai/gpt-5.1": "answer"}


def program(*models: str) -> Any:
    """A program that calls two models, one after the other."""

    async def run(inputs: Any, endpoint: Any) -> str:
        async with AsyncOpenAI(**endpoint, max_retries=0) as client:

            async def call(model: str, text: str) -> str:
                done = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
                assert done.model == model
                return done.choices[0].message.content or ""

            key = await call(models[0], f"find|{inputs['number']}|")
            return await call(models[1], f"answer|{inputs['number']}|{key}")

    return run


def task(*models: str, **mapped: Any) -> Any:
    return replace(TOY, program=Program(function=program(*models), **mapped))


async def test_a_program_keeps_its_model_names(tmp_path: Path) -> None:
    config = Config(journal=str(tmp_path / "journal.db"))
    declared = await aevaluate(TOY, TOY.baseline, config, provider=toy_model())
    for models in (("gpt-4o-mini", "openai/gpt-5.1"), ("agentopt/find", "openai/gpt-5.1")):
        mapped = await aevaluate(task(*models, models=MAPPED), TOY.baseline, config, provider=toy_model())
        assert [(r.id, r.score, r.output) for r in mapped.results] == [
            (r.id, r.score, r.output) for r in declared.results
        ]


@pytest.mark.parametrize("model", ["gpt-4o", "find", "text-embedding-3-small"])
async def test_a_call_that_fits_no_subtask_is_reported_with_its_name_and_the_remedy(tmp_path: Path, model: str) -> None:
    config = Config(journal=str(tmp_path / "journal.db"))
    found = await aevaluate(task("gpt-4o-mini", model, models=MAPPED), TOY.baseline, config, provider=toy_model())
    assert len(found.errors) == 2
    for error in found.errors.values():
        assert f"`{model}` does not exist" in error
        assert f"by the `models` of the program: {{{model}: SUBTASK}}" in error


def test_a_name_must_be_mapped_to_a_subtask() -> None:
    with pytest.raises(TaskError, match=r"(?s)map 'gpt-4o' to a subtask, but got 'fnd'.*find"):
        task("a", "b", models={"gpt-4o": "fnd"})
