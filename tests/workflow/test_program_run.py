"""Calls of a program: their subtask, settings, repeat index and system prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentopt.core.candidate import SubtaskChoice
from agentopt.core.errors import ApiError, BudgetExceeded, PermanentModelError, ScorerError
from agentopt.core.records import Answer, SubtaskUse
from agentopt.core.task import Subtask
from agentopt.models.base import Message
from agentopt.models.openai_format import ChatCall
from agentopt.testing.toy import LARGE, toy_task
from agentopt.workflow.base import Draw, Prompt
from agentopt.workflow.program.program_run import GRACE_SECONDS, ProgramRun
from agentopt.workflow.sampling import request_for

QUESTION = (Message("user", "find|1|"),)
CALL = ChatCall("agentopt/find", QUESTION)
TASK = toy_task(validation=1, test=1)


class RecordedCalls:
    """Answers every call with `value`, or raises it, and records the calls."""

    def __init__(self, value: Any = "key-1") -> None:
        self.value = value
        self.seen: list[tuple[Subtask, Prompt, int]] = []

    async def __call__(self, subtask: Subtask, prompt: Prompt, /, *, occurrence: int = 0) -> Answer:
        self.seen.append((subtask, prompt, occurrence))
        if isinstance(self.value, Exception):
            raise self.value
        use = SubtaskUse(10, 3, 1.0, 0.5, 2, seconds=0.25 * (1 + occurrence))
        return Answer(self.value, use, "" if self.value is not None else "no key")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def program_run(calls: RecordedCalls, task: Any = TASK) -> ProgramRun:
    return ProgramRun(task, task.splits["validation"][0], calls, clock=Clock())


async def test_a_call_is_answered_by_the_subtask_of_its_name() -> None:
    calls = RecordedCalls()
    answer = await program_run(calls).answer(CALL)
    assert list(answer.texts) == ["key-1"]
    assert (answer.prompt_tokens, answer.completion_tokens) == (10, 5)
    assert [(subtask.name, prompt) for subtask, prompt, _ in calls.seen] == [("find", QUESTION)]


@pytest.mark.parametrize("model", ["find", "agentopt/fnd", "agentopt/", "gpt-4o"])
async def test_another_model_is_unknown_and_the_known_ones_are_listed(model: str) -> None:
    run = program_run(RecordedCalls())
    with pytest.raises(ApiError, match="agentopt/find, agentopt/answer") as refused:
        await run.answer(replace(CALL, model=model))
    assert refused.value.status == 404
    assert isinstance(run.failure, ScorerError)
    assert f"`{model}` does not exist; there are: agentopt/find, agentopt/answer" in str(run.failure)


async def test_a_repeated_call_draws_the_next_occurrence() -> None:
    calls = RecordedCalls()
    run = program_run(calls)
    other = replace(CALL, messages=(Message("user", "find|2|"),))
    for call in (CALL, other, CALL, replace(CALL, n=2)):
        await run.answer(call)
    assert [occurrence for _, _, occurrence in calls.seen] == [0, 0, 1, 2, 3]


async def test_calls_that_differ_in_settings_of_the_task_are_the_same_call() -> None:
    calls = RecordedCalls()
    run = program_run(calls)
    for temperature in (0.1, 0.2):
        await run.answer(replace(CALL, temperature=temperature))
    assert [occurrence for _, _, occurrence in calls.seen] == [0, 1]


async def test_a_program_sets_what_the_task_leaves_to_it_and_nothing_else() -> None:
    left = frozenset({"max_tokens", "stop"})
    open_find = replace(TASK["find"], left_to_program=left)
    task = replace(TASK, subtasks=(open_find, TASK["answer"]))
    calls = RecordedCalls()
    run = program_run(calls, task)
    await run.answer(replace(CALL, max_tokens=99, stop=(";",), temperature=0.123))
    await run.answer(CALL)
    first, second = (subtask for subtask, _, _ in calls.seen)
    assert (first.max_tokens, first.stop, first.temperature) == (99, (";",), TASK["find"].temperature)
    assert second == open_find


async def test_a_temperature_of_zero_is_a_setting_too() -> None:
    open_find = replace(TASK["find"], left_to_program=frozenset({"temperature"}))
    calls = RecordedCalls()
    await program_run(calls, replace(TASK, subtasks=(open_find, TASK["answer"]))).answer(replace(CALL, temperature=0.0))
    assert calls.seen[0][0].temperature == 0.0


@pytest.mark.parametrize(
    ("value", "text"), [("a b", "a b"), (3, "3"), (2.5, "2.5"), (["1", "2"], '["1", "2"]'), ({"a": "é"}, '{"a": "é"}')]
)
async def test_a_value_is_written_as_a_prompt_template_writes_it(value: Any, text: str) -> None:
    assert list((await program_run(RecordedCalls(value)).answer(CALL)).texts) == [text]


async def test_an_answer_without_a_value_is_an_error() -> None:
    run = program_run(RecordedCalls(None))
    with pytest.raises(ApiError, match="no key") as refused:
        await run.answer(CALL)
    assert (refused.value.status, refused.value.code) == (422, "unparsable_answer")
    assert (run.unusable, run.failure, run.outputs["find"]) == ("no key", None, None)
    assert run.uses["find"].prompt_tokens == 10


async def test_what_several_calls_of_one_subtask_used_is_added_up() -> None:
    run = program_run(RecordedCalls())
    await run.answer(CALL)
    await run.answer(CALL)
    assert run.uses == {"find": SubtaskUse(20, 6, 2.0, 1.0, 4, seconds=0.75)}, "one call after the other"
    assert run.outputs == {"find": "key-1", "answer": None}


CAP = BudgetExceeded("calls", cap=1, spent=1, wanted=1)


async def test_a_cap_is_kept_before_any_other_failure_and_refuses_what_follows() -> None:
    calls = RecordedCalls(PermanentModelError("refused"))
    run = program_run(calls)
    for failure, status in ((calls.value, 502), (CAP, 429), (CAP, 429)):
        calls.value = failure
        with pytest.raises(ApiError) as refused:
            await run.answer(CALL)
        assert refused.value.status == status
    assert run.failure is CAP
    assert len(calls.seen) == 2


async def test_a_mistake_of_ours_is_not_hidden_by_the_program() -> None:
    run = program_run(RecordedCalls(ZeroDivisionError("ours")))
    with pytest.raises(ApiError) as refused:
        await run.answer(CALL)
    assert refused.value.status == 500
    assert isinstance(run.failure, ZeroDivisionError)


async def test_waiting_for_an_answer_is_not_the_programs_own_time() -> None:
    clock = Clock()

    async def slowly(*_: Any, occurrence: int = 0) -> Answer:
        clock.now += 100.0
        assert run.seconds_left(10.0) == 7.0
        return Answer("key-1", SubtaskUse())

    run = ProgramRun(TASK, TASK.splits["validation"][0], slowly, clock=clock)
    clock.now = 5.0
    run.begin()
    clock.now += 3.0
    await run.answer(CALL)
    clock.now += 4.0
    assert (clock.now, run.seconds_left(10.0)) == (112.0, 3.0)


async def test_after_a_failure_there_is_only_a_grace() -> None:
    run = program_run(RecordedCalls(PermanentModelError("refused")))
    with pytest.raises(ApiError):
        await run.answer(CALL)
    assert run.seconds_left(60.0) == GRACE_SECONDS
    assert run.seconds_left(1.0) == 1.0


OWN = (Message("system", "Own."), Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Where?"))


@pytest.mark.parametrize(
    ("candidate", "keep", "messages"),
    [
        ("", False, OWN),
        ("Be brief.", False, (Message("system", "Be brief."), *OWN[1:])),
        ("Be brief.", True, (Message("system", "Be brief.\n\nOwn."), *OWN[1:])),
        ("", True, OWN),
    ],
)
def test_the_candidates_system_prompt_replaces_the_programs(
    candidate: str, keep: bool, messages: tuple[Message, ...]
) -> None:
    subtask = replace(TASK["find"], keep_system_prompt=keep)
    assert request_for(subtask, SubtaskChoice(LARGE, 1, candidate), OWN).messages == messages


def test_one_user_message_of_a_program_makes_the_request_of_a_declared_subtask() -> None:
    choice = SubtaskChoice(LARGE, 3, "Be brief.")
    declared = request_for(TASK["find"], choice, "find|1|", Draw(repeat=2))
    assert request_for(TASK["find"], choice, QUESTION, Draw(repeat=2)) == declared


async def test_of_concurrent_samples_of_one_call_the_slowest_is_the_latency() -> None:
    run = program_run(RecordedCalls())
    await run.answer(replace(CALL, n=3))
    assert run.uses["find"].seconds == 0.75
    await run.answer(replace(CALL, messages=(Message("user", "find|2|"),)))
    assert run.uses["find"].seconds == 1.0
    assert run.uses["find"].prompt_tokens == 40
