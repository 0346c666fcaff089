"""Settings of the Optuna samplers and of the search agent. Data only: importing it loads no search library."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from agentopt.core.yaml_models import NotNegative, Strict

SamplerName = Literal["insight", "tpe", "tpe-multivariate", "gp", "nsga2", "random"]
"""The keys of `samplers.SAMPLERS`, repeated here because that module loads Optuna."""


StartName = Literal["largest", "crossed", "paper", "none"]
"""The keys of `start.STARTS`."""

AUTO = "auto"
"""`agent.model` that is chosen by the task; see `runs.agent_model`."""


NOT_FOUND = ""
"""`agent.model` of a run for which `auto` found no model."""


class SearchSettings(Strict):
    """Settings of the search, whichever strategy it uses."""

    batch_size: Annotated[int, Field(ge=1)] = 5
    """Candidates that a model proposes in one call; the other strategies propose one at a time."""
    early_stopping: Annotated[float, Field(ge=0, lt=1)] | None = 0.05
    """Probability that a trial as good as the one with the highest score is stopped as worse. 0 stops only trials that
    cannot catch up with it even if every row left has score 1; null never stops a trial."""
    tolerance: NotNegative = 0.02
    """Score that the recommended candidate may be below the best one: of two as good, the cheaper one is chosen."""
    sampler: SamplerName = "insight"
    """The Optuna sampler of the strategy `optuna` and of the agent's fallback; `gp` needs the package torch."""
    start: StartName = "largest"
    """The first trials after the baseline, of the sampler `insight` and of the agent: one pass of every subtask's
    largest model; as many trials as there are models, each with another one in every subtask (`crossed`); every model
    of every subtask (`paper`); or none."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the strategy, such as those of a plugin; checked against its factory's signature."""

    @model_validator(mode="before")
    @classmethod
    def _without_looks(cls, given: object) -> object:
        """Read the settings of version 0.1.0, whose run folders all have `looks: 4`, the default."""
        if not isinstance(given, Mapping) or "looks" not in given:
            return given
        if given["looks"] != 4:
            text = "search.looks has no effect since version 0.2.0: a trial is tested after every row. Remove it"
            warnings.warn(text, FutureWarning, stacklevel=2)
        return {key: value for key, value in given.items() if key != "looks"}


class AgentSettings(Strict):
    """The search agent's model, its sampling parameters, and the insights that it is shown."""

    model: str | None = AUTO
    """Catalogue name of the model that proposes; null leaves every proposal to the fallback. `auto`: the task's most
    expensive hosted model; for local models the built-in qwen2.5-coder-0.5b if the embedded engine is installed,
    else none."""
    style: Literal["paper", "shared"] = "shared"
    """`shared`: the agent and the surrogate propose in turns, each as often as its candidates raised the highest score,
    after the trials of `search.start`. `paper`: AgentTTS, in which the agent proposes every batch."""
    prompt: Literal["auto", "compact", "full"] = "auto"
    """What the agent is shown: the best trials in few words (`compact`), or `full`. With style `shared` that is every
    trial with its error and cost, effects, what is left, the surrogate's expectations and examples that fail. With
    style `paper` it is what AgentTTS shows: every trial with all metrics, the insights in full, the formula of the
    budget, and the first and the last two of its guidelines in free text. `auto`: `full` for hosted models and models
    above 7 billion parameters."""
    failed_examples: Annotated[int, Field(ge=0)] = 3
    """Validation examples that the best candidate answers badly, which prompts of style `full` show to the agent."""
    prior: bool = True
    """Whether the agent ranks the models and names plausible sample counts before any trial, with style `shared`: a
    prior mean of the surrogate, which counts by how well it predicts the trials."""
    experience: Path | None = None
    """Folder of a finished run of a similar task, whose best trials the strategy `mlcopilot` shows to the model."""
    max_rounds: Annotated[int, Field(ge=1)] | None = None
    """Most rounds of proposals after the first trials; null continues until the trials are spent."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """Sampling temperature of the agent."""
    max_tokens: Annotated[int, Field(ge=1)] = 700
    """Most tokens of one proposal; a model that thinks first gets more."""
    guideline_tokens: Annotated[int, Field(ge=1)] = 200
    """Most tokens of the agent's guidelines; for two subtasks it writes about 60."""
    attempts: Annotated[int, Field(ge=1)] = 3
    """Most calls of the agent for one batch, before the fallback proposes it."""
    prompt_tokens: Annotated[int, Field(ge=1)] = 1000
    """Assumed length of the agent's prompts in tokens; used by the dry run's estimate only."""
    max_calls: Annotated[int, Field(ge=0)] | None = None
    """Cap on the agent's calls, within the run's caps."""
    max_usd: Annotated[float, Field(ge=0)] | None = None
    """Cap on the cost of the agent's calls in USD, within the run's caps."""
    insight_1: bool = True
    """Subtasks prefer different models: determines the first trials, and is shown to the agent."""
    insight_2: bool = True
    """The score has a peak in the number of samples: shown to the agent."""
    insight_3: bool = True
    """A better earlier subtask lowers the best number of samples of a later one: shown to the agent."""
