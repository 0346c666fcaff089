"""A candidate's models as a configuration of litellm's router: one entry a subtask, keys by environment variable.

A router sends one message to one model: prompts, parsing and fusion stay with the program that uses it, and are told
in each entry's `model_info`.
"""

from __future__ import annotations

import json
from typing import Any

from agentopt.core.task import Subtask
from agentopt.core.yaml_models import to_yaml
from agentopt.deploy.deployment import Deployment
from agentopt.deploy.export.endpoints import url_variable
from agentopt.models.catalog import ModelSpec

NO_KEY = "no-key"
"""Sent where the endpoint asks for none: litellm does not start a call without one."""


def router_config(deployment: Deployment) -> str:
    """YAML with the `model_list` of a litellm router: `TASK/SUBTASK`, and `TASK/SUBTASK/fusion` where a model fuses."""
    entries = []
    for subtask in deployment.task.subtasks:
        choice = deployment.candidate[subtask.name]
        name = f"{deployment.task.name}/{subtask.name}"
        info = {"num_samples": choice.num_samples, "fusion": subtask.fusion.method}
        told = {**info, "system_prompt": choice.system_prompt}
        entries.append(_entry(name, subtask, deployment.specs[choice.model], choice.num_samples, told))
        if subtask.fusion.method == "fuse" and choice.num_samples > 1:
            spec = deployment.specs[subtask.fusion.model or choice.model]
            entries.append(_entry(f"{name}/fusion", subtask, spec, 1, {}, temperature=0.0))
    variables = sorted({value for value in _strings(entries) if value.startswith("os.environ/")})
    head = [
        f"# {deployment.title}.",
        "# Routes and parameters only: model_info tells the system prompt, and how many samples are fused and how.",
        *(f"# Needs the environment variable {value.removeprefix('os.environ/')}." for value in variables),
    ]
    return "\n".join(head) + "\n" + to_yaml({"model_list": entries})


def _entry(
    name: str, subtask: Subtask, spec: ModelSpec, num_samples: int, info: dict[str, Any], **changes: Any
) -> dict[str, Any]:
    asked: dict[str, Any] = {
        **_route(spec),
        "temperature": subtask.temperature,
        "top_p": subtask.top_p,
        "max_tokens": subtask.max_tokens,
        **changes,
        "timeout": spec.timeout_seconds,
        "max_retries": spec.max_attempts - 1,
        "max_parallel_requests": spec.concurrency,
    }
    if (n := min(num_samples, spec.max_choices)) > 1:
        asked["n"] = n
    if subtask.stop:
        asked["stop"] = list(subtask.stop)
    if spec.requests_per_minute:
        asked["rpm"] = max(1, int(spec.requests_per_minute))
    if subtask.json_schema and spec.json_schema:
        schema = {"name": "answer", "strict": True, "schema": json.loads(subtask.json_schema)}
        asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    told = info if spec.chat_template else {**info, "mode": "completion"}
    return {"model_name": name, "litellm_params": asked, **({"model_info": told} if told else {})}


def _route(spec: ModelSpec) -> dict[str, str]:
    """Model string, address and key in litellm's words."""
    kind = "openai" if spec.chat_template else "text-completion-openai"
    variable = url_variable(spec)
    address = f"os.environ/{variable}" if variable else spec.base_url
    key = f"os.environ/{spec.api_key_env}" if spec.api_key_env else None if spec.litellm else NO_KEY
    route = {"model": spec.litellm or f"{kind}/{spec.model or spec.name}", "api_base": address, "api_key": key}
    return {name: value for name, value in route.items() if value is not None}


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [s for part in (value.values() if isinstance(value, dict) else value) for s in _strings(part)]
    return [value] if isinstance(value, str) else []
