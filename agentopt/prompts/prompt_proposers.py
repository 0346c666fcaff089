"""The `PromptProposer` interface, and a chain that falls back from one proposer to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentopt.core.errors import AgentoptError
from agentopt.core.message_text import counted


@dataclass(frozen=True, slots=True)
class Failure:
    """A response with less than full reward, as a proposer sees it."""

    user_prompt: str
    """The user message of the subtask."""
    output: str
    """The answer of the subtask."""
    feedback: str
    """The expected answer, or the mistake."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A system prompt that was tried, and its rewards."""

    system_prompt: str
    """The text."""
    proposer: str
    """Name of the proposer that wrote it; `seed` for the seed prompt."""
    reward: float
    """Estimated mean reward over all rows of the race."""
    responses: int
    """Number of responses with a reward."""
    tokens: float
    """Mean output tokens of the subtask."""
    failures: tuple[Failure, ...] = ()
    """Some of the responses with less than full reward, the lowest first."""


@dataclass(frozen=True, slots=True)
class Brief:
    """The subtask to write for, as a proposer sees it."""

    task: str
    """Description of the task, or its name."""
    subtask: str
    """Name of the subtask, and its description if it has one."""
    seed_prompt: str
    """The present system prompt."""
    user_prompts: tuple[str, ...] = ()
    """User messages of some examples."""


@dataclass(frozen=True, slots=True)
class NewPrompt:
    """A system prompt, and the name of the proposer that wrote it."""

    system_prompt: str
    proposer: str


class ProposerError(AgentoptError):
    """A proposer is unavailable, or returned nothing usable; the next one in the chain is called."""


class PromptProposer(Protocol):
    """Writes system prompts from earlier attempts.

    A proposer is a function of its arguments and its seed, so a run is resumed by replaying it.
    """

    @property
    def name(self) -> str:
        """Name of the proposer, for reports."""

    async def propose(self, brief: Brief, history: Sequence[Attempt], k: int) -> list[str]:
        """Write at most `k` system prompts.

        Args:
            brief: The subtask to write for.
            history: Earlier attempts, that of the seed prompt included.
            k: Most prompts to return.

        Returns:
            The texts. The caller drops those that are empty, too long or known.

        Raises:
            ProposerError: The proposer is unavailable, or has nothing usable.
            BudgetExceeded: A cap of the whole run is reached.
        """


class ProposerChain:
    """Calls one proposer after the other until there are enough new prompts.

    Args:
        proposers: The proposers, in the order of the calls.
        on_fallback: Called with the reason before each call of a further proposer.
        longest: Most characters of a system prompt; longer ones are dropped. None for no bound.
    """

    def __init__(
        self, proposers: Sequence[PromptProposer], on_fallback: Callable[[str], None], *, longest: int | None = None
    ) -> None:
        self._proposers, self._on_fallback = tuple(proposers), on_fallback
        self._longest = math.inf if longest is None else longest

    async def propose(self, brief: Brief, history: Sequence[Attempt], k: int) -> list[NewPrompt]:
        """Return at most `k` distinct prompts that are not in the history.

        Args:
            brief: The subtask to write for.
            history: Earlier attempts.
            k: Most prompts to return.

        Raises:
            BudgetExceeded: A cap of the whole run is reached.
        """
        known = {_normalised(attempt.system_prompt) for attempt in history} | {_normalised(brief.seed_prompt)}
        found: dict[str, NewPrompt] = {}
        problem = ""
        for proposer in self._proposers:
            wanted = k - len(found)
            if problem:
                self._on_fallback(f"{problem}; {proposer.name} writes {wanted}")
            try:
                offered = await proposer.propose(brief, history, wanted)
            except ProposerError as error:
                problem = f"{proposer.name} cannot be used: {error}"
                continue
            for text in map(str.strip, offered):
                if text and len(text) <= self._longest and _normalised(text) not in known:
                    found.setdefault(_normalised(text), NewPrompt(text, proposer.name))
            if len(found) >= k:
                break
            problem = f"{proposer.name} gave only {counted(len(found), 'new prompt')} of {wanted}"
        return list(found.values())[:k]


def _normalised(text: str) -> str:
    """The text with single spaces: prompts that differ in white space only are the same."""
    return " ".join(text.split())
