"""From a configuration to the search that it names; loads only what that search needs."""

from __future__ import annotations

from pathlib import Path

from agentopt.core.database import Condition
from agentopt.core.errors import ConfigError
from agentopt.core.task import Task
from agentopt.models.base import ChatModel
from agentopt.runs.config import Config
from agentopt.runs.demonstrations import check_train
from agentopt.runs.result import load_result
from agentopt.search.base import Search
from agentopt.search.built_in import CUSTOM, SearchContext, build_search, is_built_in, read_options
from agentopt.search.variants import Tried

Checkpoints = tuple[Path | str, str]
"""A database, and the key of a search in it."""


def check_search_settings(task: Task, config: Config) -> None:
    """Check that the search can be built, as far as this needs no model and no library of a built-in strategy.

    Raises:
        ConfigError: A sampler's package, an option, the run of a similar task or the train examples of `demos` are
            missing, or the factory of a plugin's strategy fails.
    """
    check_train(task)
    if config.calls_model or config.strategy == "optuna":
        from agentopt.search.samplers import sampler_named

        sampler_named(config.search.sampler)
    read_options(config.strategy, config.search)
    if config.strategy == CUSTOM:
        raise ConfigError(
            "strategy custom is an object, which a configuration cannot name",
            where="strategy",
            remedy="pass the object again: agentopt.optimize(task, strategy=..., resume=...)",
        )
    if config.strategy == "mlcopilot":
        _experience(config)
    if not is_built_in(config.strategy):
        choose_search(config, None, task, None)


def choose_search(
    config: Config,
    model: ChatModel | None,
    task: Task,
    checkpoints: Checkpoints | None,
    condition: Condition | None = None,
) -> Search:
    """The search named by `config.strategy`; the agent's own calls go through `model`, which is None for a check.

    Args:
        config: The settings of the run.
        model: The client for the agent's own calls; None to check only that the search can be built.
        task: The task.
        checkpoints: The database in which the search may keep its state, and its key there.
        condition: What must hold in each transaction that writes the state.
    """
    place, thread = checkpoints or (None, "")
    context = SearchContext(
        *(task, config.seed, config.search, config.agent, model, place, lambda: _experience(config)),
        thread=thread,
        condition=condition,
    )
    return build_search(config.strategy, context)


def _experience(config: Config) -> tuple[str, list[Tried]]:
    assert config.agent.experience is not None, "the configuration requires it"
    like = load_result(config.agent.experience)
    tried = [(t.candidate, t.score, t.units) for t in like.trials if t.state == "complete" and t.score is not None]
    return like.task, tried
