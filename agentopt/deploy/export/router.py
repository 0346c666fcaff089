"""Exports a candidate's models as a configuration of litellm's router, one entry per subtask.

A router sends one message to one model. Prompts, parsing and fusion are left to the calling program; each entry's
`model_info` describes them. Keys are referred to by environment variable.
"""

from __future__ import annotations

import json
from typing import Any

from agentopt.core.task import Subtask
from agentopt.core.yaml_models import to_yaml
from agentopt.deploy.deployment import Deployment
from agentopt.deploy.export.endpoints import url_variable
from agentopt.models.catalog import ModelSpec
from agentopt.models.fitting import response_format

NO_KEY = "no-key"
"""Key for endpoints without authentication: litellm requires one."""


def router_config(deployment: Deployment) -> str:
    """YAML with the `model_list` of a litellm router: `TASK/SUBTASK`, and `TASK/SUBTASK/fusion` for fusion calls."""
    entries = []
    for subtask in deployment.task.subtasks:
        choice = deployment.candidate[subtask.name]
        name = f"{deployment.task.name}/{subtask.name}"
        info = {"num_samples": choice.num_samples, "fusion": subtask.fusion.method}
        described = {**info, "system_prompt": choice.system_prompt}
        entries.append(_entry(name, subtask, deployment.specs[choice.model], choice.num_samples, described))
        if subtask.fusion.method == "fuse" and choice.num_samples > 1:
            spec = deployment.specs[subtask.fusion.model or choice.model]
            entries.append(_entry(f"{name}/fusion", subtask, spec, 1, {}, temperature=0.0))
    variables = sorted({value for value in _strings(entries) if value.startswith("os.environ/")})
    head = [
        f"# {deployment.title}.",
        "# Routes and parameters only: model_info has the system prompt, the number of samples and their fusion.",
        *(f"# Needs the environment variable {value.removeprefix('os.environ/')}." for value in variables),
    ]
    return "\n".join(head) + "\n" + to_yaml({"model_list": entries})


def _entry(
    name: str, subtask: Subtask, spec: ModelSpec, num_samples: int, info: dict[str, Any], **changes: Any
) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        **_route(spec),
        **{name: value for name, value in {**_sampling(subtask, spec), **changes}.items() if value is not None},
        "max_tokens": subtask.max_tokens,
        "timeout": spec.timeout_seconds,
        "max_retries": spec.max_attempts - 1,
        "max_parallel_requests": spec.concurrency,
    }
    if (n := min(num_samples, spec.max_choices)) > 1:
        parameters["n"] = n
    if subtask.stop:
        parameters["stop"] = list(subtask.stop)
    if spec.requests_per_minute:
        parameters["rpm"] = max(1, int(spec.requests_per_minute))
    if subtask.json_schema and spec.json_schema:
        parameters["response_format"] = response_format(json.loads(subtask.json_schema))
    shown = info if spec.chat_template else {**info, "mode": "completion"}
    return {"model_name": name, "litellm_params": parameters, **({"model_info": shown} if shown else {})}


def _sampling(subtask: Subtask, spec: ModelSpec) -> dict[str, Any]:
    """The sampling parameters that the task sets, else those of the catalogue entry."""
    values = {name: (getattr(subtask, name), getattr(spec, name)) for name in ("temperature", "top_p")}
    return {name: entry if own is None else own for name, (own, entry) in values.items()}


def _route(spec: ModelSpec) -> dict[str, str]:
    """The `model`, `api_base` and `api_key` of litellm."""
    kind = "openai" if spec.chat_template else "text-completion-openai"
    if spec.api == "responses" and not spec.litellm:
        kind = "openai/responses"
    variable = url_variable(spec)
    address = f"os.environ/{variable}" if variable else spec.base_url
    key = f"os.environ/{spec.api_key_env}" if spec.api_key_env else None if spec.litellm else NO_KEY
    route = {"model": spec.litellm or f"{kind}/{spec.model or spec.name}", "api_base": address, "api_key": key}
    return {name: value for name, value in route.items() if value is not None}


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [s for part in (value.values() if isinstance(value, dict) else value) for s in _strings(part)]
    return [value] if isinstance(value, str) else []
