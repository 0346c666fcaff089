"""Finds the API keys of catalogue entries in environment variables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from agentopt.core.errors import CatalogError
from agentopt.models.catalog import ModelSpec, fits_header


def key_of(spec: ModelSpec, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the API key of an entry, trimmed; None if it names no variable.

    Raises:
        CatalogError: The variable is not set, or its value cannot be sent in an HTTP header.
    """
    if spec.api_key_env is None:
        return None
    if key := environ.get(spec.api_key_env, "").strip():
        return _checked_key(key, spec.api_key_env)
    raise CatalogError(
        f"the model {spec.name!r} takes its key from the environment variable {spec.api_key_env}, which is not set",
        remedy=f"export {spec.api_key_env}=..., or choose another model",
    )


def unset_keys(specs: Iterable[ModelSpec], environ: Mapping[str, str] = os.environ) -> dict[str, list[str]]:
    """Find the variables of keys that are not set.

    Args:
        specs: The models.
        environ: Environment variables.

    Returns:
        Variable -> names of its models.
    """
    unset: dict[str, list[str]] = {}
    for spec in specs:
        if spec.api_key_env and not environ.get(spec.api_key_env, "").strip():
            unset.setdefault(spec.api_key_env, []).append(spec.name)
    return unset


def _checked_key(key: str, source: str) -> str:
    for position, character in enumerate(key):
        if not fits_header(character):
            raise CatalogError(
                f"an API key must be printable ASCII without spaces, but the value of {source} has the character "
                f"U+{ord(character):04X} at position {position}",
                remedy="copy the key again; it is often a line break, a space or a typographic dash from a web page",
            )
    return key
