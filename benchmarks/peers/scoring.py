"""Scores of answers, the same for every arm: the task's parser and scorer, and the final test."""

from __future__ import annotations

import asyncio
import inspect
from statistics import fmean

from agentopt.core.records import Score
from agentopt.core.task import Example, Task, Unparsable
from agentopt.models.base import ChatModel, Message, Request
from benchmarks.peers.protocol import Prompt, Row

IN_FLIGHT = 8


async def score_text(task: Task, example: Example, text: str) -> Score:
    """The score of a response to one example."""
    try:
        value = task.subtasks[0].parse(text)
    except Unparsable:
        value = None
    score = task.scorer(example, value)
    return await score if inspect.isawaitable(score) else score


def row_of(task: Task, example: Example) -> Row:
    """The example as an arm sees it."""
    return Row(example.id, task.subtasks[0].render(example.inputs, {}), str(example.target))


async def final_scores(
    chat: ChatModel, model: str, task: Task, prompt: Prompt, *, samples: int, seed: int
) -> dict[str, float]:
    """Test a prompt: id of each test example -> mean score of `samples` single responses.

    These calls are no arm's: they go to the model, not to the endpoint that counts.
    """
    slots, subtask = asyncio.Semaphore(IN_FLIGHT), task.subtasks[0]

    async def sample(example: Example, repeat: int) -> float:
        messages = prompt.messages(row_of(task, example).question)
        request = Request(
            model=model,
            messages=tuple(Message(message["role"], message["content"]) for message in messages),  # type: ignore[arg-type]
            max_tokens=subtask.max_tokens,
            temperature=subtask.temperature,
            top_p=subtask.top_p,
            stop=subtask.stop,
            seed=seed,
            first_repeat=repeat,
        )
        async with slots:
            response = await chat.generate(request)
        return (await score_text(task, example, response.choices[0].text)).value

    async def mean(example: Example) -> float:
        return fmean(await asyncio.gather(*(sample(example, repeat) for repeat in range(samples))))

    tested = task.splits["test"]
    return dict(zip((e.id for e in tested), await asyncio.gather(*map(mean, tested)), strict=True))
