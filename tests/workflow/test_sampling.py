"""The measured cost of a subtask's responses."""

from __future__ import annotations

from dataclasses import replace

from agentopt.core.candidate import SubtaskChoice
from agentopt.core.cost import Unit
from agentopt.models.catalog import Catalog
from agentopt.testing.toy import LARGE, toy_model, toy_task
from agentopt.workflow.sampling import SubtaskSampler


async def test_a_pass_that_is_smaller_than_the_unit_costs_nothing_and_never_less() -> None:
    task, catalog = toy_task(), Catalog.load()
    example = task.splits["validation"][0]
    choice, prompt = SubtaskChoice(LARGE, 1, ""), f"find|{example.id}|"
    sampler = SubtaskSampler(toy_model(), catalog, replace(Unit(), prompt_tokens=1e6))
    assert (await sampler.answer(task["find"], choice, prompt, example.inputs)).use.units == 0
    charged = replace(sampler, unit=Unit(1e6, 1, 1))
    assert (await charged.answer(task["find"], choice, prompt, example.inputs)).use.units > 0
