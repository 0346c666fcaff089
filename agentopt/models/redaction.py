"""Redacts API keys and other secrets from messages."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from agentopt.models.catalog import ModelSpec

REDACTED = "[key]"
"""Replaces a secret in a message."""

SHORTEST = 8
"""Characters of the shortest secret: servers on this machine have keys such as `x`, `none` or `EMPTY`."""


def secrets_in(environ: Mapping[str, str], *keys: str | None) -> tuple[str, ...]:
    """Return the values to redact: `keys`, and every environment variable that looks like a key.

    Client libraries read some variables themselves, so these are secrets even if the catalogue does not name them.

    Args:
        environ: Environment variables. Names ending in `_KEY`, `_TOKEN` or `_SECRET` hold secrets.
        *keys: Further secrets; None is ignored, and so is one with less than `SHORTEST` characters.

    Returns:
        The secrets, longest first.
    """
    named = [value for name, value in environ.items() if name.endswith(("_KEY", "_TOKEN", "_SECRET"))]
    # Redacting a short value would hit ordinary words; no provider has keys that short.
    found = {value for value in (*named, *keys) if value and len(value) >= SHORTEST}
    return tuple(sorted(found, key=len, reverse=True))


def secrets_of(specs: Iterable[ModelSpec], environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return `secrets_in` plus the keys of these catalogue entries, whatever the names of their variables."""
    return secrets_in(environ, *(environ.get(spec.api_key_env) for spec in specs if spec.api_key_env))


def redact(text: str, secrets: Iterable[str]) -> str:
    """Replace every secret in `text`.

    Args:
        text: A message.
        secrets: Secrets in the order of `secrets_in`: a longer one may contain a shorter one.
    """
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return text
