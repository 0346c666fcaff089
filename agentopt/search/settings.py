"""What a configuration says of samplers and of the search agent. Data only: reading it loads no search library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from agentopt.core.yaml_models import Strict

SamplerName = Literal["insight", "tpe", "tpe-multivariate", "gp", "nsga2", "random"]
"""The names in `samplers.SAMPLERS`, which loads Optuna."""


class AgentSettings(Strict):
    """The agent's model, how it is asked, and which insights it is told."""

    model: str | None = "qwen2.5-coder-0.5b"
    """Catalogue name of the model that proposes; null leaves every proposal to the fallback."""
    experience: Path | None = None
    """Folder of a finished run of a like task: what strategy `mlcopilot` is told."""
    max_rounds: Annotated[int, Field(ge=1)] | None = None
    """Most rounds of proposals after the first trials; null goes on until the trials are spent."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """Temperature of the agent's answers."""
    max_tokens: Annotated[int, Field(ge=1)] = 700
    """Most tokens of one proposal."""
    guideline_tokens: Annotated[int, Field(ge=1)] = 200
    """Most tokens of the guidelines that the agent writes for itself; two subtasks take about 60."""
    attempts: Annotated[int, Field(ge=1)] = 3
    """How often the agent is asked for one batch before the fallback takes over."""
    prompt_tokens: Annotated[int, Field(ge=1)] = 1000
    """What one of the agent's prompts is taken to be at most; only the dry run's estimate uses it."""
    max_calls: Annotated[int, Field(ge=0)] | None = None
    """Cap on the agent's own calls, inside the run's caps."""
    max_usd: Annotated[float, Field(ge=0)] | None = None
    """Cap on what the agent's own calls cost, inside the run's caps."""
    insight_1: bool = True
    """Subtasks prefer different models: decides the first trials, and is told."""
    insight_2: bool = True
    """The score peaks in the sample count: told."""
    insight_3: bool = True
    """A better earlier subtask lowers the later one's best sample count: told."""
