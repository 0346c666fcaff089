"""Owns what no message may show: keys of providers, and how they are struck out of a text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from agentopt.models.catalog import ModelSpec

STRUCK = "[key]"
"""What stands where a key was."""


def secrets_in(environ: Mapping[str, str], *keys: str | None) -> tuple[str, ...]:
    """What no message may show: these keys, and every other key a provider's library may read by itself."""
    named = [value for name, value in environ.items() if name.endswith(("_KEY", "_TOKEN", "_SECRET"))]
    # A short value would strike out ordinary words; no provider's key is that short.
    found = {value for value in named if len(value) >= 8} | {key for key in keys if key}
    return tuple(sorted(found, key=len, reverse=True))


def secrets_of(specs: Iterable[ModelSpec], environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """`secrets_in` with the keys of these catalogue entries, whatever their variables are called."""
    return secrets_in(environ, *(environ.get(spec.api_key_env) for spec in specs if spec.api_key_env))


def redact(text: str, secrets: Iterable[str]) -> str:
    """The text with every secret struck out, longer ones first where `secrets` are in the order of `secrets_in`."""
    for secret in secrets:
        text = text.replace(secret, STRUCK)
    return text
