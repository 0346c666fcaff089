"""Prompting variants of the LLM search: which of insights, history and experience are shown to the model.

`AGENT` is AgentTTS (arXiv 2508.00890); the others are the LLM baselines of its experiments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentopt.core.candidate import Candidate
from agentopt.core.ties import ranked
from agentopt.search.settings import AgentSettings


@dataclass(frozen=True, slots=True)
class Variant:
    """The information that the model is shown."""

    name: str
    """Name of the strategy, and the `Proposal.proposer` of the model's proposals."""
    insights: bool = False
    """Whether the search starts with the trials of insight 1, and the model is shown the insights that the settings
    leave on and writes guidelines."""
    history: bool = False
    """Whether the model is shown the trials so far."""
    experience: str = ""
    """Text about a similar task; empty if there is none."""

    def settings(self, base: AgentSettings) -> AgentSettings:
        """The settings for this variant; with `insights=False` every insight switch is turned off."""
        none = {"insight_1": False, "insight_2": False, "insight_3": False}
        return base if self.insights else base.model_copy(update=none)


AGENT = Variant("agent", insights=True, history=True)
"""AgentTTS; each insight can be turned off in the settings."""

AGENT_HPO = Variant("agent_hpo", history=True)
"""AgentHPO: the model proposes from the trials so far, without insights or guidelines."""

LLM_ZERO_SHOT = Variant("llm_zero_shot")
"""LLM_ZS: the model proposes from the task's description alone. It sees neither scores nor earlier trials; each batch
is a new sample of its reply."""

SHOWN = 8
"""Number of the similar task's best trials that MLCopilot shows; more would not fit a small model's context."""

Tried = tuple[Candidate, float, float]
"""A candidate of the similar task, its score, and its cost in units."""


def mlcopilot(similar: str, tried: Sequence[Tried]) -> Variant:
    """MLCopilot: the model is shown only the best trials of a similar task.

    Args:
        similar: Name of the similar task.
        tried: Its trials.
    """
    best = ranked(tried, lambda row: row[1], lambda row: row[2])[:SHOWN]
    rows = [f"{candidate} = {score:.2f} ({units:.0f})" for candidate, score, units in best]
    return Variant("mlcopilot", experience="\n".join([f"Best of a similar task, {similar}, = score (units):", *rows]))
