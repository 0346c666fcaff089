"""Addresses and keys of catalogue entries for programs that run without agentopt."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from agentopt.core.errors import UserError
from agentopt.core.task import Subtask
from agentopt.models.base import Message, Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.request_fitting import choices_per_request, is_streamed, payload, unsupported
from agentopt.workflow.sampling import stop_sequences

_DEFAULTS = {
    "api_key_header": "Authorization",
    "max_choices": 1,
    "is_chat": True,
    "has_system_role": True,
    "is_stream": False,
    "cut_at": (),
    "timeout": 120.0,
    "max_retries": 5,
}
"""Defaults of `runtime.Endpoint`, which are omitted."""
NOT_SETTINGS = ("model", "messages", "prompt", "n", "stream", "stream_options")
"""Keys of a request's body that are no settings of a subtask."""


SECRET_NAME = re.compile("auth|key|token|secret|cookie|password|credential", re.IGNORECASE)
"""Names of headers and parameters that may hold a secret."""


def call_settings(
    spec: ModelSpec, subtask: Subtask, *, seed: int | None = None, left_out: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """The parameters of a subtask's calls: what agentopt sends to the model's endpoint, but for the conversation.

    Args:
        spec: The catalogue entry of the model.
        subtask: The subtask with the candidate's settings. What the endpoint does not take is omitted.
        seed: The run's seed. None: no seed.
        left_out: Parameters that the endpoint was found to refuse, besides those that the entry excludes.

    Returns:
        Arguments of the `openai` client's `create`, with the entry's `extra_body`, `extra_headers` and `query`.

    Raises:
        UserError: A header or a query parameter of the entry may hold a secret, which no exported file has.
    """
    for key, names in (("extra_headers", spec.extra_headers), ("query", spec.query)):
        if secret := next(filter(SECRET_NAME.search, names), None):
            rule = f"an exported file must hold no secret, but {secret!r} in {key} of {spec.name!r} may be one"
            remedy = "give the key by api_key_env and api_key_header, or deploy with `agentopt serve`"
            raise UserError(rule, remedy=remedy)
    request = Request(
        spec.name,
        (Message("user", ""),),
        max_tokens=subtask.max_tokens,
        temperature=subtask.temperature,
        top_p=subtask.top_p,
        stop=stop_sequences(subtask),
        json_schema=subtask.json_schema,
        seed=seed or 0,
        left_out=left_out,
        reasoning_effort=subtask.effort if spec.has_effort else None,
    )
    settings = {name: value for name, value in payload(spec, request).items() if name not in NOT_SETTINGS}
    if settings.pop("seed", None) is not None and seed is not None:
        settings["seed"] = seed
    further = {name: settings.pop(name) for name in spec.extra_body if name in settings}
    query = {**dict(parse_qsl((spec.base_url or "").partition("?")[2])), **spec.query}
    extra = {"extra_body": further, "extra_headers": spec.extra_headers, "extra_query": query}
    return settings | {name: dict(value) for name, value in extra.items() if value}


def endpoint_of(spec: ModelSpec, stop: tuple[str, ...] = (), left_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The arguments of `runtime.Endpoint` for a catalogue entry, without defaults.

    Args:
        spec: The catalogue entry.
        stop: The stop sequences of the subtask.
        left_out: As in `call_settings`.

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
    left_out |= unsupported(spec)
    given = {
        "model": (spec.litellm or "").removeprefix("openai/") or spec.model or spec.name,
        "base_url": spec.base_url and spec.base_url.partition("?")[0],
        "base_url_env": url_variable(spec),
        "api_key_env": spec.api_key_env or ("OPENAI_API_KEY" if spec.litellm and not spec.base_url else None),
        "api_key_header": "Authorization" if spec.api_key_header.lower() == "authorization" else spec.api_key_header,
        "max_choices": choices_per_request(spec, left_out),
        "is_chat": spec.chat_template,
        "has_system_role": spec.system_role != "user" and "system_role" not in left_out,
        "is_stream": is_streamed(spec, left_out),
        "cut_at": stop if "stop" in left_out else (),
        "timeout": spec.timeout_seconds,
        "max_retries": spec.max_attempts - 1,
    }
    return {key: value for key, value in given.items() if value is not None and value != _DEFAULTS.get(key)}


def url_variable(spec: ModelSpec) -> str | None:
    """The environment variable for the URL of a server of a model file; None for other models."""
    if spec.weights is None:
        return None
    return "".join(c if c.isalnum() else "_" for c in spec.name).upper() + "_URL"
