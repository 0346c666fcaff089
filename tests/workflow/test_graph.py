"""The workflow calls each subtask once, in the order of the DAG, and reports clearly if it cannot."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest

from agentopt.core.errors import PermanentModelError, ScorerError, TaskError, TransientModelError
from agentopt.core.records import Answer, SubtaskUse
from agentopt.core.task import Example, Subtask, Task
from agentopt.evaluation.scorers import exact_match
from agentopt.workflow.base import Prompt
from agentopt.workflow.graph import SubtaskGraph
from agentopt.workflow.templates import compile_template

EXAMPLE = Example("e7", {"question": "Who?"}, "Kell")


def subtask(name: str, prompt: str = "{{ inputs.question }}", *reads: str, **settings: Any) -> Subtask:
    return Subtask(name, compile_template(prompt).render, ("m",), reads=reads, **settings)


def task(*subtasks: Subtask, **settings: Any) -> Task:
    return Task("t", subtasks, exact_match(), {"validation": (EXAMPLE,)}, **settings)


CHAIN = task(subtask("find"), subtask("answer", "{{ inputs.question }} {{ find.output }}", "find"))
DIAMOND = task(
    subtask("top"),
    subtask("left", "{{ top.output }}l", "top"),
    subtask("right", "{{ top.output }}r", "top"),
    subtask("join", "{{ left.output }}+{{ right.output }}", "left", "right"),
)


class RecordedCalls:
    """Answers with the subtask's name after the prompt, or with its entry in `answers`, and records the prompts."""

    def __init__(self, answers: Mapping[str, Any] | None = None) -> None:
        self.prompts: dict[str, Prompt] = {}
        self._answers = answers or {}

    async def __call__(self, subtask: Subtask, prompt: Prompt, /, *, occurrence: int = 0) -> Answer:
        self.prompts[subtask.name] = prompt
        await asyncio.sleep(0)
        value = self._answers.get(subtask.name, f"{prompt}.{subtask.name}")
        if isinstance(value, Exception):
            raise value
        note = f"{subtask.name}: nothing parsable" if value is None else ""
        return Answer(value, SubtaskUse(prompt_tokens=len(subtask.name)), note)


async def test_a_later_subtask_reads_the_output_of_an_earlier_one() -> None:
    result = await SubtaskGraph(CHAIN).run(EXAMPLE, RecordedCalls())
    assert result.outputs == {"find": "Who?.find", "answer": "Who? Who?.find.answer"}
    assert result.output == "Who? Who?.find.answer"
    assert {name: use.prompt_tokens for name, use in result.uses.items()} == {"find": 4, "answer": 6}
    assert result.note == ""


async def test_the_named_output_is_scored() -> None:
    both = task(*CHAIN.subtasks, output="find")
    assert (await SubtaskGraph(both).run(EXAMPLE, RecordedCalls())).output == "Who?.find"


async def test_outputs_keep_the_tasks_order_and_a_join_waits_for_both_branches() -> None:
    result = await SubtaskGraph(DIAMOND).run(EXAMPLE, RecordedCalls())
    assert list(result.outputs) == ["top", "left", "right", "join"]
    assert result.output == "Who?.topl.left+Who?.topr.right.join"


async def test_subtasks_that_do_not_read_each_other_are_called_concurrently() -> None:
    both_asked = asyncio.Barrier(2)

    async def answer(subtask: Subtask, prompt: Prompt, /, *, occurrence: int = 0) -> Answer:
        if subtask.name in {"left", "right"}:
            await asyncio.wait_for(both_asked.wait(), 5)
        return Answer("x", SubtaskUse())

    assert (await SubtaskGraph(DIAMOND).run(EXAMPLE, answer)).output == "x"


async def test_after_a_missing_value_no_reader_is_called_and_the_output_is_missing() -> None:
    calls = RecordedCalls({"left": None})
    result = await SubtaskGraph(DIAMOND).run(EXAMPLE, calls)
    assert set(calls.prompts) == {"top", "left", "right"}
    assert result.output is None
    assert result.outputs["right"] is not None
    assert set(result.uses) == {"top", "left", "right"}
    assert result.note == "left: nothing parsable"


@pytest.mark.parametrize("empty", [0, "", [], False])
async def test_an_empty_value_is_a_value(empty: Any) -> None:
    calls = RecordedCalls({"find": empty})
    result = await SubtaskGraph(CHAIN).run(EXAMPLE, calls)
    assert set(calls.prompts) == {"find", "answer"}
    assert result.outputs["find"] == empty


