"""The request rules of families of hosted endpoints, as data; `agentopt.testing.zoo` enforces them on loopback.

The rules are those of the providers' reference pages, reduced to what makes one family refuse a request that another
accepts. Prices, models and limits are not modelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Dialect = Literal["chat", "responses", "messages"]
"""Protocol of requests and responses: OpenAI chat completions, OpenAI responses, Anthropic messages."""
ErrorForm = Literal["openai", "anthropic", "google", "azure", "openrouter", "vllm", "mistral"]
"""Form of the body of an error."""

COMMON = frozenset(
    {
        *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "n"),
        *("stream", "stream_options", "response_format", "tools", "tool_choice", "parallel_tool_calls", "user"),
        *("reasoning_effort", "frequency_penalty", "presence_penalty", "logprobs", "top_logprobs", "metadata"),
    }
)
"""Parameters of OpenAI's chat completions."""
ANTHROPIC = frozenset(
    {
        *("model", "messages", "max_tokens", "system", "temperature", "top_p", "top_k", "stop_sequences", "stream"),
        *("tools", "tool_choice", "metadata", "thinking", "output_config", "output_format", "service_tier"),
    }
)
RESPONSES = frozenset(
    {
        *("model", "input", "instructions", "max_output_tokens", "tools", "tool_choice", "text", "reasoning", "stream"),
        *("parallel_tool_calls", "metadata", "store", "include", "user", "previous_response_id", "truncation"),
    }
)
BEARER = ("authorization", "Bearer ")


@dataclass(frozen=True, slots=True)
class Family:
    """The rules of one family of endpoints."""

    name: str
    """Also the first segment of `path`."""
    path: str
    """Path of the POST requests on the zoo's server."""
    example: str
    """Name of the example entry in `configs/models.yaml`."""
    added_by: str
    """Model string of `agentopt models add`."""
    dialect: Dialect = "chat"
    error: ErrorForm = "openai"
    key_header: tuple[str, str] | None = BEARER
    """Header of the API key and what precedes the key in it; None if no key is needed."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Required headers; an empty value accepts any."""
    query: tuple[str, ...] = ()
    """Required query parameters."""
    required: tuple[str, ...] = ("model", "messages")
    known: frozenset[str] | None = COMMON
    """Accepted parameters, another one is refused; None: unknown parameters are ignored."""
    refused: frozenset[str] = frozenset()
    """Known parameters that the family's model refuses."""
    exclusive: tuple[str, str] | None = None
    """Two parameters that cannot both be given."""
    most_choices: int | None = None
    """Largest `n`; 0 ignores `n` and returns one choice; None for no limit."""
    most_temperature: float = 2.0
    roles: frozenset[str] = frozenset({"system", "developer", "user", "assistant", "tool"})
    schema: Literal["strict", "any", "refused"] = "any"
    """What `response_format` accepts: strict schemas by OpenAI's rules, any schema, or no schema."""
    streams_only: bool = False
    thoughts: Literal["none", "hidden", "reasoning_content", "reasoning", "think"] = "none"
    """Where the model's thoughts are: none, counted but not returned, a field of the message, or a `<think>` block."""
    content_parts: bool = False
    """Whether the content of a response is a list of parts."""
    usage_of_one: bool = False
    """Whether the usage counts the first choice only, and the response has `timings` (llama.cpp)."""

    @property
    def base_path(self) -> str:
        """Path of the family's base URL."""
        for end in ("/chat/completions", "/responses", "/v1/messages"):
            if self.path.endswith(end):
                return self.path.removesuffix(end)
        raise ValueError(self.path)


