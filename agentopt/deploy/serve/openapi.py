"""The OpenAPI document of the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentopt.models.openai_format import MOST_CHOICES

TEXT = {"type": "string"}
OBJECT = {"type": "object"}
COUNT = {"type": "integer", "minimum": 0}

REFUSALS = {
    400: "The request is not valid; `error.param` names the key.",
    401: "The API key is missing or wrong.",
    403: "Without API keys only programs on the server's machine are served.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    422: "No answer of a model could be parsed.",
    429: "A cap of the server is reached, or there are too many concurrent calls with this key.",
    500: "The server, or a function of the task, failed.",
    502: "A model failed permanently.",
    503: "There are too many concurrent calls, or the server ends.",
    504: "There was no answer in time.",
}
"""Status -> meaning, of the errors of a call."""


def openapi_document(models: Sequence[str]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a server.

    Args:
        models: The names that a call may use as `model`.
    """
    return {
        "openapi": "3.1.0",
        "info": {"title": "agentopt serve", "version": "1"},
        "paths": {
            "/v1/chat/completions": {"post": _call("Answer a conversation", "ChatCall", "ChatCompletion")},
            "/v1/responses": {"post": _call("Answer a conversation (Responses API)", "ResponsesCall", "Response")},
            "/v1/models": {"get": _read("List the models", _json(_reference("ModelList")), 401, 403)},
            "/v1/models/{model}": {
                "get": _read("Show a model", _json(_reference("Model")), 401, 403, 404),
                "parameters": [{"name": "model", "in": "path", "required": True, "schema": TEXT}],
            },
            "/metrics": {"get": _read("Metrics in the Prometheus format", {"text/plain": {"schema": TEXT}}, 401, 403)},
            "/openapi.json": {"get": _read("This document", _json(OBJECT), 401, 403)},
            "/healthz": {"get": {**_read("Whether the server lives", _json(_status("ok"))), "security": []}},
            "/readyz": {"get": _ready()},
        },
        "components": {"schemas": _schemas(models), "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}, {}],
    }


def _call(summary: str, body: str, answer: str) -> dict[str, Any]:
    content = _json(_reference(answer))
    content["text/event-stream"] = {"schema": TEXT}
    headers = {"x-agentopt-candidate": {"description": "Key of the candidate that answered.", "schema": TEXT}}
    budget = {"name": "agentopt-max-usd", "in": "header", "description": "Most USD on average.", "schema": TEXT}
    return {
        "summary": summary,
        "parameters": [budget],
        "requestBody": {"required": True, "content": _json(_reference(body))},
        "responses": {
            "200": {"description": "The answer.", "content": content, "headers": headers},
            "404": _refusal("There is no such model."),
            **{str(status): _refusal(meaning) for status, meaning in REFUSALS.items()},
        },
    }


def _read(summary: str, content: dict[str, Any], *refusals: int) -> dict[str, Any]:
    meanings = {**REFUSALS, 404: "There is no such model."}
    refused = {str(status): _refusal(meanings[status]) for status in refusals}
    return {"summary": summary, "responses": {"200": {"description": summary, "content": content}, **refused}}


def _ready() -> dict[str, Any]:
    reasons = {"type": "string", "enum": ["draining", "no_api_key", "cap_reached"]}
    body = {"type": "object", "properties": {"status": TEXT, "reason": reasons}, "required": ["status", "reason"]}
    found = _read("Whether calls can be answered now", _json(_status("ready")))
    found["responses"]["503"] = {"description": "No call can be answered.", "content": _json(body)}
    return {**found, "security": []}


def _status(value: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"status": {"const": value}}, "required": ["status"]}


def _refusal(meaning: str) -> dict[str, Any]:
    return {"description": meaning, "content": _json(_reference("Error"))}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas(models: Sequence[str]) -> dict[str, Any]:
    model = {"type": "string", "examples": list(models)}
    sampling = {
        "model": model,
        "stream": {"type": ["boolean", "null"]},
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
        "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
    }
    message = _object({"role": {"enum": ["system", "developer", "user", "assistant", "tool"]}, "content": {}}, "role")
    count = {"type": ["integer", "null"], "minimum": 1, "maximum": MOST_CHOICES}
    chat = {**sampling, "n": count, "messages": {"type": "array", "minItems": 1, "items": message}}
    error = {"message": TEXT, "type": TEXT, "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]}}
    listed = _object({"id": model, "object": {"const": "model"}, "created": COUNT, "owned_by": TEXT}, "id", "object")
    head = {"id": TEXT, "object": TEXT, "model": TEXT}
    usage = _object({"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT})
    choices = {"type": "array", "items": OBJECT}
    return {
        "ChatCall": _object(chat, "model", "messages"),
        "ResponsesCall": _object({**sampling, "input": {"type": ["string", "array"]}, "instructions": {}}, "model"),
        "ChatCompletion": _object({**head, "choices": choices, "usage": usage}, *head, "choices", "usage"),
        "Response": _object({**head, "status": TEXT, "output": choices, "usage": OBJECT}, *head, "status", "output"),
        "Model": listed,
        "ModelList": _object({"object": {"const": "list"}, "data": {"type": "array", "items": listed}}, "data"),
        "Error": _object({"error": _object(error, *error)}, "error"),
    }


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}