async def test_a_failure_is_raised_as_it_is_with_its_cause_and_cancels_the_rest() -> None:
    cancelled = asyncio.Event()
    failure = TransientModelError("overloaded")
    failure.__cause__ = OSError("reset")

    async def answer(subtask: Subtask, prompt: Prompt, /, *, occurrence: int = 0) -> Answer:
        if subtask.name == "right":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
        if subtask.name == "left":
            await asyncio.sleep(0)
            raise failure
        return Answer("x", SubtaskUse())

    with pytest.raises(TransientModelError) as raised:
        await SubtaskGraph(DIAMOND).run(EXAMPLE, answer)
    assert raised.value is failure
    assert isinstance(raised.value.__cause__, OSError)
    assert cancelled.is_set()


async def test_cancelling_the_workflow_cancels_its_calls() -> None:
    called, cancelled = asyncio.Event(), asyncio.Event()

    async def answer(subtask: Subtask, prompt: Prompt, /, *, occurrence: int = 0) -> Answer:
        called.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    running = asyncio.create_task(SubtaskGraph(CHAIN).run(EXAMPLE, answer))
    await called.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert cancelled.is_set()


async def test_a_prompt_that_cannot_be_rendered_names_subtask_example_and_variable() -> None:
    broken = task(subtask("find", "{{ inputs.facts }}"))
    with pytest.raises(ScorerError, match=r"prompt of find on example e7: `facts` is not defined .*question"):
        await SubtaskGraph(broken).run(EXAMPLE, RecordedCalls())


def missing_column(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    return str(inputs["facts"])


def no_text(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
    return None


async def broken_context(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
    raise StopAsyncIteration("over")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"render": missing_column}, "the prompt of find on example e7: `missing_column` failed: KeyError: 'facts'"),
        ({"render": no_text}, "the prompt of find on example e7: `no_text` must return a string, but got None"),
        (
            {"context": broken_context},
            "the prompt of find on example e7: the context function `broken_context` failed: StopAsyncIteration: over",
        ),
        ({"context": partial(no_text, {}, {})}, "the context function `partial` failed: TypeError: no_text() takes 2"),
    ],
)
async def test_a_function_that_builds_a_prompt_and_fails_is_named(settings: dict[str, Any], message: str) -> None:
    own = task(Subtask(**{"name": "find", "render": lambda inputs, outputs: "Who?", "models": ("m",), **settings}))
    with pytest.raises(ScorerError, match=re.escape(message)):
        await SubtaskGraph(own).run(EXAMPLE, RecordedCalls())


async def test_the_failure_of_a_read_subtask_surfaces_once_through_those_that_read_it() -> None:
    with pytest.raises(PermanentModelError, match="no key"):
        await SubtaskGraph(DIAMOND).run(EXAMPLE, RecordedCalls({"top": PermanentModelError("no key")}))


def test_a_template_that_reads_a_subtask_outside_of_reads_is_refused() -> None:
    for prompt, reads in (("{{ find.output }}", ()), ("{{ find.output }} {{ top.output }}", ("top",))):
        with pytest.raises(TaskError, match=r"(?s)but find is missing.*add it to reads: reads=\(.*'find'"):
            task(subtask("top"), subtask("find"), subtask("answer", prompt, *reads))


async def test_a_function_that_reads_a_subtask_outside_of_reads_is_reported_with_the_remedy() -> None:
    def render(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
        return f"{outputs['find']}"

    as_prompt = Subtask("answer", render, ("m",))
    as_context = subtask("answer", "{{ context.output }}", context=render)
    for reader in (as_prompt, as_context):
        with pytest.raises(ScorerError, match=r"on example e7: .*'find' was read.*remedy: add it to `reads`"):
            await SubtaskGraph(task(subtask("find"), reader)).run(EXAMPLE, RecordedCalls())


async def test_a_function_may_handle_an_output_that_it_does_not_have() -> None:
    def render(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
        try:
            return f"{outputs['find']}"
        except KeyError:
            return f"{outputs.get('find')}"

    result = await SubtaskGraph(task(subtask("find"), Subtask("answer", render, ("m",)))).run(EXAMPLE, RecordedCalls())
    assert result.output == "None.answer"


async def test_the_latency_is_that_of_the_critical_path() -> None:
    seconds = {"top": 1.0, "left": 2.0, "right": 0.5, "join": 0.25}

    async def answer(subtask: Subtask, prompt: Prompt, /, *, occurrence: int = 0) -> Answer:
        return Answer("x", SubtaskUse(seconds=seconds[subtask.name]))

    assert (await SubtaskGraph(DIAMOND).run(EXAMPLE, answer)).seconds == 3.25
    seconds["right"] = 0.0
    assert (await SubtaskGraph(DIAMOND).run(EXAMPLE, answer)).seconds is None, "one call's latency is not known"
