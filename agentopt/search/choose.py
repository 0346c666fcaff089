"""From a configuration to the search it asks for; loads only what that search needs."""

from __future__ import annotations

from pathlib import Path

from agentopt.config import Config
from agentopt.models.base import ChatModel
from agentopt.search.base import Search, Strategy
from agentopt.task import Task


def choose_search(config: Config, model: ChatModel, task: Task, checkpoints: Path) -> Search:
    """The search named by `config.strategy`; the agent's own calls go through `model`."""
    if config.strategy == "agent":
        from agentopt.search.agent import AgentSearch
        from agentopt.search.fallback import OptunaStrategy

        return AgentSearch(
            model if config.agent.model else None,
            config.agent,
            OptunaStrategy(config.seed, config.search.sampler, proposer="fallback"),
            task.description,
            checkpoints,
            batch_size=config.search.batch_size,
            seed=config.seed,
        )
    from agentopt.search.loop import LoopSearch

    return LoopSearch(_strategy(config), config.search.batch_size)


def _strategy(config: Config) -> Strategy:
    from agentopt.search.baselines import GridStrategy, RandomStrategy

    if config.strategy == "random":
        return RandomStrategy(config.seed)
    if config.strategy == "grid":
        return GridStrategy()
    from agentopt.search.fallback import OptunaStrategy

    return OptunaStrategy(config.seed, config.search.sampler)
