"""The seam to whoever writes system prompts, and the falling back from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentopt.core.errors import AgentoptError


@dataclass(frozen=True, slots=True)
class Shown:
    """One response as a proposer sees it: what was asked, what came, what was wanted or wrong with it."""

    user_prompt: str
    output: str
    feedback: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """A system prompt that was tried: mean reward over `responses` responses, and some that fell short."""

    system_prompt: str
    proposer: str
    reward: float
    responses: int
    tokens: float
    """Mean output tokens of the subtask."""
    failures: tuple[Shown, ...] = ()


@dataclass(frozen=True, slots=True)
class Brief:
    """What is to be written: for which subtask of which task, the seed prompt, and some user prompts."""

    task: str
    subtask: str
    seed_prompt: str
    user_prompts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewPrompt:
    system_prompt: str
    proposer: str


class NoHelpError(AgentoptError):
    """A proposer cannot be asked, or gave nothing usable; the message says why. The next one is asked."""


class PromptProposer(Protocol):
    """Writes system prompts from what was tried so far.

    A function of its arguments (and a seed), so that resuming is replaying. Returns at most `k` texts; what is
    empty, too long or known already is dropped by the caller. Raises `NoHelpError` where it has nothing to offer.
    """

    @property
    def name(self) -> str: ...

    async def propose(self, brief: Brief, history: Sequence[Attempt], k: int) -> list[str]: ...


class Proposers:
    """Asks one proposer after the other until there are `k` new prompts. `say` is told why the next one was asked."""

    def __init__(self, proposers: Sequence[PromptProposer], say: Callable[[str], None], *, longest: int = 4000) -> None:
        self._proposers, self._say, self._longest = tuple(proposers), say, longest

    async def propose(self, brief: Brief, history: Sequence[Attempt], k: int) -> list[NewPrompt]:
        """At most `k` new prompts, none alike and none in the history."""
        known = {_squeezed(attempt.system_prompt) for attempt in history} | {_squeezed(brief.seed_prompt)}
        found: dict[str, NewPrompt] = {}
        problem = ""
        for proposer in self._proposers:
            wanted = k - len(found)
            if problem:
                self._say(f"{problem}; {proposer.name} fills in {wanted}")
            try:
                offered = await proposer.propose(brief, history, wanted)
            except NoHelpError as error:
                problem = f"{proposer.name} is of no help: {error}"
                continue
            for text in map(str.strip, offered):
                if text and len(text) <= self._longest and _squeezed(text) not in known:
                    found.setdefault(_squeezed(text), NewPrompt(text, proposer.name))
            if len(found) >= k:
                break
            problem = f"{proposer.name} gave only {len(found)} usable new prompts of {wanted}"
        return list(found.values())[:k]


def _squeezed(text: str) -> str:
    """Texts that differ in white space alone are one prompt."""
    return " ".join(text.split())
