"""Addresses and keys of catalogue entries for programs that run without agentopt."""

from __future__ import annotations

from typing import Any

from agentopt.core.errors import UserError
from agentopt.models.catalog import ModelSpec

_DEFAULTS = {"max_choices": 1, "is_chat": True, "has_system_role": True, "timeout": 120.0, "max_retries": 5}
"""Defaults of `runtime.Endpoint`, which are omitted."""


def endpoint_of(spec: ModelSpec) -> dict[str, Any]:
    """The arguments of `runtime.Endpoint` for a catalogue entry, without defaults.

    Raises:
        UserError: The `openai` client cannot reach the provider.
    """
    if spec.litellm and not spec.litellm.startswith("openai/"):
        raise UserError(
            f"the openai client cannot reach {spec.litellm}, which the model {spec.name!r} is",
            remedy="use --to litellm or `agentopt serve`, or give the model an entry with base_url",
        )
    if spec.api == "responses":
        raise UserError(
            f"the model {spec.name!r} is called through the responses API, which an exported module does not use",
            remedy="use `agentopt serve`, or another model",
        )
    given = {
        "model": (spec.litellm or "").removeprefix("openai/") or spec.model or spec.name,
        "base_url": spec.base_url,
        "base_url_env": url_variable(spec),
        "api_key_env": spec.api_key_env or ("OPENAI_API_KEY" if spec.litellm else None),
        "max_choices": spec.max_choices,
        "is_chat": spec.chat_template,
        "has_system_role": spec.system_role != "user" and spec.supports.system_role is not False,
        "timeout": spec.timeout_seconds,
        "max_retries": spec.max_attempts - 1,
    }
    return {key: value for key, value in given.items() if value is not None and value != _DEFAULTS.get(key)}


def url_variable(spec: ModelSpec) -> str | None:
    """The environment variable for the URL of a server of a model file; None for other models."""
    if spec.weights is None:
        return None
    return "".join(c if c.isalnum() else "_" for c in spec.name).upper() + "_URL"
