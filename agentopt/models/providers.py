"""The providers whose models are added to a catalogue by name alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from agentopt.models.model_table import find_entry


@dataclass(frozen=True, slots=True)
class Provider:
    """How a provider is called.

    Attributes:
        base_url: Its OpenAI-compatible endpoint; None if it is called through litellm.
        api_key_env: The variable of its key.
        is_free: Whether it is a server of the user's.
    """

    base_url: str | None
    api_key_env: str | None
    is_free: bool = False


PROVIDERS: Mapping[str, Provider] = {
    "openai": Provider("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "anthropic": Provider(None, "ANTHROPIC_API_KEY"),
    "gemini": Provider("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    "openrouter": Provider("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "groq": Provider("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "deepseek": Provider("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "mistral": Provider("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "xai": Provider("https://api.x.ai/v1", "XAI_API_KEY"),
    "together_ai": Provider("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "fireworks_ai": Provider("https://api.fireworks.ai/inference/v1", "FIREWORKS_AI_API_KEY"),
    "cerebras": Provider("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "dashscope": Provider("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
    "ollama": Provider("http://127.0.0.1:11434/v1", None, is_free=True),
    "vllm": Provider("http://127.0.0.1:8000/v1", None, is_free=True),
    "llama.cpp": Provider("http://127.0.0.1:8080/v1", None, is_free=True),
    "azure": Provider(None, "AZURE_API_KEY"),
}
"""Prefix of a model string -> how the provider is called. Any other provider of litellm is called through litellm."""


def name_of(model: str) -> str:
    """The catalogue name of a model that is given none: the last part of `PROVIDER/MODEL`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model.rpartition("/")[2]).strip("-")


def adding_command(name: str) -> str | None:
    """The command that adds a model of the bundled table under the catalogue name `name`; None if it is not there.

    Args:
        name: The model's name, with or without its provider. Of several providers, the first of `PROVIDERS` is taken.
    """
    model = table_name(name)
    if model is None:
        return None
    return f"agentopt models add {model}" + ("" if name == name_of(model) else f" --as {name}")


def table_name(name: str) -> str | None:
    """The name `PROVIDER/MODEL` of a model of the bundled table; None if it is not there.

    Args:
        name: The model's name, with or without its provider. Of several providers, the first of `PROVIDERS` is taken.
    """
    models = [name] if name.partition("/")[0] in PROVIDERS else [f"{provider}/{name}" for provider in PROVIDERS]
    return next((model for model in models if find_entry(model)), None)
