"""The proposer `reflective`: a language model writes system prompts from scores and failures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence

from agentopt.core.errors import BudgetExceeded, CatalogError, ModelError, WeightsError
from agentopt.core.json_text import repaired_json_values
from agentopt.models.base import ChatModel, Message, Request, Response
from agentopt.models.thinking_tokens import ThinkingTokens
from agentopt.models.thoughts import split_thought
from agentopt.prompts.prompt_proposers import Attempt, Brief, Failure, ProposerError

SHOWN_ATTEMPTS = 5
"""Number of the best attempts that the model is shown."""

SHOWN_FAILURES = 4
"""Number of the best attempt's failures that the model is shown, and of user prompts."""

LONGEST = 400
"""Most characters of one user prompt, output or feedback that the model is shown."""

FIRST_TOKENS = 1000
"""Tokens for a reply beside a half for each byte of the seed prompt; four times as many if every reply was cut off."""

MOST_TOKENS = 16_000
"""Tokens for a reply at most if the context length is not known."""

JSON_TOKENS = 100
"""Tokens for the JSON around a prompt."""

BYTES_PER_TOKEN = 2
"""Fewer than tokens of most texts have, so that a prompt of the estimated length fits."""

INSTRUCTION = (
    "You write system prompts for a language model. A good system prompt is as short as its rules allow, states "
    "general rules for the form and the content of every answer, and never mentions a single example. Answer with JSON."
)


def reply_schema(max_length: int | None) -> str:
    """JSON schema of the model's reply, as text."""
    bounds = {"minLength": 10} if max_length is None else {"minLength": 1, "maxLength": max_length}
    return json.dumps(
        {
            "type": "object",
            "properties": {"system_prompt": {"type": "string", **bounds}},
            "required": ["system_prompt"],
            "additionalProperties": False,
        }
    )


def first_tokens(seed_prompt: str, max_length: int | None) -> int:
    """Tokens of the first request's replies."""
    room = FIRST_TOKENS + len(seed_prompt.encode(errors="replace")) // 2
    return room if max_length is None else min(room, max_length + JSON_TOKENS)