FAMILIES: tuple[Family, ...] = (
    Family(
        "openai-reasoning",
        "/openai-reasoning/v1/chat/completions",
        "gpt-5-mini",
        "openai/gpt-5-mini",
        refused=frozenset({"max_tokens", "temperature", "top_p", "stop", "logprobs", "presence_penalty"}),
        most_choices=8,
        schema="strict",
        thoughts="hidden",
    ),
    Family(
        "openai-plain",
        "/openai-plain/v1/chat/completions",
        "gpt-4o-mini",
        "openai/gpt-4o-mini",
        refused=frozenset({"reasoning_effort"}),
        most_choices=128,
        schema="strict",
    ),
    Family(
        "openai-responses",
        "/openai-responses/v1/responses",
        "gpt-5-pro",
        "openai/gpt-5-pro",
        dialect="responses",
        required=("model", "input"),
        known=RESPONSES,
        most_choices=1,
        schema="strict",
        thoughts="hidden",
    ),
    Family(
        "anthropic",
        "/anthropic/v1/messages",
        "claude-haiku",
        "anthropic/claude-haiku-4-5",
        dialect="messages",
        error="anthropic",
        key_header=("x-api-key", ""),
        headers={"anthropic-version": ""},
        required=("model", "messages", "max_tokens"),
        known=ANTHROPIC,
        exclusive=("temperature", "top_p"),
        most_choices=1,
        most_temperature=1.0,
        roles=frozenset({"user", "assistant"}),
    ),
    Family(
        "gemini",
        "/gemini/v1beta/openai/chat/completions",
        "gemini-flash",
        "gemini/gemini-2.5-flash",
        error="google",
        known=COMMON - {"seed", "logprobs", "top_logprobs", "metadata"},
        most_choices=8,
        thoughts="hidden",
    ),
    Family(
        "azure",
        "/azure/openai/deployments/gpt-4o-mini/chat/completions",
        "azure-gpt-4o-mini",
        "azure/gpt-4o-mini",
        error="azure",
        key_header=("api-key", ""),
        query=("api-version",),
        required=("messages",),
        refused=frozenset({"reasoning_effort"}),
        schema="strict",
    ),
    Family(
        "openrouter",
        "/openrouter/api/v1/chat/completions",
        "openrouter-r1",
        "openrouter/deepseek/deepseek-r1",
        error="openrouter",
        known=None,
        most_choices=0,
        thoughts="reasoning",
    ),
    Family(
        "groq",
        "/groq/openai/v1/chat/completions",
        "groq-gpt-oss-20b",
        "groq/openai/gpt-oss-20b",
        known=COMMON - {"metadata"},
        refused=frozenset({"logprobs", "top_logprobs"}),
        most_choices=1,
        schema="strict",
        thoughts="reasoning",
    ),
    Family(
        "deepseek",
        "/deepseek/v1/chat/completions",
        "deepseek-reasoner",
        "deepseek/deepseek-reasoner",
        known=None,
        most_choices=1,
        schema="refused",
        thoughts="reasoning_content",
    ),
    Family(
        "mistral",
        "/mistral/v1/chat/completions",
        "mistral-small",
        "mistral/mistral-small-latest",
        error="mistral",
        known=(COMMON - {"seed", "max_completion_tokens", "stream_options", "user", "logprobs"}) | {"random_seed"},
        most_temperature=1.5,
        content_parts=True,
    ),
    Family(
        "streaming-only",
        "/streaming-only/compatible-mode/v1/chat/completions",
        "qwq-plus",
        "dashscope/qwq-plus",
        refused=frozenset({"n", "response_format"}),
        streams_only=True,
        thoughts="reasoning_content",
    ),
    Family(
        "vllm",
        "/vllm/v1/chat/completions",
        "vllm-llama-3b",
        "vllm/meta-llama/Llama-3.2-3B-Instruct",
        error="vllm",
        known=None,
    ),
    Family(
        "vllm-gemma",
        "/vllm-gemma/v1/chat/completions",
        "vllm-gemma-2b",
        "vllm/google/gemma-2-2b-it",
        error="vllm",
        known=None,
        roles=frozenset({"user", "assistant"}),
    ),
    Family(
        "ollama",
        "/ollama/v1/chat/completions",
        "ollama-qwen3-4b",
        "ollama/qwen3:4b",
        key_header=None,
        known=None,
        most_choices=0,
        thoughts="think",
    ),
    Family(
        "llama.cpp",
        "/llama.cpp/v1/chat/completions",
        "llama-cpp",
        "llama.cpp/llama-cpp",
        key_header=None,
        known=None,
        usage_of_one=True,
    ),
)


def family(name: str) -> Family:
    """Return the family with this name."""
    return next(known for known in FAMILIES if known.name == name)
