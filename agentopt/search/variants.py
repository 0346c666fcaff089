"""Prompting variants of the LLM search: which of insights, history and experience are shown to the model.

`AGENT` is AgentTTS (arXiv 2508.00890); the others are the LLM baselines of its experiments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentopt.core.candidate import Candidate
from agentopt.search.settings import AgentSettings


@dataclass(frozen=True, slots=True)
class Variant:
    """What the model sees. `name` is the strategy's name, and the proposer of what the model proposes.

    With `insights`, the search begins with the trials of insight 1, and the model is shown the insights that the
    settings leave on and writes guidelines. With `history`, it is shown the trials so far. `experience` is text about a
    similar task, or empty.
    """

    name: str
    insights: bool = False
    history: bool = False
    experience: str = ""

    def settings(self, base: AgentSettings) -> AgentSettings:
        """The settings for this variant; with `insights=False` every insight switch is turned off."""
        none = {"insight_1": False, "insight_2": False, "insight_3": False}
        return base if self.insights else base.model_copy(update=none)


AGENT = Variant("agent", insights=True, history=True)
"""AgentTTS; any one insight can be switched off in the settings."""

AGENT_HPO = Variant("agent_hpo", history=True)
"""AgentHPO: the model proposes from the trials so far, without insights or guidelines."""

LLM_ZERO_SHOT = Variant("llm_zero_shot")
"""LLM_ZS: the model proposes from the task's description alone. It sees neither scores nor earlier trials; each batch
is another draw of its answer."""

SHOWN = 8
"""How many of the similar task's best trials MLCopilot is shown; a small model's context holds no more."""

Tried = tuple[Candidate, float, float]
"""A candidate of the similar task, its score, and its units."""


def mlcopilot(similar: str, tried: Sequence[Tried]) -> Variant:
    """MLCopilot: the model proposes from the best trials of the task called `similar`, and sees none of its own."""
    best = sorted(tried, key=lambda row: (-row[1], row[2]))[:SHOWN]
    lines = [f"On a like task, {similar}, the best were, score first (units):", *(_line(row) for row in best)]
    return Variant("mlcopilot", experience="\n".join(lines))


def _line(row: Tried) -> str:
    candidate, score, units = row
    subtasks = " + ".join(f"{name} {choice}" for name, choice in candidate.items())
    return f"{score:.2f} = {subtasks} ({units:.0f})"