class ReflectiveProposer:
    """Requests `k` system prompts from a language model, as `k` choices of one call.

    Args:
        chat: The client that the calls go through.
        model: Catalogue name of the model.
        temperature: Sampling temperature.
        max_length: Most characters of one prompt; None for as many as the context holds.
        context_length: Tokens of prompt and reply together; None if it is not known.
        seed: Seed of the samples.
    """

    name = "reflective"

    def __init__(
        self,
        chat: ChatModel,
        model: str,
        *,
        temperature: float = 0.9,
        max_length: int | None = None,
        context_length: int | None = None,
        seed: int = 0,
    ) -> None:
        self._chat, self._model = ThinkingTokens(chat), model
        self._temperature, self._max_length, self._seed = temperature, max_length, seed
        self._context = context_length

    async def propose(self, brief: Brief, history: Sequence[Attempt], k: int) -> list[str]:
        """Return the prompts in the replies, which may be alike; see `PromptProposer.propose`."""
        schema, tokens = reply_schema(self._max_length), first_tokens(brief.seed_prompt, self._max_length)
        prompt = proposal_prompt(brief, history, most_bytes=self._bytes_left(tokens))
        request, replies = await self._whole_replies(prompt, k, schema, tokens)
        usable = [text for text in map(read_system_prompt, replies) if text]
        if not usable:
            await self._chat.reject(request)
            raise ProposerError(f"none of {len(replies)} replies contained a system prompt as JSON")
        return usable

    def _bytes_left(self, tokens: int) -> float:
        """Bytes of the prompt that fit beside a reply of `tokens`, at least half of the context."""
        if self._context is None:
            return math.inf
        return BYTES_PER_TOKEN * max(self._context - tokens, self._context // 2)

    async def generate(self, prompt: str, *, first_repeat: int = 0) -> str:
        """One reply to a user message as free text.

        Args:
            prompt: The user message.
            first_repeat: Index of the reply among the samples of this prompt.

        Raises:
            ProposerError: The call failed, there is no budget for it, or the reply was cut off.
            BudgetExceeded: The run's time is up.
        """
        _, replies = await self._whole_replies(prompt, 1, None, FIRST_TOKENS, first_repeat)
        return replies[0]

    async def _whole_replies(
        self, prompt: str, k: int, schema: str | None, tokens: int, first_repeat: int = 0
    ) -> tuple[Request, list[str]]:
        """Replies that were not cut off, with their request; more tokens are given while every reply is cut off."""
        for room in self._rooms(prompt, tokens):
            request = self._request(prompt, k, schema, room, first_repeat)
            response = await self._response(request)
            whole = [choice.text for choice in response.choices if choice.is_whole]
            if whole:
                return request, whole
            if not any(choice.is_cut_off for choice in response.choices):
                break  # more tokens change nothing about a filter
        await self._chat.reject(request)
        count = len(response.choices)
        if all(choice.is_filtered for choice in response.choices):
            raise ProposerError(f"{count} of {count} replies were cut off by the provider's content filter")
        raise ProposerError(
            f"{count} of {count} replies were cut off at {room} tokens; prompts.max_length bounds what is written"
        )

    def _rooms(self, prompt: str, tokens: int) -> Iterator[int]:
        """Tokens of a reply, call by call, up to the most that the context and `max_length` allow."""
        size = len(prompt.encode(errors="replace"))
        most = MOST_TOKENS if self._context is None else self._context - size // BYTES_PER_TOKEN
        if self._max_length is not None:
            most = min(most, self._max_length + JSON_TOKENS)
        room = tokens
        while room < most:
            yield room
            room *= 4
        yield max(1, most)

    async def _response(self, request: Request) -> Response:
        try:
            return await self._chat.generate(request)
        except (CatalogError, ModelError, WeightsError) as error:  # the key, engine or file may be missing
            raise ProposerError(f"the model cannot be reached: {error}") from error
        except BudgetExceeded as error:
            if error.name == "seconds":
                raise
            # A cap of the prompt-writing calls or of the run: responses for prompts by others may still be affordable.
            raise ProposerError(f"there is no budget for it: {str(error).splitlines()[0]}") from error

    def _request(self, prompt: str, k: int, schema: str | None, tokens: int, first_repeat: int = 0) -> Request:
        bound = "" if self._max_length is None else f" A system prompt has at most {self._max_length} characters."
        return Request(
            model=self._model,
            messages=(Message("system", INSTRUCTION + bound), Message("user", prompt)),
            max_tokens=tokens,
            temperature=self._temperature,
            json_schema=schema,
            seed=self._seed,
            first_repeat=first_repeat,
            n=k,
            purpose="prompts",
        )


def proposal_prompt(brief: Brief, history: Sequence[Attempt], *, most_bytes: float = math.inf) -> str:
    """The user message: the subtask, the best attempts with their scores, and failures of the best one.

    Args:
        brief: The subtask to write for.
        history: Earlier attempts, that of the seed prompt included.
        most_bytes: Attempts after the best one are left out beyond it.
    """
    best = sorted(history, key=lambda attempt: -attempt.reward)[:SHOWN_ATTEMPTS]
    parts = [f"The task: {brief.task}\nThe subtask: {brief.subtask}", _user_prompts(brief)]
    if not best:
        parts.append(f"The current system prompt: {brief.seed_prompt or '(empty)'}")
        return "\n\n".join(filter(None, [*parts, "Write one different system prompt for this subtask."]))
    failures = _failures(best[0].failures[:SHOWN_FAILURES])
    left = most_bytes - sum(len(part.encode(errors="replace")) for part in (*parts, failures))
    parts.append("System prompts tried so far, with their scores (1 is perfect):\n" + "\n".join(_tried(best, left)))
    return "\n\n".join(filter(None, [*parts, failures, "Write one new system prompt that would score higher."]))


def _tried(best: Sequence[Attempt], most_bytes: float) -> Iterator[str]:
    """A line for each attempt, the first one in any case."""
    for attempt in best:
        line = f"- {attempt.reward:.2f}: {attempt.system_prompt or '(empty)'}"
        most_bytes -= len(line.encode(errors="replace"))
        if most_bytes < 0 and attempt is not best[0]:
            return
        yield line


def _user_prompts(brief: Brief) -> str:
    if not brief.user_prompts:
        return ""
    listed = "\n".join(f"- {_cut(prompt)}" for prompt in brief.user_prompts[:SHOWN_FAILURES])
    return f"User messages it must answer, for example:\n{listed}"


def _failures(failures: Sequence[Failure]) -> str:
    if not failures:
        return ""
    shown = "\n".join(
        f"- user message: {_cut(f.user_prompt)}\n  answer: {_cut(f.output) or '(nothing usable)'}\n"
        f"  feedback: {_cut(f.feedback)}"
        for f in failures
    )
    return f"Failures of the best one:\n{shown}"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


def read_system_prompt(text: str) -> str | None:
    """The system prompt in a reply, or None if there is none."""
    _, answer = split_thought(text)
    prompts = (value.get("system_prompt") for value in repaired_json_values(answer) if isinstance(value, Mapping))
    return next((prompt.strip() for prompt in prompts if isinstance(prompt, str) and prompt.strip()), None)
