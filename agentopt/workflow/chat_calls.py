"""Chat calls that name a subtask as their model: the settings they may change, and the completion they receive.

Shared by the gateway of programs and by the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentopt.core.errors import ApiError
from agentopt.core.records import Answer
from agentopt.core.task import Subtask
from agentopt.models.openai_format import NO_RETRY, ChatCall, Completion
from agentopt.workflow.templates import written

PREFIX = "agentopt/"
"""Precedes a subtask's name in the model names that programs use."""


def with_settings(subtask: Subtask, call: ChatCall) -> Subtask:
    """The subtask with those settings of the call that the task leaves to the program."""
    given = {name: getattr(call, name) for name in subtask.left_to_program}
    return replace(subtask, **{name: value for name, value in given.items() if value not in (None, ())})


def completion_of(call: ChatCall, answers: Sequence[Answer]) -> Completion:
    """The completion of a call with one choice per usable answer.

    Raises:
        ApiError: With status 422, if no answer has a value.
    """
    texts = [written(answer.value) for answer in answers if answer.value is not None]
    if not texts:
        note = answers[0].note or "no answer was usable"
        raise ApiError(422, note, type="api_error", code="unparsable_answer", headers=NO_RETRY)
    prompt = sum(answer.use.prompt_tokens for answer in answers)
    completion = sum(answer.use.completion_tokens + answer.use.fusion_tokens for answer in answers)
    return Completion(call.model, texts, prompt, completion)
