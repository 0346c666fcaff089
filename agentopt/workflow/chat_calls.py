"""Chat calls that name a subtask as their model: the settings they may change, and the completion they receive.

Shared by the gateway of programs and by the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentopt.core.errors import ApiError
from agentopt.core.records import Answer
from agentopt.core.task import Subtask, Task
from agentopt.models.base import Choice
from agentopt.models.openai_completion import Completion
from agentopt.models.openai_format import NO_RETRY, ChatCall
from agentopt.workflow.templates import written
from agentopt.workflow.tool_calls import CalledTools

PREFIX = "agentopt/"
"""Precedes a subtask's name in the model names that programs use."""

TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
"""Settings of a call that are always the program's."""


def subtasks_by_model(task: Task) -> dict[str, Subtask]:
    """Return the subtasks by the model names under which the task's program calls them."""
    named = {PREFIX + subtask.name: subtask for subtask in task.subtasks}
    mapped = task.program.models if task.program else {}
    return named | {model: task[subtask] for model, subtask in mapped.items()}


def with_settings(subtask: Subtask, call: ChatCall) -> Subtask:
    """The subtask with the tools of the call, and those of its settings that the task leaves to the program."""
    given = {name: getattr(call, name) for name in (*subtask.left_to_program, *TOOLS)}
    return replace(subtask, **{name: value for name, value in given.items() if value not in (None, ())})


def completion_of(call: ChatCall, answers: Sequence[Answer]) -> Completion:
    """The completion of a call with one choice per usable answer.

    Raises:
        ApiError: With status 422, if no answer has a value.
    """
    choices = [_choice(answer) for answer in answers if answer.value is not None]
    if not choices:
        note = answers[0].note or "no answer was usable"
        raise ApiError(422, note, type="api_error", code="unparsable_answer", headers=NO_RETRY)
    prompt = sum(answer.use.prompt_tokens for answer in answers)
    completion = sum(answer.use.completion_tokens + answer.use.fusion_tokens for answer in answers)
    return Completion(call.model, choices, prompt, completion)


def _choice(answer: Answer) -> Choice:
    if isinstance(answer.value, CalledTools):
        return Choice(answer.value.text, 0, "tool_calls", tool_calls=answer.value.calls)
    return Choice(written(answer.value), 0, answer.finish_reason)
