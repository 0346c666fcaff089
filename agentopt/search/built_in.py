"""The built-in strategies by name. Each loads its libraries when it is built, so that listing the names loads none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentopt.core.database import Condition
from agentopt.core.errors import AgentoptError, ConfigError
from agentopt.core.registry import GUIDE, STRATEGIES, strategy
from agentopt.core.task import Task
from agentopt.core.yaml_models import RuleError, as_error, shown
from agentopt.models.base import ChatModel
from agentopt.search.base import Search, Strategy
from agentopt.search.proposer_names import FALLBACK
from agentopt.search.settings import AgentSettings, SearchSettings
from agentopt.search.variants import AGENT, AGENT_HPO, LLM_ZERO_SHOT, Tried, Variant, mlcopilot


@dataclass(frozen=True, slots=True)
class SearchContext:
    """The resources of a strategy's factory.

    Attributes:
        task: The task that is optimised.
        seed: Seeds every random choice, so that a resumed run repeats it.
        search: The settings under `search`.
        agent: The settings under `agent`.
        model: The client for the strategy's own model calls, counted under the purpose `agent`; None if the
            strategy is only checked.
        checkpoints: A SQLite file, or the URL of a database, in which a search may keep its state; None to keep none.
        experience: Loads the result of `agent.experience`: the task's name, and candidate, score and units of each
            trial. Raises `ConfigError`.
        thread: Key of the search in `checkpoints`.
        condition: What must hold in each transaction that writes there; None if nothing must.
    """

    task: Task
    seed: int
    search: SearchSettings
    agent: AgentSettings
    model: ChatModel | None
    checkpoints: Path | str | None
    experience: Callable[[], tuple[str, list[Tried]]]
    thread: str = "search"
    condition: Condition | None = None


def build_search(name: str, context: SearchContext) -> Search:
    """The search of the strategy called `name`.

    Args:
        name: A registered strategy, or one to import.
        context: What its factory is called with; its options are `context.search.options`.

    Raises:
        ConfigError: The options do not fit the strategy, or it cannot be built with these settings.
    """
    options, entry = read_options(name, context.search), STRATEGIES.find(name)
    if isinstance(entry.make, type) and entry.name == name not in STRATEGIES.names():
        rule = f"a strategy is named by the function that builds it from a SearchContext, but {name} is a class"
        remedy = f"write such a function (see {GUIDE}), or pass the object: optimize(task, strategy=...)"
        raise ConfigError(rule, where="strategy", remedy=remedy)
    try:
        built = entry.make(context, **options)
    except AgentoptError:
        raise
    except Exception as error:  # a plugin's factory may raise anything
        problem = str(error) if isinstance(error, ValueError) else f"it failed: {type(error).__name__}: {error}"
        raise ConfigError(problem, where=f"strategy {name}", remedy="correct search.options") from error
    return as_search(built, where=f"strategy {name}")


def is_built_in(name: str) -> bool:
    """Whether the strategy called `name` is defined in this module."""
    return STRATEGIES.find(name).make.__module__ == __name__


def read_options(name: str, settings: SearchSettings) -> dict[str, Any]:
    """The options of the strategy called `name`. Raises `ConfigError` if they do not fit its signature."""
    try:
        return STRATEGIES.read(name, settings.options)
    except RuleError as broken:
        raise as_error(broken.mistakes, "search.options", ConfigError) from broken


def as_search(built: Any, where: str = "strategy") -> Search:
    """A `Search` as it is; a `Strategy` in the loop that requests one candidate at a time.

    Args:
        built: The object.
        where: The place that gave it, for the error.

    Raises:
        ConfigError: It is neither.
    """
    if isinstance(built, type):
        rule = f"a strategy is an object, but got the class {built.__name__}"
        raise ConfigError(rule, where=where, remedy=f"{built.__name__}()")
    if hasattr(built, "propose"):
        from agentopt.search.strategy_loop import LoopSearch

        # One at a time: a proposal costs nothing, and each may take the score of the one before into account.
        return LoopSearch(built, 1)
    if not hasattr(built, "run"):
        rule = f"a strategy has a method `propose`, or `run` if it is a search, but got {shown(built)}"
        raise ConfigError(rule, where=where, remedy=f"return an object with one of the two; see {GUIDE}")
    search: Search = built
    return search


@strategy("random")
def random(context: SearchContext) -> Strategy:
    """Uniform over the candidates that were not tried."""
    from agentopt.search.baselines import RandomStrategy

    return RandomStrategy(context.seed)


@strategy("grid")
def grid(context: SearchContext) -> Strategy:
    """Every candidate once, in a fixed order."""
    from agentopt.search.baselines import GridStrategy

    return GridStrategy()


@strategy("optuna")
def optuna(context: SearchContext) -> Strategy:
    """The Optuna sampler named by `search.sampler`."""
    from agentopt.search.optuna_strategy import OptunaStrategy

    return OptunaStrategy(context.seed, context.search.sampler, start=context.search.start)


@strategy("agent", calls_model=True)
def agent(context: SearchContext) -> Search:
    """AgentTTS."""
    return _agent_search(context, AGENT)


@strategy("agent_hpo", calls_model=True)
def agent_hpo(context: SearchContext) -> Search:
    """AgentHPO."""
    return _agent_search(context, AGENT_HPO)


@strategy("llm_zero_shot", calls_model=True)
def llm_zero_shot(context: SearchContext) -> Search:
    """LLM_ZS."""
    return _agent_search(context, LLM_ZERO_SHOT)


@strategy("mlcopilot", calls_model=True)
def mlcopilot_search(context: SearchContext) -> Search:
    """MLCopilot, which needs `agent.experience`."""
    return _agent_search(context, mlcopilot(*context.experience()))


CUSTOM = "custom"
"""The strategy of a run that was given an object, recorded in its `config.yaml`."""


@strategy(CUSTOM, hidden=True)
def custom(context: SearchContext) -> Strategy:
    """An object passed to `optimize(strategy=...)`.

    Raises:
        ConfigError: Always: a configuration cannot name an object.
    """
    raise ConfigError("strategy custom is an object", remedy="pass it to optimize(task, strategy=...)")


def _agent_search(context: SearchContext, variant: Variant) -> Search:
    from agentopt.search.agent import AgentSearch
    from agentopt.search.optuna_strategy import OptunaStrategy

    return AgentSearch(
        context.model if context.agent.model else None,
        context.agent,
        OptunaStrategy(context.seed, context.search.sampler, start=context.search.start, proposer=FALLBACK),
        context.task.description,
        context.checkpoints,
        variant=variant,
        thread=context.thread,
        condition=context.condition,
        start=context.search.start,
        batch_size=context.search.batch_size,
        seed=context.seed,
    )
