"""The model calls of the search agent: its requests, and which of their failures are the agent's alone."""

from __future__ import annotations

from dataclasses import dataclass

from agentopt.core.errors import AgentoptError, BudgetExceeded, CatalogError, ModelError, WeightsError
from agentopt.models.base import ChatModel, Choice, Message, Request, reject
from agentopt.search.agent_prompts import system_message
from agentopt.search.base import SearchSpace
from agentopt.search.full_prompt import full_system_message
from agentopt.search.paper_prompt import paper_system_message
from agentopt.search.settings import NOT_FOUND, AgentSettings
from agentopt.search.variants import Variant


class AgentUnavailableError(AgentoptError):
    """The agent cannot be called in this round; the message gives the reason."""


@dataclass(frozen=True)
class Agent:
    """The agent's model, and what is the same in all of its calls."""

    model: ChatModel | None
    settings: AgentSettings
    variant: Variant
    description: str
    seed: int

    @property
    def shares(self) -> bool:
        """Whether the agent and the surrogate propose in turns; the baselines of the paper's experiments do not."""
        return self.variant.insights and self.settings.style == "shared"

    @property
    def is_full(self) -> bool:
        """Whether it is shown everything, in one call for each turn."""
        return self.shares and self.settings.prompt == "full"

    @property
    def is_papers(self) -> bool:
        """Whether it is shown what the agent of AgentTTS is shown, in full; the baselines' agents likewise."""
        return self.settings.style == "paper" and self.settings.prompt == "full"

    @property
    def absent(self) -> bool:
        return self.model is None or not self.settings.model

    @property
    def why_absent(self) -> str:
        """Why there is no agent; empty if there is one, or if the settings leave every proposal to the fallback."""
        if self.settings.model == NOT_FOUND:
            return "agent.model: auto found no model (set one, or null)"
        return "there is no agent" if self.model is None and self.settings.model is not None else ""

    def request(
        self, space: SearchSpace, prompt: str, max_tokens: int, *, schema: str | None, repeat: int = 0
    ) -> Request:
        """The request for one reply.

        Args:
            space: The search space.
            prompt: The user message.
            max_tokens: Most tokens of the reply.
            schema: JSON schema of the reply; None for free text.
            repeat: Index of the sample of the reply.
        """
        if self.is_full:
            system = full_system_message(space, self.settings, self.description)
        elif self.is_papers:
            texts = (self.description, self.variant.experience)
            system = paper_system_message(space, self.settings, *texts, insights=self.variant.insights)
        else:
            system = system_message(space, self.settings, self.description, self.variant.experience)
        return Request(
            model=self.settings.model or "",
            messages=(system, Message("user", prompt)),
            max_tokens=max_tokens,
            temperature=self.settings.temperature,
            json_schema=schema,
            seed=self.seed,
            first_repeat=repeat,
            purpose="agent",
        )

    async def reply(self, request: Request) -> Choice:
        """Call the agent once. Raises `AgentUnavailableError` if only the agent fails, and not the run."""
        if self.model is None or not self.settings.model:
            raise AgentUnavailableError("there is no agent")
        try:
            response = await self.model.generate(request)
        except (CatalogError, ModelError, WeightsError) as error:  # the key, the engine or the file may be missing
            raise AgentUnavailableError(f"the agent cannot be reached: {error}") from error
        except BudgetExceeded as error:
            if error.name == "seconds":
                raise
            # A cap of the agent or of the run: a trial that the fallback proposes may still be affordable.
            raise AgentUnavailableError(f"no budget for the agent: {str(error).splitlines()[0]}") from error
        return response.choices[0]

    async def reject(self, request: Request) -> None:
        """Have an unusable reply requested again by the next session."""
        if self.model is not None:
            await reject(self.model, request)
