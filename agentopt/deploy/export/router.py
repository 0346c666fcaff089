"""Exports a candidate's models as a configuration of litellm's router, one entry per subtask.

A router sends one message to one model. Prompts, parsing and fusion are left to the calling program; each entry's
`model_info` describes them. Keys are referred to by environment variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentopt.core.axes import escalating, threshold_of
from agentopt.core.errors import UserError
from agentopt.core.plain_text import one_line
from agentopt.core.yaml_text import to_yaml
from agentopt.deploy.deployment import Deployment
from agentopt.deploy.export.endpoints import call_settings, url_variable
from agentopt.models.catalog import ModelSpec
from agentopt.models.openai_route import NO_KEY
from agentopt.models.request_fitting import choices_per_request
from agentopt.workflow.fusion import fusion_temperature
from agentopt.workflow.sampling import configured, stop_of


def router_config(deployment: Deployment) -> str:
    """YAML with the `model_list` of a litellm router: `TASK/SUBTASK`, and `TASK/SUBTASK/fusion` for fusion calls."""
    entries = []
    for declared in deployment.task.subtasks:
        choice = deployment.candidate[declared.name]
        subtask = configured(declared, choice)
        name = f"{deployment.task.name}/{subtask.name}"
        info = {"num_samples": choice.num_samples, "fusion": subtask.fusion.method}
        described = {**info, "system_prompt": choice.system_prompt}
        further = {"stop": stop_of(subtask), "knobs": dict(subtask.knobs), "demos": choice.to_dict().get("demos")}
        described |= {name: value for name, value in further.items() if value}
        spec, left_out = deployment.specs[choice.model], deployment.refused_by(choice.model, subtask)
        settings = call_settings(spec, subtask, left_out=left_out)
        n = min(choice.num_samples, choices_per_request(spec, left_out))
        entries.append(_entry(name, spec, settings, n, described))
        if subtask.fusion.method == "fuse" and choice.num_samples > 1:
            model = subtask.fusion.model or choice.model
            spec, left_out = deployment.specs[model], deployment.refused_by(model, subtask)
            fusing = replace(subtask, temperature=fusion_temperature(subtask.fusion))
            settings = call_settings(spec, fusing, left_out=left_out)
            entries.append(_entry(f"{name}/fusion", spec, settings, 1, {}))
        if big := escalating(declared, choice):
            spec, left_out = deployment.specs[big], deployment.refused_by(big, subtask)
            info = {"below": threshold_of(declared, choice)}
            entries.append(_entry(f"{name}/cascade", spec, call_settings(spec, subtask, left_out=left_out), 1, info))
    variables = sorted({value for value in _strings(entries) if value.startswith("os.environ/")})
    head = [
        f"# {deployment.title}.",
        "# Routes and parameters only: model_info has the system prompt, the number of samples and their fusion.",
        *(f"# Needs the environment variable {one_line(value.removeprefix('os.environ/'))}." for value in variables),
    ]
    return "\n".join(head) + "\n" + to_yaml({"model_list": entries})


def _entry(name: str, spec: ModelSpec, settings: dict[str, Any], n: int, info: dict[str, Any]) -> dict[str, Any]:
    query = settings.pop("extra_query", {})
    parameters: dict[str, Any] = {
        **_route(spec, query),
        **settings,
        "timeout": spec.timeout_seconds,
        "max_retries": spec.max_attempts - 1,
        "max_parallel_requests": spec.concurrency,
    }
    if n > 1:
        parameters["n"] = n
    if spec.requests_per_minute:
        parameters["rpm"] = max(1, int(spec.requests_per_minute))
    shown = info if spec.chat_template else {**info, "mode": "completion"}
    return {"model_name": name, "litellm_params": parameters, **({"model_info": shown} if shown else {})}


def _route(spec: ModelSpec, query: Mapping[str, str]) -> dict[str, str]:
    """The `model`, `api_base`, `api_key` and `api_version` of litellm.

    Raises:
        UserError: The entry has query parameters or a key header that litellm does not send.
    """
    version = {"api_version": query["api-version"]} if "api-version" in query else {}
    variable, base_url = url_variable(spec), spec.base_url and spec.base_url.partition("?")[0]
    address = f"os.environ/{variable}" if variable else base_url
    _, deployments, deployment = (base_url or "").rstrip("/").rpartition("/openai/deployments/")
    if deployments and version and not spec.litellm:
        azure = {"model": f"azure/{deployment}", "api_base": address or "", **version}
        return azure | {"api_key": f"os.environ/{spec.api_key_env}" if spec.api_key_env else NO_KEY}
    if not spec.litellm and (query or spec.api_key_header.lower() != "authorization"):
        raise UserError(
            f"litellm sends the model {spec.name!r} neither query parameters nor a key in {spec.api_key_header}",
            remedy="use --to python or `agentopt serve`",
        )
    kind = "openai" if spec.chat_template else "text-completion-openai"
    if spec.api == "responses" and not spec.litellm:
        kind = "openai/responses"
    # litellm sends the provider's own key if there is none, which only the provider may receive.
    unnamed = None if spec.litellm and not spec.base_url else NO_KEY
    key = f"os.environ/{spec.api_key_env}" if spec.api_key_env else unnamed
    route = {"model": spec.litellm or f"{kind}/{spec.model or spec.name}", "api_base": address, "api_key": key}
    return {name: value for name, value in route.items() if value is not None} | version


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [s for part in (value.values() if isinstance(value, dict) else value) for s in _strings(part)]
    return [value] if isinstance(value, str) else []
