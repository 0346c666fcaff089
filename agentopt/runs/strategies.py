"""From a configuration to the search it asks for; loads only what that search needs."""

from __future__ import annotations

from pathlib import Path

from agentopt.core.task import Task
from agentopt.models.base import ChatModel
from agentopt.runs.config import Config
from agentopt.runs.result import load_result
from agentopt.search.base import Search, Strategy
from agentopt.search.variants import AGENT, Variant


def check_search_settings(config: Config) -> None:
    """Raises `ConfigError` where the search would miss something: a sampler's package, the run of a like task."""
    if config.asks_a_model or config.strategy == "optuna":
        from agentopt.search.samplers import sampler_named

        sampler_named(config.search.sampler)
    _variant(config)


def choose_search(config: Config, model: ChatModel, task: Task, checkpoints: Path) -> Search:
    """The search named by `config.strategy`; the agent's own calls go through `model`."""
    if config.asks_a_model:
        from agentopt.search.agent import AgentSearch
        from agentopt.search.optuna_strategy import OptunaStrategy

        return AgentSearch(
            model if config.agent.model else None,
            config.agent,
            OptunaStrategy(config.seed, config.search.sampler, proposer="fallback"),
            task.description,
            checkpoints,
            variant=_variant(config),
            batch_size=config.search.batch_size,
            seed=config.seed,
        )
    from agentopt.search.loop import LoopSearch

    # One at a time: asking these costs nothing, and each proposal may know the score of the one before.
    return LoopSearch(_strategy(config), 1)


def _strategy(config: Config) -> Strategy:
    from agentopt.search.baselines import GridStrategy, RandomStrategy

    if config.strategy == "random":
        return RandomStrategy(config.seed)
    if config.strategy == "grid":
        return GridStrategy()
    from agentopt.search.optuna_strategy import OptunaStrategy

    return OptunaStrategy(config.seed, config.search.sampler)


def _variant(config: Config) -> Variant:
    if config.strategy == "llm_zero_shot":
        from agentopt.search.variants import LLM_ZERO_SHOT

        return LLM_ZERO_SHOT
    if config.strategy == "agent_hpo":
        from agentopt.search.variants import AGENT_HPO

        return AGENT_HPO
    if config.strategy == "mlcopilot":
        from agentopt.search.variants import mlcopilot

        assert config.agent.experience is not None, "the configuration asks for it"
        like = load_result(config.agent.experience)
        tried = [(t.candidate, t.score, t.units) for t in like.trials if t.state == "complete" and t.score is not None]
        return mlcopilot(like.task, tried)
    return AGENT
