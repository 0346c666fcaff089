"""Tests which parameters an endpoint accepts, with real calls."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentopt.core.errors import ModelError
from agentopt.models.base import Message, Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.client import ModelClient
from agentopt.models.request_fitting import refused_at

CHECK_TOKENS = 256
"""Enough for a short thought."""
QUESTION = "What is the capital of France? Answer with one word."
SCHEMA = (
    '{"type":"object","properties":{"answer":{"type":"string"}},"required":["answer"],"additionalProperties":false}'
)
TOOL = (
    '{"type":"function","function":{"name":"capital_of","description":"Returns the capital of a country",'
    '"parameters":{"type":"object","properties":{"country":{"type":"string"}},"required":["country"]}}}'
)
PROBES: Mapping[str, Mapping[str, Any]] = {
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.9},
    "seed": {"seed": 1},
    "stop": {"stop": ("\n\n",)},
    "json_schema": {"json_schema": SCHEMA},
    "system_role": {"messages": (Message("system", "Answer briefly."), Message("user", QUESTION))},
    "tools": {"tools": (TOOL,)},
}
"""Ability -> the request's fields that test it."""


def check_request(model: str) -> Request:
    """Return the request of a check: with a new repeat index, so that the journal has no response to it."""
    return Request(
        model, (Message("user", QUESTION),), CHECK_TOKENS, first_repeat=time.time_ns() % 2**31, purpose="check"
    )


def declared(spec: ModelSpec) -> dict[str, bool]:
    """Return ability -> whether the model has it, of those that its entry or the bundled table declares.

    Args:
        spec: The entry.
    """
    found = {ability: getattr(spec.supports, ability) for ability in PROBES}
    if found["json_schema"] is None and not spec.json_schema:
        found["json_schema"] = False
    return {ability: answer for ability, answer in found.items() if answer is not None}


async def probe(client: ModelClient, model: str) -> dict[str, bool | str]:
    """Send one request for each ability that is not declared.

    Args:
        client: The client of a session.
        model: Catalogue name.

    Returns:
        Ability -> whether the endpoint accepts it, or the message of another failure.
    """
    spec = client.spec(model)
    found: dict[str, bool | str] = {}
    for ability, fields in PROBES.items():
        if ability in declared(spec):
            continue
        try:
            await client.generate(replace(check_request(model), **fields))
            found[ability] = ability not in refused_at(client.refused(model), spec.reasoning_effort)
        except ModelError as error:
            found[ability] = False if ability == "tools" else str(error)
    return found
