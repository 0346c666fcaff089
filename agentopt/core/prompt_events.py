"""Events of the optimisation of system prompts; `core.events` has all events of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from agentopt.core.observers import Event


@dataclass(frozen=True, slots=True)
class PromptsStarted(Event):
    """The optimisation of one subtask's system prompt began, before or after the search."""

    kind: ClassVar[str] = "prompts_started"

    subtask: str
    phase: Literal["before", "after"]

    @property
    def message(self) -> str:
        return f"system prompt of {self.subtask}, {self.phase} the search"


@dataclass(frozen=True, slots=True)
class RewardDrawn(Event):
    """One response of a subtask was scored while its system prompt is optimised."""

    kind: ClassVar[str] = "reward_drawn"
    logged: ClassVar[bool] = False

    user_prompt: str
    reward: float | None
    """None if a call failed."""

    @property
    def message(self) -> str:
        return self.user_prompt


@dataclass(frozen=True, slots=True)
class PromptsFellBack(Event):
    """A proposer of system prompts gave nothing usable, and the next one was called."""

    kind: ClassVar[str] = "prompts_fall_back"

    subtask: str
    reason: str

    @property
    def message(self) -> str:
        return f"{self.subtask}: {self.reason}"


@dataclass(frozen=True, slots=True)
class PromptsDone(Event):
    """The optimisation of one subtask's system prompt ended."""

    kind: ClassVar[str] = "prompts_done"

    subtask: str
    outcome: str

    @property
    def message(self) -> str:
        return f"system prompt of {self.subtask}: {self.outcome}"
