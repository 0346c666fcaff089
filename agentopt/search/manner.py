"""How a model is asked to search: what separates AgentTTS from the other strategies that ask one. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from agentopt.search.settings import AgentSettings


@dataclass(frozen=True, slots=True)
class Manner:
    """One way of asking. `name` is the strategy's, and the proposer of what the model proposes.

    `insights`: it begins with the first trials, is told the insights that the settings leave on, and writes itself
    guidelines. `history`: it sees what was tried. `experience` is what it is told of a like task, or empty.
    """

    name: str
    insights: bool = False
    history: bool = False
    experience: str = ""

    def settings(self, asked: AgentSettings) -> AgentSettings:
        """The settings in this manner: without the insights no single one is on."""
        none = {"insight_1": False, "insight_2": False, "insight_3": False}
        return asked if self.insights else asked.model_copy(update=none)


AGENT = Manner("agent", insights=True, history=True)
"""AgentTTS; any one insight can be switched off in its settings."""
