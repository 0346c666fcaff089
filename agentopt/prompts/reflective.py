"""System prompts written by a language model, from the scored history and from failures with their feedback."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from agentopt.core.errors import BudgetExceeded, ModelError, WeightsError
from agentopt.core.json_text import repaired_json_values
from agentopt.models.base import ChatModel, Message, Request
from agentopt.prompts.proposers import Attempt, Brief, NoHelpError, Shown

SHOWN_ATTEMPTS = 5
"""Attempts that the model is shown, the best ones."""

SHOWN_FAILURES = 4
"""Failures of the best attempt that the model is shown."""

LONGEST = 400
"""Characters of one user prompt, output or feedback that the model is shown."""

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"system_prompt": {"type": "string", "minLength": 10, "maxLength": 1500}},
        "required": ["system_prompt"],
        "additionalProperties": False,
    }
)

INSTRUCTION = (
    "You write system prompts for a language model. A good system prompt is short, states general rules for the form "
    "and the content of every answer, and never mentions a single example. Answer with JSON."
)


class ReflectiveProposer:
    """Asks `model` (a catalogue name) for `k` texts at once, as `k` choices of one question."""

    name = "reflective"

    def __init__(
        self, chat: ChatModel, model: str, *, temperature: float = 0.9, max_tokens: int = 200, seed: int = 0
    ) -> None:
        self._chat, self._model = chat, model
        self._temperature, self._max_tokens, self._seed = temperature, max_tokens, seed

    async def propose(self, brief: Brief, history: Sequence[Attempt], k: int) -> list[str]:
        """The texts that could be read; some may be alike. Raises `NoHelpError`, and `BudgetExceeded` of the run."""
        texts = [read_system_prompt(text) for text in await self.ask(question(brief, history), k, schema=SCHEMA)]
        usable = [text for text in texts if text]
        if not usable:
            raise NoHelpError(f"none of {len(texts)} answers held a system prompt as JSON")
        return usable

    async def ask(self, text: str, k: int = 1, *, schema: str | None = None, first_repeat: int = 0) -> list[str]:
        """`k` answers to one question, as they came. Raises `NoHelpError` where only the writing model fails."""
        request = Request(
            model=self._model,
            messages=(Message("system", INSTRUCTION), Message("user", text)),
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            json_schema=schema,
            seed=self._seed,
            first_repeat=first_repeat,
            n=k,
            purpose="prompts",
        )
        try:
            response = await self._chat.generate(request)
        except (ModelError, WeightsError) as error:
            raise NoHelpError(f"the model cannot be reached: {error}") from error
        except BudgetExceeded as error:
            if error.name == "seconds":
                raise
            # Its own cap, or one of the run: draws of what others write may still be affordable.
            raise NoHelpError(f"there is no budget for it: {str(error).splitlines()[0]}") from error
        return [choice.text for choice in response.choices]


def question(brief: Brief, history: Sequence[Attempt]) -> str:
    """Everything the model is told: the job, what was tried and how it did, and where the best one fell short."""
    best = sorted(history, key=lambda attempt: -attempt.reward)[:SHOWN_ATTEMPTS]
    parts = [f"The task: {brief.task}\nThe stage: {brief.subtask}", _asked(brief)]
    if best:
        tried = "\n".join(f"- {a.reward:.2f}: {a.system_prompt or '(empty)'}" for a in best)
        parts.append(f"System prompts tried so far, with their scores (1 is perfect):\n{tried}")
        parts.append(_fell_short(best[0].failures[:SHOWN_FAILURES]))
        parts.append("Write one new system prompt that would score higher.")
    else:
        parts.append(f"The present system prompt: {brief.seed_prompt or '(empty)'}")
        parts.append("Write one different system prompt for this stage.")
    return "\n\n".join(part for part in parts if part)


def _asked(brief: Brief) -> str:
    if not brief.user_prompts:
        return ""
    listed = "\n".join(f"- {_cut(prompt)}" for prompt in brief.user_prompts[:SHOWN_FAILURES])
    return f"What it is asked, for example:\n{listed}"


def _fell_short(failures: Sequence[Shown]) -> str:
    if not failures:
        return ""
    shown = "\n".join(
        f"- asked: {_cut(f.user_prompt)}\n  answered: {_cut(f.output) or '(nothing usable)'}\n  but: {_cut(f.feedback)}"
        for f in failures
    )
    return f"Where the best of them fell short:\n{shown}"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


def read_system_prompt(text: str) -> str | None:
    """The system prompt in a reply, or None. Endpoints without JSON schemas may wrap the JSON in prose, or break it."""
    prompts = (value.get("system_prompt") for value in repaired_json_values(text) if isinstance(value, Mapping))
    return next((prompt.strip() for prompt in prompts if isinstance(prompt, str) and prompt.strip()), None)
