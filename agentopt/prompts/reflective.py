"""The proposer `reflective`: a language model writes system prompts from scores and failures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from agentopt.core.errors import BudgetExceeded, CatalogError, ModelError, WeightsError
from agentopt.core.json_text import repaired_json_values
from agentopt.models.base import ChatModel, Message, Request
from agentopt.models.room_to_think import RoomToThink
from agentopt.models.thoughts import split_thought
from agentopt.prompts.proposers import Attempt, Brief, Failure, ProposerError

SHOWN_ATTEMPTS = 5
"""Number of the best attempts that the model is shown."""

SHOWN_FAILURES = 4
"""Number of the best attempt's failures that the model is shown, and of user prompts."""

LONGEST = 400
"""Most characters of one user prompt, output or feedback that the model is shown."""

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"system_prompt": {"type": "string", "minLength": 10, "maxLength": 1500}},
        "required": ["system_prompt"],
        "additionalProperties": False,
    }
)
"""JSON schema of the model's reply."""

INSTRUCTION = (
    "You write system prompts for a language model. A good system prompt is short, states general rules for the form "
    "and the content of every answer, and never mentions a single example. Answer with JSON."
)


class ReflectiveProposer:
    """Requests `k` system prompts from a language model, as `k` choices of one call.

    Args:
        chat: The client that the calls go through.
        model: Catalogue name of the model.
        temperature: Sampling temperature.
        max_tokens: Most tokens of one prompt.
        seed: Seed of the samples.
    """

    name = "reflective"

    def __init__(
        self, chat: ChatModel, model: str, *, temperature: float = 0.9, max_tokens: int = 200, seed: int = 0
    ) -> None:
        self._chat, self._model = RoomToThink(chat), model
        self._temperature, self._max_tokens, self._seed = temperature, max_tokens, seed

    async def propose(self, brief: Brief, history: Sequence[Attempt], k: int) -> list[str]:
        """Return the prompts in the replies, which may be alike; see `PromptProposer.propose`."""
        prompt = proposal_prompt(brief, history)
        replies = await self.generate(prompt, k, schema=SCHEMA)
        usable = [text for text in map(read_system_prompt, replies) if text]
        if not usable:
            await self._chat.reject(self._request(prompt, k, SCHEMA))
            raise ProposerError(f"none of {len(replies)} replies contained a system prompt as JSON")
        return usable

    async def generate(self, prompt: str, k: int = 1, *, schema: str | None = None, first_repeat: int = 0) -> list[str]:
        """Call the model once. Replies that were cut off are dropped.

        Args:
            prompt: The user message.
            k: Number of replies.
            schema: JSON schema of the replies, as text.
            first_repeat: Index of the first reply among the samples of this prompt.

        Returns:
            The replies, unread.

        Raises:
            ProposerError: The call failed, there is no budget for it, or every reply was cut off.
            BudgetExceeded: The run's time is up.
        """
        request = self._request(prompt, k, schema, first_repeat)
        try:
            response = await self._chat.generate(request)
        except (CatalogError, ModelError, WeightsError) as error:  # the key, engine or file may be missing
            raise ProposerError(f"the model cannot be reached: {error}") from error
        except BudgetExceeded as error:
            if error.name == "seconds":
                raise
            # A cap of the prompt-writing calls or of the run: responses for prompts by others may still be affordable.
            raise ProposerError(f"there is no budget for it: {str(error).splitlines()[0]}") from error
        whole = [choice.text for choice in response.choices if not choice.is_cut_off]
        if not whole:
            await self._chat.reject(request)
            raise ProposerError(
                f"{len(response.choices)} of {len(response.choices)} replies were cut off at prompts.max_tokens "
                f"({self._max_tokens})"
            )
        return whole

    def _request(self, prompt: str, k: int, schema: str | None, first_repeat: int = 0) -> Request:
        return Request(
            model=self._model,
            messages=(Message("system", INSTRUCTION), Message("user", prompt)),
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            json_schema=schema,
            seed=self._seed,
            first_repeat=first_repeat,
            n=k,
            purpose="prompts",
        )


def proposal_prompt(brief: Brief, history: Sequence[Attempt]) -> str:
    """The user message: the subtask, the best attempts with their scores, and failures of the best one.

    Args:
        brief: The subtask to write for.
        history: Earlier attempts; if empty, the prompt requests a variant of the seed prompt.
    """
    best = sorted(history, key=lambda attempt: -attempt.reward)[:SHOWN_ATTEMPTS]
    parts = [f"The task: {brief.task}\nThe subtask: {brief.subtask}", _user_prompts(brief)]
    if best:
        tried = "\n".join(f"- {a.reward:.2f}: {a.system_prompt or '(empty)'}" for a in best)
        parts.append(f"System prompts tried so far, with their scores (1 is perfect):\n{tried}")
        parts.append(_failures(best[0].failures[:SHOWN_FAILURES]))
        parts.append("Write one new system prompt that would score higher.")
    else:
        parts.append(f"The current system prompt: {brief.seed_prompt or '(empty)'}")
        parts.append("Write one different system prompt for this subtask.")
    return "\n\n".join(part for part in parts if part)


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
